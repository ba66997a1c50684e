"""Batches of pictures in, records out: pictures of one size share the passes of the UNet."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ..attention.capture import Capture, EncodedPicture
from ..attention.known_maps import KnownMaps
from ..attention.maps import TokenMaps
from ..errors import RefDiffError
from ..expression import Expression, parse
from ..io.pictures import read_picture
from ..pipeline import Look
from ..result import Segmentation
from ..scoring.clip import ClipScorer
from ..scoring.scores import otsu
from ..settings import Settings
from ..steps import THING, asks_for_a_thing
from .pictures import Item
from .records import Label, Record, encoded
from .together import Together

_Looked = tuple[Image.Image, EncodedPicture, list[TokenMaps], list[Expression]]


class Labeller:
    """Models in memory that label one batch of pictures after the other.

    capture: with `encode_batch` and `read_batch` (see DiffusersCapture) the pictures of a batch
    share calls of the VAE and passes of the UNet. Crops of the pictures share calls of CLIP.
    """

    def __init__(self, capture: Capture, clip: ClipScorer | None, settings: Settings) -> None:
        self.capture = capture.using(settings.capture)
        self.clip = clip
        self.settings = settings

    def __call__(self, items: Sequence[Item]) -> list[Record]:
        """A record per picture, in their order; what fails is said in the record.

        When a batch fails it is halved until the picture that is to blame stands alone.
        """
        try:
            return self._labelled(items)
        except Exception as error:
            if len(items) > 1:
                half = len(items) // 2
                return [*self(items[:half]), *self(items[half:])]
            return [failed(items[0], error)]

    def _labelled(self, items: Sequence[Item]) -> list[Record]:
        start = time.perf_counter()
        pictures = [read_picture(item.path) for item in items]
        wanted = [[parse(text) for text in item.texts] for item in items]
        latents = self._encoded(pictures)
        maps = self._read(latents, [_texts(own) for own in wanted])
        answers = self._answers(list(zip(pictures, latents, maps, wanted, strict=True)))
        seconds = (time.perf_counter() - start) / len(items)
        return [
            _record(item, picture, found, seconds)
            for item, picture, found in zip(items, pictures, answers, strict=True)
        ]

    def _encoded(self, pictures: Sequence[Image.Image]) -> list[EncodedPicture]:
        together: Any = getattr(self.capture, "encode_batch", None)
        if together is not None:
            return together(pictures)
        return [self.capture.encode(picture) for picture in pictures]

    def _read(
        self, latents: Sequence[EncodedPicture], texts: Sequence[Sequence[str]]
    ) -> list[list[TokenMaps]]:
        together: Any = getattr(self.capture, "read_batch", None)
        if together is not None:
            return together(latents, texts)
        return [self.capture.read(*each) for each in zip(latents, texts, strict=True)]

    def _answers(self, looked: Sequence[_Looked]) -> list[list[Segmentation]]:
        """What each picture's sentences mean, with CLIP's calls shared."""
        if self.clip is None or len(looked) == 1:
            return [self._found(one, self.clip) for one in looked]
        together = Together(self.clip)
        return together.map(lambda one: self._found(one, together.clip), looked)

    def _found(self, looked: _Looked, clip: ClipScorer | None) -> list[Segmentation]:
        picture, latent, maps, expressions = looked
        known = KnownMaps({each.text: each for each in maps}, latent, self.capture.family)
        return Look(picture, known, clip, self.settings).many(expressions)


def _texts(expressions: Sequence[Expression]) -> list[str]:
    """What has to be read for these sentences."""
    thing = [THING] if any(map(asks_for_a_thing, expressions)) else []
    return [*(one.text for one in expressions), *thing]


def _record(
    item: Item, picture: Image.Image, found: Sequence[Segmentation], seconds: float
) -> Record:
    labels = [_label(text, answer) for text, answer in zip(item.texts, found, strict=True)]
    return Record(
        name=item.name,
        stamp=item.stamp,
        texts=item.texts,
        size=(picture.height, picture.width),
        labels=tuple(labels),
        seconds=round(seconds, 4),
        worker=worker_name(),
    )


def _label(text: str, found: Segmentation) -> Label:
    chosen = [candidate.score for candidate in found.candidates if candidate.chosen]
    return Label(
        text=text,
        noun=found.expression.root.word.text,
        presence=round(found.presence, 4),
        certainty=round(certainty_of(found), 4),
        score=round(max(chosen, default=0.0), 4),
        instances=tuple(encoded(mask.numpy()) for mask in _filled(found.instances)),
    )


def _filled(masks: Tensor) -> Iterable[Tensor]:
    return (mask for mask in masks if bool(mask.any()))


def certainty_of(found: Segmentation) -> float:
    """How surely the mask is what was meant: 0..1, for sorting, with no scale of one model in it.

    The geometric mean of presence and of the share of the heat's variance that the chosen masks
    explain (Otsu's criterion): low for a thing that is hardly there and for heat that lies
    elsewhere too.
    """
    chosen = [index for index, each in enumerate(found.candidates) if each.chosen]
    if found.empty or not chosen:
        return 0.0
    explained = float(otsu(found.heat, found.masks[chosen].any(0, keepdim=True))[0])
    return (min(1.0, max(0.0, explained)) * min(1.0, max(0.0, found.presence))) ** 0.5


def failed(item: Item, error: Exception) -> Record:
    """The record of a picture that could not be labelled."""
    said = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, ValueError | RefDiffError | OSError)
    said = said if known else f"unexpected {type(error).__name__}: {said}"
    return Record(item.name, item.stamp, item.texts, error=said[:500], worker=worker_name())


def worker_name() -> str:
    """host:process, to tell who made a record."""
    return f"{socket.gethostname()}:{os.getpid()}"


def in_one_process(labeller: Labeller, batches: Iterable[Sequence[Item]]) -> Iterator[Record]:
    """Every picture's record, batch after batch."""
    for batch in batches:
        yield from labeller(batch)
