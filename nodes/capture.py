"""Cross-attention of a ComfyUI MODEL: picture and sentences in, token maps out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from PIL import Image
from torch import Tensor

from ..refdiff.attention import AttentionRecorder, TokenMaps, spoken
from ..refdiff.capture import CaptureSettings, EncodedPicture, answer, fit, gathered, per_view
from ..refdiff.noise import View
from .passes import Shown, keys_of, look
from .text import EncodedText, TextReader
from .unet import (
    check_model,
    check_settings,
    check_text,
    check_vae,
    deepest_stride,
    native_side,
    private_clone,
    train_timesteps,
    wanted_layers,
    weight_hooks,
)

ROWS = 8
"""Most rows of one pass, so that memory does not grow with the sentences."""
OFFICIAL_SUFFIX = ", "  # the authors' code appends an empty additional prompt
Maps = dict[str, Tensor]  # layer, and call where there are several -> [P, T, h, w] on the CPU


class ComfyCapture:
    """Reads the words of a sentence out of a Stable Diffusion 1, 2 or XL model of ComfyUI.

    model, clip, vae: what a checkpoint loader gives; they are as they were after every call.
    keep_patches: let patches on the MODEL (IP-Adapter and the like) act on this pass too; LoRAs
    always do. prompt_weights: as in TextReader. Raises ModelError for other models, ValueError
    for settings that this MODEL and CLIP cannot keep.
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
        check_model(model)
        self.model, self.clip, self.vae = model, clip, vae
        self.settings = settings or CaptureSettings()
        check_settings(model, clip, self.settings, keep_patches)
        self._keep_patches, self._prompt_weights = keep_patches, prompt_weights
        self._unet = model.model.diffusion_model
        self.layers = wanted_layers(self._unet, self.settings)
        self._kept: WeakKeyDictionary[EncodedPicture, list[AttentionRecorder]]
        self._kept = WeakKeyDictionary()

    def __call__(self, image: Image.Image | EncodedPicture, prompt: str) -> TokenMaps:
        """The maps of one sentence over one picture."""
        picture = image if isinstance(image, EncodedPicture) else self.encode(image)
        return self.read(picture, [prompt])[0]

    def using(self, settings: CaptureSettings) -> ComfyCapture:
        """The same model under other settings."""
        if settings == self.settings:
            return self
        models = self.model, self.clip, self.vae
        weights = self._prompt_weights
        return ComfyCapture(*models, settings, self._keep_patches, prompt_weights=weights)

    @property
    def native(self) -> int:
        """The side in pixels of the square pictures the model was trained on."""
        return native_side(self.model)

    @property
    def fitting(self) -> tuple[Any, ...]:
        """Everything besides picture and VAE that decides about the latent of a picture."""
        latents = self.model.get_model_object("latent_format")
        scale = type(latents), getattr(latents, "scale_factor", None)
        settings = self.settings
        return (*scale, self.native, deepest_stride(self._unet), settings.size, settings.pad)

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
        settings = self.settings
        suffix = OFFICIAL_SUFFIX if settings.schedule == "official" else ""
        reader = TextReader(self.clip, self._prompt_weights, settings.clip_skip)
        texts = [reader(prompt + suffix) for prompt in prompts]
        if settings.queries != "own" and texts and picture not in self._kept:
            asking = texts[0] if settings.queries == "first" else reader("")
            _, self._kept[picture] = self._pass(picture, [asking], reader, ())
        maps: dict[int, TokenMaps] = {}
        most = max(1, ROWS // (len(self._views()) * settings.halves))
        for group in _groups([len(text.tokens) for text in texts], most):
            alike = [texts[index] for index in group]
            columns = spoken(text.spans for text in alike)
            found = self._answers(picture, alike, reader, columns)
            for row, index in enumerate(group):
                maps[index] = answer(
                    {layer: rows[row] for layer, rows in found.items()},
                    columns,
                    texts[index].tokens,
                    texts[index].spans,
                    prompts[index],
                    settings.mode,
                    picture.content,
                )
        return [maps[index] for index in range(len(texts))]

    def _views(self) -> tuple[View, ...]:
        sampling = self.model.get_model_object("model_sampling")
        return self.settings.views(train_timesteps(sampling))

    def _answers(
        self,
        picture: EncodedPicture,
        texts: list[EncodedText],
        reader: TextReader,
        columns: Sequence[int],
    ) -> Maps:
        """These columns' maps of P sentences of one length, from a pass or the kept queries."""
        if self.settings.queries == "own":
            return self._pass(picture, texts, reader, columns)[0]
        model = private_clone(self.model, self._keep_patches)
        keys = keys_of(model, self.layers, self._told(texts, reader)[0])
        maps: Maps = {}
        for call, kept in enumerate(self._kept[picture]):
            asked = AttentionRecorder(self.layers, self.settings.mode)
            for layer, key in keys.items():
                asked.maps[layer] = kept.score(layer, key, self.settings.halves, columns)
            maps |= gathered(asked, self.settings, self._views(), call)
        return maps

    def _pass(
        self,
        picture: EncodedPicture,
        texts: list[EncodedText],
        reader: TextReader,
        columns: Sequence[int],
    ) -> tuple[Maps, list[AttentionRecorder]]:
        """A pass over P sentences of one length: their maps, and the recorder of each call."""
        settings, views = self.settings, self._views()
        model = private_clone(self.model, self._keep_patches)
        cond, extra = self._told(texts, reader, len(views))
        check_text(model, cond)
        sampling = model.get_model_object("model_sampling")
        shown = Shown.of(picture.latent, views, sampling, len(texts), settings.halves)
        keep = settings.queries != "own"
        recorders = [
            AttentionRecorder(self.layers, settings.mode, columns, keep)
            for _ in views[0].schedule.calls
        ]
        look(model, shown, cond, extra, recorders, self.layers, settings.guidance)
        maps: Maps = {}
        for call, recorder in enumerate(recorders):
            maps |= gathered(recorder, settings, views, call)
        return maps, recorders

    def _told(
        self, texts: list[EncodedText], reader: TextReader, views: int = 1
    ) -> tuple[Tensor, dict[str, Any]]:
        """Texts of one length as a conditioning, after empty ones where there is guidance."""
        halves = self.settings.halves
        if halves == 2:
            texts = [reader.empty(len(texts[0].tokens))] * len(texts) + texts
        extra = dict(texts[0].extra)
        if "pooled_output" in extra:
            pooled = torch.cat([text.extra["pooled_output"] for text in texts])
            extra["pooled_output"] = per_view(pooled, halves, views)
        if "hooks" in extra and not self._keep_patches:
            extra["hooks"] = weight_hooks(extra["hooks"])
        return per_view(torch.cat([text.cond for text in texts]), halves, views), extra


def _groups(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The sentences that share a pass: of one length, and `most` at most."""
    for length in sorted(set(lengths)):
        alike = [index for index, other in enumerate(lengths) if other == length]
        for first in range(0, len(alike), most):
            yield alike[first : first + most]
