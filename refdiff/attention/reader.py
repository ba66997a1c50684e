"""The reading loop, once for every library: pictures and sentences in, the words' maps out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor

from ..errors import HeatError
from ..families import Family
from .backend import Backend, Embeds, Shown, Words
from .capture import (
    CaptureSettings,
    EncodedPicture,
    asked_layers,
    asked_places,
    asked_reference,
    fit,
    prompt_maps,
)
from .heads import layer_weights
from .maps import AttentionRecorder, TokenMaps, cfg_logits, word_columns
from .noise import View, mean_of_views
from .propagate import SelfAttention

OFFICIAL_SUFFIX = ", "  # the authors' code appends an empty additional prompt
ROWS = 8
"""Most rows of one call of the model, so that memory does not grow with the sentences."""
PIXELS = 2**20
"""Most pixels that the VAE sees at a time, but for a single picture that has more."""
B = TypeVar("B", bound=Backend)
Maps = dict[str, Tensor]  # layer, and call where there are several -> [P, T, h, w] on the CPU


@dataclass(frozen=True, eq=False)
class _Sentence:
    """One row of the answer: a sentence over a picture."""

    picture: EncodedPicture
    prompt: str
    words: Words

    @property
    def shape(self) -> tuple[int, ...]:
        """What rows of one call share: the size of the latent and the number of columns."""
        return (*self.picture.latent.shape, len(self.words.spans))


class Reader(Generic[B]):
    """Reads the words of sentences out of a model, which is as it was after every call.

    settings, or single settings by name, as in CaptureSettings; ValueError for those that the
    model cannot keep. With kept queries (`queries`) they stay as long as the EncodedPicture, 7 MB
    for SD1.5 at 512 px; they carry the words of the sentence that made them, so the maps of others
    are not quite their own.
    """

    def __init__(self, backend: B, settings: CaptureSettings | None = None, **changes: Any) -> None:
        self.backend = backend
        self.settings = replace(settings or CaptureSettings(), **changes)
        backend.check(self.settings)
        self.strides = asked_layers(backend.layers(), self.settings, backend.way_up)
        self.layers = tuple(self.strides)
        self.places = asked_places(backend.layers(), self.settings, backend.way_up)
        self.reference = asked_reference(backend.layers(), self.settings, self.layers)
        self._kept: WeakKeyDictionary[EncodedPicture, list[AttentionRecorder]]
        self._kept = WeakKeyDictionary()

    def __call__(self, image: Image.Image | EncodedPicture, prompt: str) -> TokenMaps:
        """The maps of one sentence over one picture."""
        picture = image if isinstance(image, EncodedPicture) else self.encode(image)
        return self.read(picture, [prompt])[0]

    def using(self, settings: CaptureSettings) -> Reader[B]:
        """The same model under other settings."""
        return self if settings == self.settings else Reader(self.backend, settings)

    @property
    def family(self) -> Family:
        """The kind of model this is; see `families`."""
        return self.backend.family

    @property
    def native(self) -> int:
        """The side in pixels of the square pictures the model was trained on."""
        return self.backend.native

    @property
    def side(self) -> int:
        """The side in pixels of the square with the area at which pictures are shown."""
        multiple = self.backend.multiple
        return max(1, round(self.native * self.settings.size / multiple)) * multiple

    def encode(self, image: Image.Image) -> EncodedPicture:
        """The picture's share of the work: its latent at the working size."""
        return self.encode_batch([image])[0]

    @torch.no_grad()
    def encode_batch(self, images: Sequence[Image.Image]) -> list[EncodedPicture]:
        """The same for several pictures; the VAE sees those of one working size together."""
        fitted = [
            fit(image, self.side, self.backend.multiple, self.settings.pad) for image in images
        ]
        latents: dict[int, Tensor] = {}
        with self.backend.session():
            for part in _batches([picture for picture, _ in fitted]):
                found = self.backend.encode([fitted[index][0] for index in part])
                latents |= zip(part, found.split(1), strict=True)
        if not all(bool(torch.isfinite(latent).all()) for latent in latents.values()):
            raise HeatError(
                "The VAE's latent holds values that are not finite; load the pipeline, or its VAE, "
                "in float32 or bfloat16."
            )
        return [
            EncodedPicture(latents[index], (image.height, image.width), fitted[index][1])
            for index, image in enumerate(images)
        ]

    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of several sentences over one picture."""
        return self.read_batch([picture], [prompts])[0]

    @torch.no_grad()
    def read_batch(
        self, pictures: Sequence[EncodedPicture], prompts: Sequence[Sequence[str]]
    ) -> list[list[TokenMaps]]:
        """The maps of each picture's own sentences, as rows of as few calls as are needed.

        A row's maps do not depend on its company. Pictures of different sizes, and sentences of
        different numbers of columns, go into different calls.
        """
        with self.backend.session():
            sentences = [
                [_Sentence(picture, text, self.backend.words(self._suffixed(text))) for text in own]
                for picture, own in zip(pictures, prompts, strict=True)
            ]
            for own in sentences if self.settings.queries != "own" else ():
                self._keep_queries(own)
            rows = sorted((each for own in sentences for each in own), key=lambda each: each.shape)
            found: dict[_Sentence, TokenMaps] = {}
            for part in self._parts(rows):
                found |= self._answers(part)
        return [[found[each] for each in own] for own in sentences]

    def _suffixed(self, prompt: str) -> str:
        """What the model is told of a sentence."""
        official = self.settings.schedule == "official"
        return prompt + (OFFICIAL_SUFFIX if official else self.settings.background)

    @property
    def _views(self) -> tuple[View, ...]:
        return self.settings.views(self.backend.levels)

    def _parts(self, sentences: list[_Sentence]) -> Iterator[list[_Sentence]]:
        """As many sentences as one call takes; those asked of kept queries picture by picture."""
        most = max(1, ROWS // (len(self._views) * self.settings.halves))
        own = self.settings.queries == "own"
        for _, group in groupby(sentences, lambda s: (s.shape, None if own else id(s.picture))):
            part = list(group)
            yield from (part[first : first + most] for first in range(0, len(part), most))

    def _answers(self, sentences: list[_Sentence]) -> dict[_Sentence, TokenMaps]:
        """The maps of sentences that share a call."""
        texts = [self._suffixed(each.prompt) for each in sentences]
        embeds = self._embedded(texts, len(sentences[0].words.spans))
        columns = word_columns(each.words.spans for each in sentences)
        if self.settings.queries == "own":
            clean = torch.cat([each.picture.latent for each in sentences])
            maps, recorders = self._pass(clean, embeds, columns)
            seen = [self._looks(recorders[-1], row, len(sentences)) for row in range(len(texts))]
        else:
            kept = self._kept[sentences[0].picture]
            maps = self._ask(kept, embeds, columns)
            seen = [self._looks(kept[-1], 0, 1)] * len(texts)
        return {
            each: prompt_maps(
                {layer: rows[row] for layer, rows in maps.items()},
                self.strides,
                columns,
                each.words.tokens,
                each.words.spans,
                each.prompt,
                self.settings.mode,
                each.picture.content,
                seen[row][0],
                bool(self.settings.background),
                seen[row][1],
            )
            for row, each in enumerate(sentences)
        }

    def _embedded(self, texts: list[str], columns: int) -> Embeds:
        """The texts, after as many empty ones where there is guidance."""
        empty = [""] * len(texts) * (self.settings.halves - 1)
        return self.backend.embed(empty + texts, columns, self.settings.clip_skip)

    def _pass(
        self, clean: Tensor, embeds: Embeds, columns: Sequence[int], keep_queries: bool = False
    ) -> tuple[Maps, list[AttentionRecorder]]:
        """The maps of P sentences, each over its own clean[p], and the recorder of each call."""
        settings, views, reference = self.settings, self._views, self.reference
        queries = self.layers if keep_queries else () if reference is None else (reference,)
        places = dict.fromkeys([*self.places, *(self.layers if reference is not None else ())])
        last = len(views[0].schedule.calls) - 1
        weighed = settings.mode == "probabilities" and settings.queries == "own"
        recorders = [
            AttentionRecorder(
                self.layers,
                settings.mode,
                columns,
                queries,
                places if call == last else (),
                settings.heads if weighed else "mean",
            )
            for call in range(last + 1)
        ]
        shown = Shown.of(clean, views, settings.halves)
        rows = embeds.per_view(settings.halves, len(views))
        self.backend.run(shown, rows, recorders, settings.guidance)
        maps: Maps = {}
        for call, recorder in enumerate(recorders):
            maps |= self._gathered(recorder.maps, call)
        return maps, recorders

    def _looks(
        self, recorder: AttentionRecorder, sentence: int, sentences: int
    ) -> tuple[list[SelfAttention], dict[str, float] | None]:
        """What a pass shows of how a sentence's picture looks at itself, in its first view.

        The self-attention that heat is spread along, and the layers' weights, if these are asked.
        """
        row = (self.settings.halves - 1) * len(self._views) * sentences + sentence
        seen = {
            name: SelfAttention(query[row], key[row], heads, grid)
            for name, (query, key, heads, grid) in recorder.places.items()
        }
        along = [seen[name] for name in self.places]
        if self.reference is None:
            return along, None
        query, _, grid = recorder.queries[self.reference]
        says = layer_weights([seen[name] for name in self.layers], query[row].cpu(), grid)
        return along, dict(zip(self.layers, says.tolist(), strict=True))

    def _keep_queries(self, sentences: list[_Sentence]) -> None:
        """On the first sentences over a picture, make the pass whose queries are kept of it."""
        if not sentences or sentences[0].picture in self._kept:
            return
        first = self._suffixed(sentences[0].prompt) if self.settings.queries == "first" else ""
        picture, embeds = sentences[0].picture, self._embedded([first], 0)
        _, self._kept[picture] = self._pass(picture.latent, embeds, (), keep_queries=True)

    def _ask(
        self, kept: Sequence[AttentionRecorder], embeds: Embeds, columns: Sequence[int]
    ) -> Maps:
        """The maps of P sentences from the queries that each call of a pass of one sentence left.

        columns: those kept.
        """
        keys, halves = self.backend.keys(self.layers, embeds), self.settings.halves
        maps: Maps = {}
        for call, recorder in enumerate(kept):
            found = {
                layer: recorder.score(layer, key, halves, columns) for layer, key in keys.items()
            }
            maps |= self._gathered(found, call)
        return maps

    def _gathered(self, found: Mapping[str, Tensor], call: int) -> Maps:
        """One call's maps, guided and averaged over the views, on the CPU: [P, T, h, w] each."""
        guidance, views = self.settings.guidance, self._views
        calls = views[0].schedule.calls
        label = f"@{calls[call]}" if len(calls) > 1 else ""
        if guidance is not None:
            halves = {layer: maps.chunk(2) for layer, maps in found.items()}
            found = {
                name: cfg_logits(cond, uncond, guidance) for name, (uncond, cond) in halves.items()
            }
        return {name + label: mean_of_views(maps.cpu(), views) for name, maps in found.items()}


def _batches(pictures: Sequence[Image.Image]) -> Iterator[list[int]]:
    """Which of the pictures share a call of the VAE."""
    order = sorted(range(len(pictures)), key=lambda index: pictures[index].size)
    for (width, height), group in groupby(order, lambda index: pictures[index].size):
        part, most = list(group), max(1, PIXELS // (width * height))
        yield from (part[first : first + most] for first in range(0, len(part), most))
