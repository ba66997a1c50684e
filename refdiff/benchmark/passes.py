"""The UNet's work: a plain pass, and the part of a capture's reading that is not the text encoder.

Sizes are sides of square pictures in pixels; nothing here needs a real picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..attention.capture import Capture, CaptureSettings, EncodedPicture
from ..attention.diffusers import DiffusersCapture
from ..attention.hooks import layer_table, recording
from ..attention.maps import AttentionRecorder, word_map
from ..attention.noise import noise
from ..families import PROFILES
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
    """Seconds of reading the texts' maps and spreading a word's heat, without the text encoders'.

    Noise, UNet, reduction, and two steps along the self-attention where the capture keeps any.
    """
    with clocked({"text": text_encoders(pipe)}, pipe.unet.device) as spent:
        total = seconds(lambda: heat_of(capture, picture, texts), pipe.unet.device)
    return total - spent["text"]


def heat_of(capture: Capture, picture: EncodedPicture, texts: Sequence[str]) -> list[Tensor]:
    """The heat of the last token of each text, spread where the capture keeps self-attention."""
    return [
        word_map(maps, [len(maps.tokens) - 1], spread="mean")
        for maps in capture.read(picture, texts)
    ]


def readings(pipe: Any) -> dict[str, CaptureSettings]:
    """Ways to read a UNet of Stable Diffusion 1's shape, by what each is called.

    ours: the two coarsest strides. down: the same, and the self-attention of the finest grid on the
    way down. published: the profile of Stable Diffusion 1 in `families`, whose self-attention
    stands on the way up. fast: ours on the way down alone.
    """
    strides = sorted({*DiffusersCapture(pipe).strides.values()}, reverse=True)
    ours = CaptureSettings(strides=tuple(strides[:2]))
    published = replace(CaptureSettings(**PROFILES["sd1"]["capture"]), places=strides[-1])
    if not set(published.strides or ()) & set(strides):  # the small one
        published = replace(published, strides=ours.strides)
    return {
        "ours": ours,
        "down": replace(ours, places=strides[-1], places_at=(0, 1)),
        "published": published,
        "fast": replace(ours, layers="down"),
    }


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
