"""The UNets of diffusers pipelines, for a `Reader`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ModelError
from ..families import Family, family_of
from .backend import Embeds, Shown, Words
from .capture import CaptureSettings, asked_layers
from .hooks import alone, keys_of, layer_table
from .maps import AttentionRecorder
from .prompt_chunks import prompt_chunks, window_of
from .reader import Reader
from .text_encoding import encode_texts
from .unet_pass import run

LARGEST_SIDE = 8192  # pixels of the pictures that a model was trained on
WAY_UP = "up_blocks"
"""How the names of the layers on the way up begin."""


class DiffusersCapture(Reader["DiffusersBackend"]):
    """Reads the words of a sentence out of a Stable Diffusion 1, 2 or XL pipeline.

    pipe: text-to-image, image-to-image or inpainting; it is as it was after every call.
    settings, or single settings by name, as in CaptureSettings. Device and dtype are the pipe's.
    """

    def __init__(self, pipe: Any, settings: CaptureSettings | None = None, **changes: Any) -> None:
        super().__init__(DiffusersBackend(pipe), settings, **changes)


class DiffusersBackend:
    """A Stable Diffusion 1, 2 or XL pipeline of diffusers, as `Backend` says."""

    way_up = WAY_UP

    def __init__(self, pipe: Any) -> None:
        check_pipeline(pipe)
        self.pipe = pipe

    @property
    def family(self) -> Family:
        return family_of(self.pipe.unet.config)

    @property
    def native(self) -> int:
        return native_side(self.pipe)

    @property
    def multiple(self) -> int:
        deepest = 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)
        return int(self.pipe.vae_scale_factor * deepest)

    @property
    def levels(self) -> int:
        return int(self.pipe.scheduler.config.num_train_timesteps)

    def layers(self) -> dict[str, int]:
        return strides_of(self.pipe.unet, self.pipe.vae_scale_factor)

    def check(self, settings: CaptureSettings) -> None:
        """Nothing: these pipelines keep all settings."""

    @contextmanager
    def session(self) -> Iterator[None]:
        with alone(self.pipe.unet), _offloaded(self.pipe):
            yield

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """The mean of the VAE's posterior."""
        stacked = torch.from_numpy(np.stack([np.array(image) for image in images]))
        pixels = stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
        return vae_mean(self.pipe.vae, pixels.to(self.pipe._execution_device)).float().cpu()

    def words(self, text: str) -> Words:
        found = prompt_chunks(self.pipe.tokenizer, text)
        return Words(found.tokens, found.spans)

    def embed(self, texts: Sequence[str], columns: int, clip_skip: int = 0) -> Embeds:
        least = columns // window_of(self.pipe.tokenizer)
        return encode_texts(self.pipe, texts, clip_skip, max(1, least))

    def run(
        self,
        shown: Shown,
        embeds: Embeds,
        recorders: Sequence[AttentionRecorder],
        guidance: float | None,
    ) -> None:
        run(self.pipe, shown, embeds, recorders, guidance)

    def keys(self, layers: Collection[str], embeds: Embeds) -> Mapping[str, Tensor]:
        return {layer: keys_of(self.pipe.unet, layer, embeds.states) for layer in layers}


@contextmanager
def _offloaded(pipe: Any) -> Iterator[None]:
    """Afterwards, send the models back to where `enable_model_cpu_offload` keeps them."""
    try:
        yield
    finally:
        if getattr(pipe, "_all_hooks", None):
            pipe.maybe_free_model_hooks()


def strides_of(unet: Any, cell: int = 8) -> dict[str, int]:
    """Every cross-attention, and the pixels of the picture between its places.

    cell: pixels a latent cell.
    """
    return {name: cell * stride for name, stride in layer_table(unet)}


def wanted_layers(unet: Any, settings: CaptureSettings, cell: int = 8) -> dict[str, int]:
    """Those of a UNet's layers, and their strides, that the settings ask for."""
    return asked_layers(strides_of(unet, cell), settings, WAY_UP)


def native_side(pipe: Any) -> int:
    """The side in pixels of a pipeline's square pictures; ModelError where it is none."""
    sample = pipe.unet.config.sample_size
    sides = [sample, sample] if isinstance(sample, int) else sample
    good = isinstance(sides, list | tuple) and len(sides) == 2
    if good and all(type(side) is int and side > 0 for side in sides):
        native = round((sides[0] * sides[1]) ** 0.5) * pipe.vae_scale_factor
        if native <= LARGEST_SIDE:
            return native
    raise ModelError(
        f"{type(pipe).__name__}'s UNet gives sample_size {sample!r} (cells of "
        f"{pipe.vae_scale_factor} pixels), wanted a picture of at most {LARGEST_SIDE} pixels a "
        "side; mend its config.json."
    )


def check_pipeline(pipe: Any) -> None:
    """Raise ModelError unless this is a pipeline whose words can be read, and say why not."""
    from diffusers import UNet2DConditionModel

    name = type(pipe).__name__
    wanted = "pass a Stable Diffusion 1, 2 or XL pipeline (text-to-image or inpainting)."
    unet: Any = getattr(pipe, "unet", None)
    if not isinstance(getattr(unet, "_orig_mod", unet), UNet2DConditionModel):  # not compiled
        raise ModelError(f"{name} has no UNet2DConditionModel to read words from; {wanted}")
    latents = pipe.vae.config.latent_channels
    if unet.config.in_channels not in (latents, 2 * latents + 1):
        raise ModelError(f"{name}'s UNet takes {unet.config.in_channels} channels; {wanted}")
    extra = unet.config.addition_embed_type
    hidden = unet.config.encoder_hid_dim_type
    plain = extra in (None, "text_time") and hidden in (None, "ip_image_proj")
    if not plain or unet.config.class_embed_type is not None:
        raise ModelError(f"{name}'s UNet wants inputs beyond picture and text; {wanted}")
    encoders = ("text_encoder", "text_encoder_2")[: 2 if extra else 1]
    if any(getattr(pipe, encoder, None) is None for encoder in encoders):
        raise ModelError(f"{name} lacks its {' or '.join(encoders)}; {wanted}")
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise ModelError(
            f"{type(pipe.scheduler).__name__} has no alphas to noise a picture with; "
            "give the pipeline a DDIM, PNDM, Euler or DPM scheduler."
        )
    if not layer_table(unet):
        raise ModelError(f"{name}'s UNet has no cross-attention; {wanted}")
    native_side(pipe)
    scale = pipe.vae.config.scaling_factor
    if not isinstance(scale, int | float) or not 0 < abs(scale) < float("inf"):
        raise ModelError(
            f"{name}'s VAE gives scaling_factor {scale!r}, wanted a number such as 0.18215; mend "
            "its config.json."
        )


def vae_mean(vae: Any, pixels: Tensor) -> Tensor:
    """The scaled latents [P, C, h, w] of pixels in [-1, 1]; in float32 if the VAE wants it."""
    dtype, config = vae.dtype, vae.config
    upcast = dtype == torch.float16 and getattr(config, "force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        encoded = vae.encode(pixels.to(vae.dtype))
    finally:
        if upcast:
            vae.to(dtype)
    has_posterior = hasattr(encoded, "latent_dist")
    latent = (encoded.latent_dist.mean if has_posterior else encoded.latents).float()
    means, deviations = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if means is not None and deviations is not None:
        mean, deviation = (
            latent.new_tensor(each).view(1, -1, 1, 1) for each in (means, deviations)
        )
        latent = (latent - mean) / deviation
    shift = getattr(config, "shift_factor", None) or 0.0
    return (latent - shift) * config.scaling_factor
