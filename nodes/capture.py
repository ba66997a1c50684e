"""Cross-attention of a ComfyUI MODEL: picture and sentences in, token maps out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from PIL import Image
from torch import Tensor

from ..refdiff.attention import AttentionRecorder, TokenMaps
from ..refdiff.capture import CaptureSettings, EncodedPicture, choose_layers, fit, rows_of
from ..refdiff.noise import noise
from .passes import look
from .text import EncodedText, TextReader
from .unet import (
    check_model,
    check_text,
    check_vae,
    deepest_stride,
    layer_table,
    native_side,
    private_clone,
    sigma_at,
    train_timesteps,
)

ROWS = 8
"""Most sentences in one pass."""
OFFICIAL_SUFFIX = ", "  # the authors' code appends an empty additional prompt


class ComfyCapture:
    """Reads the words of a sentence out of a Stable Diffusion 1, 2 or XL model of ComfyUI.

    model, clip, vae: what a checkpoint loader gives; they are as they were after every call.
    keep_patches: let patches on the MODEL (IP-Adapter and the like) act on this pass too; LoRAs
    always do. prompt_weights, clip_skip: as in TextReader.
    """

    def __init__(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        settings: CaptureSettings | None = None,
        keep_patches: bool = False,
        *,
        prompt_weights: bool = False,
        clip_skip: bool = False,
    ) -> None:
        check_model(model)
        self.model, self.clip, self.vae = model, clip, vae
        self.settings = settings or CaptureSettings()
        self._keep_patches = keep_patches
        self._reading = {"prompt_weights": prompt_weights, "clip_skip": clip_skip}
        self._unet = model.model.diffusion_model
        self.layers = choose_layers(layer_table(self._unet), self.settings.grids)

    def __call__(self, image: Image.Image | EncodedPicture, prompt: str) -> TokenMaps:
        """The maps of one sentence over one picture."""
        picture = image if isinstance(image, EncodedPicture) else self.encode(image)
        return self.read(picture, [prompt])[0]

    def using(self, settings: CaptureSettings) -> ComfyCapture:
        """The same model under other settings."""
        if settings == self.settings:
            return self
        models = self.model, self.clip, self.vae
        return ComfyCapture(*models, settings, self._keep_patches, **self._reading)

    @property
    def native(self) -> int:
        """The side in pixels of the square pictures the model was trained on."""
        return native_side(self.model)

    @torch.no_grad()
    def encode(self, image: Image.Image) -> EncodedPicture:
        """The mean of the VAE's posterior, at the working size; the picture's share of the work."""
        throw_exception_if_processing_interrupted()
        latents = self.model.get_model_object("latent_format")
        check_vae(self.vae, latents)
        multiple = self.vae.spacial_compression_encode() * deepest_stride(self._unet)
        native = max(1, round(self.native * self.settings.size / multiple)) * multiple
        fitted, content = fit(image, native, multiple, self.settings.pad)
        pixels = torch.from_numpy(np.array(fitted))[None].float() / 255
        latent = latents.process_in(self.vae.encode(pixels).float().cpu())
        return EncodedPicture(latent, (image.height, image.width), content)

    @torch.no_grad()
    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of several sentences over one picture; those of one length share a pass."""
        suffix = OFFICIAL_SUFFIX if self.settings.schedule == "official" else ""
        reader = TextReader(self.clip, **self._reading)
        texts = [reader(prompt + suffix) for prompt in prompts]
        maps: dict[int, dict[str, Tensor]] = {}
        for group in _groups([len(text.tokens) for text in texts]):
            found = self._maps(picture, [texts[index] for index in group], reader)
            for row, index in enumerate(group):
                maps[index] = {layer: rows[row] for layer, rows in found.items()}
        return [
            self._token_maps(picture, prompt, text, maps[index])
            for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]

    def _token_maps(
        self, picture: EncodedPicture, prompt: str, text: EncodedText, maps: dict[str, Tensor]
    ) -> TokenMaps:
        return TokenMaps(
            maps=tuple(maps.values()),
            layers=tuple(maps),
            tokens=text.tokens,
            spans=tuple(s if s and s[0] < len(prompt) else None for s in text.spans),
            text=prompt,
            mode=self.settings.mode,
            content=picture.content,
        )

    def _maps(
        self, picture: EncodedPicture, texts: list[EncodedText], reader: TextReader
    ) -> dict[str, Tensor]:
        """Per layer (and per call, where there are several) the maps [M, T, h, w] on the CPU."""
        settings, model = self.settings, private_clone(self.model, self._keep_patches)
        if settings.guidance is not None:
            texts = [reader.empty(len(texts[0].tokens))] * len(texts) + texts
        cond = torch.cat([text.cond for text in texts])
        check_text(model, cond)
        pooled = None if texts[0].pooled is None else torch.cat([text.pooled for text in texts])
        sampling = model.get_model_object("model_sampling")
        plan = settings.plan(train_timesteps(sampling))
        recorders = [AttentionRecorder(self.layers, settings.mode) for _ in plan.calls]
        look(
            model,
            picture.latent,
            noise(settings.seed, picture.latent.shape),
            [sigma_at(sampling, timestep) for timestep in (plan.noised, *plan.calls)],
            cond,
            {"pooled_output": pooled},
            recorders,
            self.layers,
            settings.guidance,
        )
        maps: dict[str, Tensor] = {}
        for timestep, recorder in zip(plan.calls, recorders, strict=True):
            label = f"@{timestep}" if len(plan.calls) > 1 else ""
            maps |= rows_of(recorder, settings.guidance, label)
        return maps


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The sentences that share a pass: of one length, and ROWS at most."""
    for length in sorted(set(lengths)):
        alike = [index for index, other in enumerate(lengths) if other == length]
        for first in range(0, len(alike), ROWS):
            yield alike[first : first + ROWS]
