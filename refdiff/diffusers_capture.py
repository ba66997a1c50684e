"""Cross-attention of a diffusers pipeline: picture and sentences in, token maps out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .attention import AttentionRecorder, TokenMaps, spoken
from .capture import CaptureSettings, EncodedPicture, answer, asked_layers, fit
from .errors import ModelError
from .hooks import layer_table
from .text_encoding import Text, encode_texts
from .tokens import Windows, windows
from .unet_pass import ask, read_pass

OFFICIAL_SUFFIX = ", "  # the authors' code appends an empty additional prompt
_ROWS = 8  # most rows of one call of the UNet, so that memory does not grow with the sentences


@dataclass(frozen=True, eq=False)
class _Sentence:
    """One row of the answer: a sentence over a picture."""

    picture: EncodedPicture
    prompt: str
    words: Windows

    @property
    def shape(self) -> tuple[int, ...]:
        """What rows of one call share: the size of the latent and the number of windows."""
        return (*self.picture.latent.shape, len(self.words.ids))


class DiffusersCapture:
    """Reads the words of a sentence out of a Stable Diffusion 1, 2 or XL pipeline.

    pipe: text-to-image, image-to-image or inpainting; it is as it was after every call.
    settings, or single settings by name, as in CaptureSettings. Device and dtype are the pipe's.
    With kept queries (`queries`) they stay with the EncodedPicture, 7 MB for SD1.5 at 512 px; they
    carry the words of the sentence that made them, so the maps of others are not quite their own.
    """

    def __init__(self, pipe: Any, settings: CaptureSettings | None = None, **changes: Any) -> None:
        check_pipeline(pipe)
        self.pipe = pipe
        self.settings = replace(settings or CaptureSettings(), **changes)
        self.layers = wanted_layers(pipe.unet, self.settings)
        self.times = {"vae": 0.0, "text": 0.0, "unet": 0.0}  # seconds, last encode and last read
        self._kept: WeakKeyDictionary[EncodedPicture, list[AttentionRecorder]]
        self._kept = WeakKeyDictionary()

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
        self.times["vae"] = 0.0
        with self._timed("vae"), _offloaded(self.pipe):
            latent = _vae_mean(self.pipe.vae, pixels.to(self.pipe._execution_device)).float().cpu()
        return EncodedPicture(latent, (image.height, image.width), content)

    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of several sentences over one picture."""
        return self.read_batch([picture], [prompts])[0]

    @torch.no_grad()
    def read_batch(
        self, pictures: Sequence[EncodedPicture], prompts: Sequence[Sequence[str]]
    ) -> list[list[TokenMaps]]:
        """The maps of each picture's own sentences, as rows of as few UNet calls as are needed.

        A row's maps do not depend on its company. Pictures of different sizes, and sentences of
        different numbers of windows, go into different calls.
        """
        self.times |= {"text": 0.0, "unet": 0.0}
        suffix = OFFICIAL_SUFFIX if self.settings.schedule == "official" else ""
        sentences = [
            [_Sentence(picture, text, windows(self.pipe.tokenizer, text + suffix)) for text in own]
            for picture, own in zip(pictures, prompts, strict=True)
        ]
        rows = sorted((each for own in sentences for each in own), key=lambda each: each.shape)
        found: dict[_Sentence, TokenMaps] = {}
        with _offloaded(self.pipe):
            for own in sentences if self.settings.queries != "own" else ():
                self._keep_queries(own, suffix)
            for _, alike in groupby(rows, key=lambda each: each.shape):
                found |= self._answers(list(alike), suffix)
        return [[found[each] for each in own] for own in sentences]

    def _answers(self, sentences: list[_Sentence], suffix: str) -> dict[_Sentence, TokenMaps]:
        """The maps of sentences that may share calls."""
        found = {}
        for part in self._parts(sentences):
            text = self._encoded([each.prompt + suffix for each in part], len(part[0].words.ids))
            columns = spoken(each.words.spans for each in part)
            if self.settings.queries == "own":
                clean = torch.cat([each.picture.latent for each in part])
                with self._timed("unet"):
                    maps, _ = read_pass(self.pipe, self.settings, self.layers, clean, text, columns)
            else:
                kept = self._kept[part[0].picture]
                maps = ask(self.pipe, self.settings, self.layers, kept, text, columns)
            for row, each in enumerate(part):
                found[each] = answer(
                    {layer: rows[row] for layer, rows in maps.items()},
                    columns,
                    each.words.tokens,
                    each.words.spans,
                    each.prompt,
                    self.settings.mode,
                    each.picture.content,
                )
        return found

    def _parts(self, sentences: list[_Sentence]) -> Iterator[list[_Sentence]]:
        """As many sentences as one call takes; those asked of kept queries picture by picture."""
        views = len(self.settings.views(self.pipe.scheduler.config.num_train_timesteps))
        most = max(1, _ROWS // (views * (1 if self.settings.guidance is None else 2)))
        own = self.settings.queries == "own"
        for _, group in groupby(sentences, key=lambda each: None if own else each.picture):
            part = list(group)
            yield from (part[first : first + most] for first in range(0, len(part), most))

    def _keep_queries(self, sentences: list[_Sentence], suffix: str) -> None:
        """On the first sentences over a picture, make the pass whose queries are kept of it."""
        if not sentences or sentences[0].picture in self._kept:
            return
        picture = sentences[0].picture
        text = sentences[0].prompt + suffix if self.settings.queries == "first" else ""
        encoded = self._encoded([text], 1)
        with self._timed("unet"):
            _, kept = read_pass(
                self.pipe,
                self.settings,
                self.layers,
                picture.latent,
                encoded,
                columns=(),
                keep_queries=True,
            )
        self._kept[picture] = kept

    def _encoded(self, texts: list[str], least: int) -> Text:
        """The texts, after as many empty ones where there is guidance, in `least` windows."""
        empty = [] if self.settings.guidance is None else [""] * len(texts)
        with self._timed("text"):
            return encode_texts(self.pipe, empty + texts, self.settings.clip_skip, least)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.times[stage] += time.perf_counter() - start


@contextmanager
def _offloaded(pipe: Any) -> Iterator[None]:
    """Afterwards, send the models back to where `enable_model_cpu_offload` keeps them."""
    try:
        yield
    finally:
        if getattr(pipe, "_all_hooks", None):
            pipe.maybe_free_model_hooks()


def wanted_layers(unet: Any, settings: CaptureSettings) -> tuple[str, ...]:
    """The names of the layers that the settings ask for."""
    return asked_layers(layer_table(unet), settings, "up_blocks")


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
