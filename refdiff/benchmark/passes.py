"""The UNet's work: a plain pass, and the part of a capture's reading that is not the text encoder.

Sizes are sides of square pictures in pixels; nothing here needs a real picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..attention import AttentionRecorder
from ..capture import Capture, EncodedPicture
from ..hooks import layer_table, recording
from ..noise import noise
from .clock import clocked, seconds


def latent_of(pipe: Any, side: int) -> EncodedPicture:
    """A random picture as the UNet sees it."""
    cells = side // pipe.vae_scale_factor
    return EncodedPicture(
        noise(0, (1, pipe.vae.config.latent_channels, cells, cells)), (side, side)
    )


def plain_pass(pipe: Any, side: int, rows: int = 1) -> Callable[[], Tensor]:
    """A call that runs the whole UNet on `rows` random latents and texts: [rows, C, h, w]."""
    unet = pipe.unet
    like = {"device": unet.device, "dtype": unet.dtype}
    sample = latent_of(pipe, side).latent.to(**like).expand(rows, -1, -1, -1)
    text = noise(1, (rows, 77, unet.config.cross_attention_dim)).to(**like)
    added = None
    if unet.config.addition_embed_type == "text_time":
        pooled = pipe.text_encoder_2.config.projection_dim
        added = {
            "text_embeds": noise(2, (rows, pooled)).to(**like),
            "time_ids": torch.tensor([[side, side, 0, 0, side, side]], **like).expand(rows, -1),
        }
    at = torch.tensor(100, device=unet.device)

    @torch.no_grad()
    def run() -> Tensor:
        return unet(sample, at, text, added_cond_kwargs=added, return_dict=False)[0]

    return run


def unet_part(pipe: Any, capture: Capture, picture: EncodedPicture, texts: Sequence[str]) -> float:
    """Seconds of reading the texts' maps, without the text encoders': noise, UNet, reduction."""
    with clocked({"text": text_encoders(pipe)}, pipe.unet.device) as spent:
        total = seconds(lambda: capture.read(picture, texts), pipe.unet.device)
    return total - spent["text"]


def text_encoders(pipe: Any) -> list[nn.Module]:
    """One, or SDXL's two."""
    both = (getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2"))
    return [encoder for encoder in both if encoder is not None]


def traced_step(pipe: Any, side: int) -> Callable[[], Tensor]:
    """A call that samples one guided step and traces its words as DAAM does: [77, h, w].

    DAAM (arXiv 2210.04885) sums the softmax maps of every cross-attention, enlarged to the latent,
    over the steps. Its own processors hold all heads' maps at once and are slower than this.
    """
    unet = pipe.unet
    layers = [name for name, _ in layer_table(unet)]
    cells = side // pipe.vae_scale_factor
    step = plain_pass(pipe, side, rows=2)

    @torch.no_grad()
    def run() -> Tensor:
        recorder = AttentionRecorder(layers)
        with recording(unet, recorder, (cells, cells)):
            step()
        size = (cells, cells)
        large = (interpolate(maps[1:], size, mode="bicubic") for maps in recorder.maps.values())
        return torch.stack([maps[0].clamp(min=0) for maps in large]).sum(0)

    return run
