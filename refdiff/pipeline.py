"""Ref-Diff from top to bottom: a picture and a sentence in, a mask out.

The paper (arXiv 2308.16777) in this project's words: the *heat* c of the sentence's root word is
read out of the UNet's cross-attention (section 3.2), cut into *proposals* M or compared with
masks that someone else made, and each proposal gets a *generative* score s^G from the heat, a
*discriminative* score s^D from CLIP (section 3.3) and a weight from its place (P); their sum
decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import steps
from .attention import TokenMaps
from .capture import Capture
from .clip_scorer import ClipScorer
from .errors import WordError
from .expression import Expression, Noun, parse, with_root
from .heat import enlarged, shrunk, to_tensor, working_size
from .pictures import as_picture
from .proposals import tidy
from .result import Candidate, Segmentation
from .settings import Settings
from .steps import Regions, Scored


def segment(
    image: Any,
    text: str | Expression,
    capture: Capture,
    clip: ClipScorer | None = None,
    settings: Settings | None = None,
    proposals: Any = None,
) -> Segmentation:
    """The mask of what `text` refers to in `image`.

    image: a path, PIL image, array or tensor. capture: reads the attention, for example
    `DiffusersCapture(pipe)`; `settings` decide how. clip: without it the answer is generative
    only. proposals: masks [N, H, W] made by someone else, to choose from (Ref-Diff+).
    Raises ValueError for bad input, RefDiffError when the model cannot answer.
    """
    return Look(image, capture, clip, settings, proposals)(text)


class Look:
    """One picture, looked at once; call it with any number of sentences."""

    def __init__(
        self,
        image: Any,
        capture: Capture,
        clip: ClipScorer | None = None,
        settings: Settings | None = None,
        proposals: Any = None,
    ) -> None:
        self.image = as_picture(image)
        self.settings = settings or Settings()
        self.clip = clip
        self.times: dict[str, float] = {}
        self.size = working_size((self.image.height, self.image.width))
        self._pixels = to_tensor(self.image, self.size)
        full = (self.image.height, self.image.width)
        self._own = None if proposals is None else tidy(proposals, full)
        self._given = None if self._own is None else shrunk(self._own, self.size)
        self._regions = None if clip is None or self._given is None else self._seen(self._given)
        with self._timed("picture"):
            self.capture = capture.using(self.settings.capture)
            self._encoded = self.capture.encode(self.image)

    def __call__(
        self, text: str | Expression, word: str | None = None, choice: int = 1
    ) -> Segmentation:
        """The mask for one sentence. word: look for this word instead of the root.

        choice: 2 takes the next best different proposal, and so on.
        """
        return self.many([text], word, choice)[0]

    def many(
        self, texts: Sequence[str | Expression], word: str | None = None, choice: int = 1
    ) -> list[Segmentation]:
        """The masks for several sentences, which are shown to the UNet as one batch."""
        self.times = {"picture": self.times["picture"]}
        with self._timed("parse"):
            expressions = [parse(text) if isinstance(text, str) else text for text in texts]
            expressions = [with_root(one, word) if word else one for one in expressions]
        with self._timed("attention"):
            maps = self.capture.read(self._encoded, [one.text for one in expressions])
        shared = self.times
        return [
            self._segment(expression, own, choice, dict(shared))
            for expression, own in zip(expressions, maps, strict=True)
        ]

    def _segment(
        self, expression: Expression, maps: TokenMaps, choice: int, times: dict[str, float]
    ) -> Segmentation:
        self.times = times
        found = [self._find(target, maps, choice) for target in expression.targets()]
        return self._answer(expression, found)

    def _find(self, expression: Expression, maps: TokenMaps, choice: int) -> _Found:
        """Heat, proposals, scores and choice for one noun, the root of its own expression."""
        noun, settings = expression.root, self.settings
        with self._timed("heat"):
            heat = self._heat(noun, maps)
        with self._timed("proposals"):
            masks = steps.proposals_of(heat, settings) if self._given is None else self._given
        with self._timed("clip"):
            regions = self._regions or self._seen(masks)
            clip = None if regions is None else regions.judged(noun, expression, settings)
        with self._timed("fusion"):
            anchors = self._anchors(expression, maps) if settings.bias == "geometry" else {}
            scored = steps.scored(expression, heat, masks, settings, clip, anchors)
            picked = steps.picked(expression, scored, settings, choice)
            held = steps.presence_map(maps, _columns(noun, maps), self.size)
            presence = steps.presence_of(held, scored)
        return _Found(noun, heat, scored, picked, presence)

    def _heat(self, noun: Noun, maps: TokenMaps) -> Tensor:
        return steps.heat_of(maps, _columns(noun, maps), self.size, self.settings, self._pixels)

    def _seen(self, masks: Tensor) -> Regions | None:
        return None if self.clip is None else Regions(self.clip, self._pixels, masks)

    def _anchors(self, expression: Expression, maps: TokenMaps) -> dict[Noun, Tensor]:
        """The heat of the nouns that the root is related to; those never encoded are left out."""
        anchors = {}
        for other in (anchor for relation in expression.relations for anchor in relation.anchors):
            with suppress(WordError):  # the relation is then left out, and noted
                anchors[other] = self._heat(other, maps)
        return anchors

    def _answer(self, expression: Expression, found: list[_Found]) -> Segmentation:
        """The union of what was found; a noun whose presence is too low adds nothing."""
        notes = list(dict.fromkeys(note for one in found for note in one.scored.notes))
        if self.clip is None:
            notes.append("no CLIP model, so the choice is generative only")
        floor = self.settings.empty_below
        there = [one for one in found if one.presence >= floor]
        notes += [
            f"nothing found: the presence of {one.noun.word.text!r} is {one.presence:.2f}, "
            f"below {floor:.2f}"
            for one in found
            if one not in there
        ]
        size = (self.image.height, self.image.width)
        with self._timed("mask"):
            instances = [one for found in there for one in self._full(found)]
        stack = torch.stack(instances) if instances else torch.zeros(0, *size, dtype=torch.bool)
        return Segmentation(
            image=self.image,
            mask=stack.any(0),
            instances=stack,
            heat=torch.stack([one.heat for one in found]).amax(0),
            expression=expression,
            candidates=tuple(candidate for one in found for candidate in one.candidates()),
            masks=torch.cat([one.scored.masks for one in found]),
            presence=min(one.presence for one in there or found),
            notes=tuple(notes),
            times=dict(self.times),
            settings=self.settings,
        )

    def _full(self, found: _Found) -> Tensor:
        """The chosen masks of one noun at the picture's size; those given come as they came."""
        if self._own is not None:
            return self._own[found.picked]
        size = (self.image.height, self.image.width)
        return torch.stack([enlarged(mask, size) for mask in found.scored.masks[found.picked]])

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.times[stage] = self.times.get(stage, 0.0) + time.perf_counter() - start


def _columns(noun: Noun, maps: TokenMaps) -> tuple[int, ...]:
    return maps.columns(noun.word.start, noun.word.end)


@dataclass(frozen=True, eq=False)
class _Found:
    """What one noun of the sentence came to."""

    noun: Noun
    heat: Tensor
    scored: Scored
    picked: list[int]
    presence: float

    def candidates(self) -> tuple[Candidate, ...]:
        scored = self.scored
        return tuple(
            Candidate(
                noun=self.noun.word.text,
                generative=float(scored.generative[i]),
                clip=None if scored.clip is None else float(scored.clip[i]),
                place=float(scored.place[i]),
                score=float(scored.total[i]),
                area=float(scored.masks[i].float().mean()),
                chosen=i in self.picked,
            )
            for i in range(len(scored.masks))
        )
