"""Masks of words while a picture is made: the sampler's own passes are watched, none is added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..attention.capture import prompt_maps
from ..attention.diffusers import check_pipeline, wanted_layers
from ..attention.hooks import recording
from ..attention.known_maps import KnownMaps
from ..attention.maps import AttentionRecorder, TokenMaps, word_columns
from ..attention.prompt_chunks import prompt_chunks
from ..errors import ModelError
from ..expression import parse, with_root
from ..families import family_of
from ..pipeline import Look
from ..result import Segmentation
from ..scoring.clip import ClipScorer
from ..settings import Settings
from ..settings_file import settings_of
from .painter import encoded_texts

Weights = Sequence[float] | Callable[[float], float]


@dataclass(frozen=True, eq=False)
class Generated:
    """A picture and what each word of its prompt became."""

    image: Image.Image
    found: dict[str, Segmentation]


class WordReader:
    """A callback for a diffusers pipeline that keeps the attention of its prompt's words.

    Made by `reading`; pass it as `callback_on_step_end`. Of every step the rows of the prompt are
    averaged over the pictures of the batch, and the steps by their weights.
    """

    def __init__(
        self, recorder: AttentionRecorder, strides: Mapping[str, int], prompt: str, pipe: Any,
        settings: Settings, weights: Weights | None,
    ) -> None:  # fmt: skip
        self._recorder = recorder
        self._strides = strides
        self._prompt = prompt
        self._family = family_of(pipe.unet.config)
        self._windows = prompt_chunks(pipe.tokenizer, prompt)
        self._settings = settings
        self._weights = weights
        self._sums: dict[str, Tensor] = {}
        self._total = 0.0

    def __call__(self, pipe: Any, step: int, timestep: Any, held: dict[str, Any]) -> dict[str, Any]:
        """Take what the step has shown; nothing of the sampling changes."""
        weight = self._weight(step, pipe.num_timesteps)
        guided = bool(pipe.do_classifier_free_guidance)
        for layer, rows in self._recorder.maps.items():
            own = rows[len(rows) // 2 :] if guided else rows
            share = weight * own.mean(0).cpu()
            self._sums[layer] = self._sums.get(layer, 0.0) + share
        self._total += weight
        self._recorder.maps.clear()
        return held

    def _weight(self, step: int, count: int) -> float:
        """How much a step counts; a function is given how far the sampling is, 0..1."""
        if self._weights is None:
            return 1.0
        if callable(self._weights):
            return float(self._weights((step + 1) / count))
        if len(self._weights) != count:
            raise ValueError(f"{len(self._weights)} weights for {count} steps, wanted as many.")
        return float(self._weights[step])

    @property
    def maps(self) -> TokenMaps:
        """The prompt's maps; ModelError when no step has been seen, or none with weight."""
        if not self._sums or self._total <= 0:
            raise ModelError(
                "No step of the sampling was seen; pass this as callback_on_step_end, and give "
                "one of the steps a weight above 0."
            )
        known = self._windows
        means = {layer: total / self._total for layer, total in self._sums.items()}
        columns = word_columns([known.spans])
        return prompt_maps(
            means,
            self._strides,
            columns,
            known.tokens,
            known.spans,
            self._prompt,
            self._settings.capture.mode,
        )

    def look(self, image: Any, clip: ClipScorer | None = None) -> Look:
        """A look at the picture that was made: call it with the prompt and a word of it."""
        known = KnownMaps({self._prompt: self.maps}, family=self._family)
        return Look(image, known, clip, self._settings)


@contextmanager
def reading(
    pipe: Any,
    prompt: str,
    settings: Settings | str | None = None,
    size: tuple[int, int] | None = None,
    weights: Weights | None = None,
) -> Iterator[WordReader]:
    """Inside, a pipeline's own sampling can be read; see `WordReader`.

    size: (height, width) of the picture that is made; left out, the model's own. weights: of the
    steps, one each, or a function of how far the sampling is; left out, all weigh alike.
    """
    check_pipeline(pipe)
    settings = settings_of(settings, family_of(pipe.unet.config))
    side = pipe.unet.config.sample_size
    cells = (side, side) if isinstance(side, int) else tuple(side)
    if size is not None:
        cells = (size[0] // pipe.vae_scale_factor, size[1] // pipe.vae_scale_factor)
    strides = wanted_layers(pipe.unet, settings.capture, pipe.vae_scale_factor)
    columns = word_columns([prompt_chunks(pipe.tokenizer, prompt).spans])
    recorder = AttentionRecorder(strides, settings.capture.mode, columns)
    with recording(pipe.unet, recorder, (cells[0], cells[1]), adapters=True):
        yield WordReader(recorder, strides, prompt, pipe, settings, weights)


def generate(
    pipe: Any,
    prompt: str,
    words: Sequence[str] = (),
    clip: ClipScorer | None = None,
    settings: Settings | str | None = None,
    steps: int = 30,
    guidance: float = 7.5,
    negative: str = "",
    seed: int = 0,
    size: tuple[int, int] | None = None,
    weights: Weights | None = None,
) -> Generated:
    """Make a picture of the prompt, and the mask of each of these words of it.

    words: words or phrases that stand in the prompt; none takes its root. The picture is the one
    that the pipeline makes without being watched. settings, weights, size: as in `reading`.
    Raises WordError, before anything is made, for a word that is not in the prompt.
    """
    expression = parse(prompt)
    words = list(words) or [expression.root.word.text]
    for word in words:
        with_root(expression, word)
    settings = settings_of(settings, family_of(pipe.unet.config))
    settings = replace(settings, capture=replace(settings.capture, queries="own"))
    height, width = size or (None, None)
    with reading(pipe, prompt, settings, size, weights) as reader, torch.no_grad():
        image = pipe(
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=height,
            width=width,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=reader,
            **encoded_texts(pipe, prompt, negative),
        ).images[0]
    look = reader.look(image, clip)
    return Generated(image, {word: look(prompt, word) for word in words})
