"""A ComfyUI MODEL for refdiff's `Reader`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from PIL import Image
from torch import Tensor

from ..refdiff.attention.backend import Embeds, Shown, Words
from ..refdiff.attention.capture import CaptureSettings
from ..refdiff.attention.maps import AttentionRecorder
from ..refdiff.attention.reader import Reader
from ..refdiff.families import Family
from .passes import keys_of, run_observed
from .text import TextReader
from .unet import (
    CELL,
    WAY_UP,
    check_model,
    check_settings,
    check_text,
    check_vae,
    deepest_stride,
    family,
    native_side,
    private_clone,
    strides_of,
    train_timesteps,
    weight_hooks,
)


class ComfyCapture(Reader["ComfyBackend"]):
    """Reads the words of a sentence out of a Stable Diffusion 1, 2 or XL model of ComfyUI.

    Arguments as those of ComfyBackend; settings as in CaptureSettings. Raises ModelError for other
    models, ValueError for settings that this MODEL and CLIP cannot keep.
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
    ) -> None:
        super().__init__(ComfyBackend(model, clip, vae, keep_patches, prompt_weights), settings)


class ComfyBackend:
    """A MODEL, CLIP and VAE as a checkpoint loader gives them, as refdiff's `Backend` says.

    keep_patches: let patches on the MODEL (IP-Adapter and the like) act on our passes too; LoRAs
    always do. prompt_weights: as in TextReader.
    """

    way_up = WAY_UP

    def __init__(
        self, model: Any, clip: Any, vae: Any, keep_patches: bool, prompt_weights: bool
    ) -> None:
        check_model(model)
        self.model, self.clip, self.vae = model, clip, vae
        self._keep_patches, self._prompt_weights = keep_patches, prompt_weights
        self._unet = model.model.diffusion_model

    @property
    def family(self) -> Family:
        return family(self.model)

    @property
    def native(self) -> int:
        return native_side(self.model)

    @property
    def multiple(self) -> int:
        return CELL * deepest_stride(self._unet)

    @property
    def levels(self) -> int:
        return train_timesteps(self.model.get_model_object("model_sampling"))

    @property
    def latents(self) -> tuple[Any, ...]:
        """What of the MODEL decides about a picture's latent."""
        kind = self.model.get_model_object("latent_format")
        return type(kind), getattr(kind, "scale_factor", None)

    def layers(self) -> dict[str, int]:
        return strides_of(self._unet)

    def check(self, settings: CaptureSettings) -> None:
        check_settings(self.model, self.clip, settings, self._keep_patches)

    @contextmanager
    def session(self) -> Iterator[None]:
        """ComfyUI runs one node at a time and manages its memory itself."""
        throw_exception_if_processing_interrupted()
        yield

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """The mean of the VAE's posterior."""
        kind = self.model.get_model_object("latent_format")
        check_vae(self.vae, kind)
        pixels = torch.from_numpy(np.stack([np.array(image) for image in images])).float() / 255
        return kind.process_in(self.vae.encode(pixels).float().cpu())

    def words(self, text: str) -> Words:
        return TextReader(self.clip, self._prompt_weights).words(text)

    def embed(self, texts: Sequence[str], columns: int, clip_skip: int = 0) -> Embeds:
        """The texts, each encoded by itself; an empty one comes again until it fills `columns`."""
        reader = TextReader(self.clip, self._prompt_weights, clip_skip)
        once = {text: reader(text) if text else reader.empty(columns) for text in texts}
        told = [once[text] for text in texts]
        extra = dict(told[0].extra)
        pooled = None
        if extra.pop("pooled_output", None) is not None:
            pooled = torch.cat([text.extra["pooled_output"] for text in told])
        if "hooks" in extra and not self._keep_patches:
            extra["hooks"] = weight_hooks(extra["hooks"])
        return Embeds(torch.cat([text.cond for text in told]), pooled, extra)

    def run(
        self,
        shown: Shown,
        embeds: Embeds,
        recorders: Sequence[AttentionRecorder],
        guidance: float | None,
    ) -> None:
        model = private_clone(self.model, self._keep_patches)
        check_text(model, embeds.states)
        run_observed(model, shown, embeds, recorders, guidance)

    def keys(self, layers: Collection[str], embeds: Embeds) -> Mapping[str, Tensor]:
        return keys_of(private_clone(self.model, self._keep_patches), layers, embeds.states)
