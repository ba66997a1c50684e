"""Cross-attention of a diffusers pipeline: picture and sentences in, token maps out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .attention import AttentionRecorder, Span, TokenMaps, guide
from .capture import CaptureSettings, EncodedPicture, choose_layers, fit, rows_of
from .errors import ModelError
from .hooks import check_all_seen, layer_table, recording
from .noise import ddim_step, noise, noised
from .tokens import token_spans

OFFICIAL_SUFFIX = ", "  # the authors' code appends an empty additional prompt


class DiffusersCapture:
    """Reads the words of a sentence out of a Stable Diffusion 1, 2 or XL pipeline.

    pipe: text-to-image, image-to-image or inpainting; it is as it was after every call.
    settings, or single settings by name, as in CaptureSettings. Device and dtype are the pipe's.
    """

    def __init__(self, pipe: Any, settings: CaptureSettings | None = None, **changes: Any) -> None:
        check_pipeline(pipe)
        self.pipe = pipe
        self.settings = replace(settings or CaptureSettings(), **changes)
        self.layers = choose_layers(layer_table(pipe.unet), self.settings.grids)

    def __call__(self, image: Image.Image | EncodedPicture, prompt: str) -> TokenMaps:
        """The maps of one sentence over one picture."""
        picture = image if isinstance(image, EncodedPicture) else self.encode(image)
        return self.read(picture, [prompt])[0]

    def using(self, settings: CaptureSettings) -> DiffusersCapture:
        """The same pipe under other settings."""
        return self if settings == self.settings else DiffusersCapture(self.pipe, settings)

    @property
    def native(self) -> int:
        """The side in pixels of the square pictures the model was trained on."""
        sample = self.pipe.unet.config.sample_size
        cells = sample if isinstance(sample, int) else round((sample[0] * sample[1]) ** 0.5)
        return cells * self._cell

    @property
    def _cell(self) -> int:
        """Pixels per latent cell."""
        return self.pipe.vae_scale_factor

    @torch.no_grad()
    def encode(self, image: Image.Image) -> EncodedPicture:
        """The mean of the VAE's posterior, at the working size; the picture's share of the work."""
        deepest = 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)
        multiple = self._cell * deepest
        native = max(1, round(self.native * self.settings.size / multiple)) * multiple
        fitted, content = fit(image, native, multiple, self.settings.pad)
        pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].float() / 127.5 - 1
        latent = _vae_mean(self.pipe.vae, pixels.to(self.pipe._execution_device))
        return EncodedPicture(latent.float().cpu(), (image.height, image.width), content)

    @torch.no_grad()
    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of several sentences over one picture, as rows of the same UNet calls."""
        if not prompts:
            return []
        suffix = OFFICIAL_SUFFIX if self.settings.schedule == "official" else ""
        pieces = [_pieces(self.pipe, prompt, suffix) for prompt in prompts]
        maps = self._maps(picture, [prompt + suffix for prompt in prompts])
        return [
            TokenMaps(
                maps=tuple(rows[index] for rows in maps.values()),
                layers=tuple(maps),
                tokens=tokens,
                spans=spans,
                text=prompt,
                mode=self.settings.mode,
                content=picture.content,
            )
            for index, (prompt, (tokens, spans)) in enumerate(zip(prompts, pieces, strict=True))
        ]

    def _maps(self, picture: EncodedPicture, prompts: list[str]) -> dict[str, Tensor]:
        """Per layer (and per call, where there are several) the maps [M, T, h, w] on the CPU."""
        scheduler, guidance = self.pipe.scheduler, self.settings.guidance
        plan = self.settings.plan(scheduler.config.num_train_timesteps)
        alphas = scheduler.alphas_cumprod.float().cpu()
        rows = prompts if guidance is None else [""] * len(prompts) + prompts
        text, added = _encode_text(self.pipe, rows, picture.latent.shape[-2:], self._cell)
        clean = picture.latent
        sample = noised(clean, noise(self.settings.seed, clean.shape), alphas[plan.noised])
        sample = sample.expand(len(rows), -1, -1, -1)
        maps: dict[str, Tensor] = {}
        for call, timestep in enumerate(plan.calls):
            recorder = AttentionRecorder(self.layers, self.settings.mode)
            with recording(self.pipe.unet, recorder, (clean.shape[2], clean.shape[3])):
                output = _predict(self.pipe, sample, clean, timestep, text, added)
            check_all_seen(recorder, self.layers)
            label = f"@{timestep}" if len(plan.calls) > 1 else ""
            maps |= rows_of(recorder, guidance, label)
            if call + 1 < len(plan.calls):
                output = _guided(output.float().cpu(), guidance)
                step = alphas[timestep], alphas[plan.calls[call + 1]]
                sample = ddim_step(sample, output, *step, scheduler.config.prediction_type)
        return maps


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
    if extra not in (None, "text_time") or unet.config.class_embed_type is not None:
        raise ModelError(f"{name}'s UNet wants inputs beyond picture and text; {wanted}")
    if extra == "text_time" and (pipe.text_encoder is None or pipe.text_encoder_2 is None):
        raise ModelError(f"{name} lacks one of SDXL's two text encoders; {wanted}")
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise ModelError(
            f"{type(pipe.scheduler).__name__} has no alphas to noise a picture with; "
            "give the pipeline a DDIM, PNDM, Euler or DPM scheduler."
        )
    if not layer_table(unet):
        raise ModelError(f"{name}'s UNet has no cross-attention; {wanted}")


