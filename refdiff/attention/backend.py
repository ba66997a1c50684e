"""What differs between libraries and kinds of models: all else about reading is the `Reader`'s.

A *column* is one place of the text a model attends to; a *layer* is one attention in which places
of the picture ask columns of the text, whether by itself or among other things (joint attention).
A *level* is a step of noise as the model was trained with it, 0 (none) to `levels` - 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from ..families import Family
from .capture import CaptureSettings
from .maps import AttentionRecorder, Span
from .noise import View, noise


class Words(NamedTuple):
    """What each column of a text holds: its piece, and the characters it covers (None: none)."""

    tokens: tuple[str, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, eq=False)
class Embeds:
    """Texts as a model is told them, one row each.

    states: [R, T, C], a column for each token. pooled: [R, P], a whole text in one, where the model
    wants it. extra: what a library passes along besides, alike for every row.
    """

    states: Tensor
    pooled: Tensor | None = None
    extra: Any = None

    def per_view(self, halves: int, views: int) -> Embeds:
        """One row per half and sentence to one per half, view and sentence."""

        def repeated(rows: Tensor) -> Tensor:
            return torch.cat([half for half in rows.chunk(halves) for _ in range(views)])

        pooled = None if self.pooled is None else repeated(self.pooled)
        return replace(self, states=repeated(self.states), pooled=pooled)


class Shown(NamedTuple):
    """Pictures as the rows of a pass see them: half by half, view by view, sentence by sentence.

    clean, noise: [R, C, h, w] on the CPU, the latents and what is put on them. levels:
    [1 + calls, R], the level it is put on at, then the level each call of the model is told.
    """

    clean: Tensor
    noise: Tensor
    levels: Tensor

    @classmethod
    def of(cls, clean: Tensor, views: Sequence[View], halves: int) -> Shown:
        """clean: [P, C, h, w], one sentence each. halves: 2 with unconditional companions."""
        shape = (1, *clean.shape[1:])
        added = [noise(view.seed, shape).expand_as(clean) for view in views]
        told = [(view.schedule.noised, *view.schedule.calls) for view in views]
        return cls(
            torch.cat([view.of(clean) for view in views]).repeat(halves, 1, 1, 1),
            torch.cat(added).repeat(halves, 1, 1, 1),
            torch.tensor(told).repeat_interleave(len(clean), 0).repeat(halves, 1).mT,
        )


class Backend(Protocol):
    """A model in some library. It is as it was after every call, also after an exception."""

    @property
    def family(self) -> Family:
        """The kind of model; see `families`."""
        ...

    @property
    def native(self) -> int:
        """The side in pixels of the square pictures the model was trained on."""
        ...

    @property
    def multiple(self) -> int:
        """What the sides in pixels of a picture must be multiples of."""
        ...

    @property
    def levels(self) -> int:
        """How many levels of noise the model was trained with."""
        ...

    @property
    def way_up(self) -> str | None:
        """How the names of the layers begin that layers="down" leaves out; None: there are none."""
        ...

    def layers(self) -> Mapping[str, int]:
        """Every layer in the order of a pass, and the pixels of the picture between its places."""
        ...

    def check(self, settings: CaptureSettings) -> None:
        """Raise ValueError for settings that this model cannot keep."""
        ...

    def session(self) -> AbstractContextManager[None]:
        """Wraps every use of the model: other threads wait, and memory is given back at the end."""
        ...

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """The latents [P, C, h, w], scaled, float32 on the CPU, of pictures of one size that fits.

        They are encoded as one batch.
        """
        ...

    def words(self, text: str) -> Words:
        """What the columns of a text hold, in as many columns as the text needs."""
        ...

    def embed(self, texts: Sequence[str], columns: int, clip_skip: int = 0) -> Embeds:
        """The texts as one batch of rows, filled up to `columns` columns where they are shorter.

        clip_skip: layers left out at the end of the text encoder.
        """
        ...

    def run(
        self,
        shown: Shown,
        embeds: Embeds,
        recorders: Sequence[AttentionRecorder],
        guidance: float | None,
    ) -> None:
        """Show pictures and texts to the model, one call for each recorder, which it fills.

        The last call ends as soon as its recorder is done. guidance: the first half of the rows is
        unconditional; mixed in where a call's answer leads to the next. ModelError when a wanted
        layer was not seen, or asked about other rows or columns.
        """
        ...

    def keys(self, layers: Collection[str], embeds: Embeds) -> Mapping[str, Tensor]:
        """What layers make of texts without a pass: [R, T, D], for queries that were kept."""
        ...


class AllSeen(BaseException):
    """Leaves a pass of which no more is wanted; no handler of errors on the way may keep it."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