def _pieces(pipe: Any, prompt: str, suffix: str) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """The prompt's tokens and the characters they cover; the suffix's tokens cover none."""
    text = prompt + suffix
    if getattr(pipe, "maybe_convert_prompt", lambda text, _: text)(text, pipe.tokenizer) != text:
        raise ModelError(
            f"{prompt!r} holds a learned word of several vectors, whose columns cannot be told; "
            "name the thing with an ordinary word."
        )
    tokens, spans = token_spans(pipe.tokenizer, text)
    return tokens, tuple(span if span and span[0] < len(prompt) else None for span in spans)


def _vae_mean(vae: Any, pixels: Tensor) -> Tensor:
    """The scaled latent [1, C, h, w] of pixels in [-1, 1]; in float32 where the VAE asks for it."""
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


def _encode_text(
    pipe: Any, rows: list[str], latent: Sequence[int], cell: int
) -> tuple[Tensor, dict[str, Tensor] | None]:
    """The text encoders' answer [R, T, C], and SDXL's pooled text and sizes."""
    device, unet = pipe._execution_device, pipe.unet
    encoded = pipe.encode_prompt(
        rows, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    text = encoded[0].to(unet.dtype)
    if unet.config.addition_embed_type is None:
        return text, None
    size = [latent[0] * cell, latent[1] * cell]
    ids = torch.tensor([[*size, 0, 0, *size]], device=device, dtype=unet.dtype)
    return text, {"text_embeds": encoded[2].to(unet.dtype), "time_ids": ids.expand(len(rows), -1)}


def _predict(
    pipe: Any,
    sample: Tensor,
    clean: Tensor,
    timestep: int,
    text: Tensor,
    added: dict[str, Tensor] | None,
) -> Tensor:
    """One pass of the UNet; an inpainting UNet is told that nothing is hidden."""
    unet, device = pipe.unet, pipe._execution_device
    if unet.config.in_channels > sample.shape[1]:
        clean = clean.expand_as(sample)
        sample = torch.cat([sample, torch.zeros_like(clean[:, :1]), clean], dim=1)
    at = torch.tensor(timestep, device=device)
    sample = sample.to(device, unet.dtype)
    return unet(sample, at, text, added_cond_kwargs=added, return_dict=False)[0]


def _guided(output: Tensor, guidance: float | None) -> Tensor:
    """The answer for each row, its unconditional rows (the first half) mixed in."""
    if guidance is None:
        return output
    uncond, cond = output.chunk(2)
    return guide(cond, uncond, guidance).repeat(2, 1, 1, 1)
