"""Ref-Diff from top to bottom: a picture and a sentence in, a mask out.

The paper (arXiv 2308.16777) in this project's words: the *heat* c of the sentence's root word is
read out of the UNet's cross-attention (section 3.2), cut into *proposals* M or compared with
masks that someone else made, and each proposal gets a *generative* score s^G from the heat, a
*discriminative* score s^D from CLIP (section 3.3) and a weight from its place (P); their sum
decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import geometry, scoring
from .attention import TokenMaps, word_map
from .capture import Capture
from .clip_scorer import ClipScorer, RegionFeatures, blend, similarity
from .errors import WordError
from .expression import Expression, Noun, parse, with_root
from .heat import enlarged, shrunk, snapped, to_tensor, working_size
from .pictures import as_picture
from .positional_bias import darkened
from .proposals import from_heat, keep_largest, tidy
from .result import Candidate, Segmentation
from .settings import Settings
from .things import best_cuts, separate

DISTINCT = 0.5
"""IoU above which two proposals count as the same."""


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
        self._features: RegionFeatures | None = None
        with self._timed("picture"):
            self.capture = capture.using(self.settings.capture)
            self._encoded = self.capture.encode(self.image)

    def __call__(
        self, text: str | Expression, word: str | None = None, choice: int = 1
    ) -> Segmentation:
        """The mask for one sentence. word: look for this word instead of the root.

        choice: 2 takes the next best different proposal, and so on.
        """
        self.times = {"picture": self.times["picture"]}
        with self._timed("parse"):
            expression = parse(text) if isinstance(text, str) else text
            expression = with_root(expression, word) if word else expression
        with self._timed("attention"):
            maps = self.capture.read(self._encoded, [expression.text])[0]
        found = [self._find(target.root, target, maps, choice) for target in expression.targets()]
        return self._answer(expression, found)

    def _find(self, noun: Noun, expression: Expression, maps: TokenMaps, choice: int) -> _Found:
        """Heat, proposals, scores and choice for one noun."""
        settings = self.settings
        with self._timed("heat"):
            heat = self._heat(noun, maps)
        with self._timed("proposals"):
            masks = self._proposals(heat)
            generative = scoring.SCORES[settings.score](heat, masks)
            if self._given is None and len(masks) > settings.shortlist:
                best = generative.topk(settings.shortlist).indices.sort().values
                masks, generative = masks[best], generative[best]
        with self._timed("clip"):
            clip = None if self.clip is None else self._clip_scores(noun, expression, masks)
        with self._timed("fusion"):
            weighted = self._weights(noun, expression, masks, heat, clip, maps)
            scores = scoring.combine(
                generative, clip, weighted.weights, settings.alpha, settings.strength
            )
            picked = self._pick(expression, masks, scores, choice)
        presence = self._presence(noun, maps, masks[picked].any(0))
        return _Found(noun, heat, masks, generative, clip, weighted, scores, picked, presence)

    def _heat(self, noun: Noun, maps: TokenMaps) -> Tensor:
        """c of the paper at working size; see `word_map`."""
        settings = self.settings
        weights = None if settings.grid_weights is None else dict(enumerate(settings.grid_weights))
        heat = word_map(
            maps,
            maps.columns(noun.word.start, noun.word.end),
            size=self.size,
            weights=weights,
            normalise=settings.normalise,
            quantise=settings.quantise,
        )
        return snapped(heat, self._pixels, settings.snap) if settings.snap else heat

    def _proposals(self, heat: Tensor) -> Tensor:
        if self._given is not None:
            return self._given
        settings = self.settings
        if settings.threshold is not None:
            return (heat >= settings.threshold)[None]
        if settings.proposals == "things":
            zones = separate(heat, settings.prominence)
            return best_cuts(heat, zones, settings.thresholds, settings.least_area)
        masks = from_heat(
            heat,
            settings.thresholds,
            settings.reading,
            settings.proposals == "parts",
            settings.least_area,
        )
        return keep_largest(masks, settings.largest) if settings.largest else masks

    def _clip_scores(self, noun: Noun, expression: Expression, masks: Tensor) -> Tensor:
        """s^D: similarity of each proposal, cut out and in place, to the sentence."""
        assert self.clip is not None
        settings = self.settings
        texts = self.clip.text_features([expression.text, noun.phrase, noun.word.text])
        if settings.texts == "official":
            crop_text, masked_text = texts[0], blend(texts, [0.5, 0.0, 0.5])
        elif settings.texts == "paper":
            crop_text = masked_text = blend(texts, [0.5, 0.5, 0.0])
        else:
            crop_text = masked_text = texts[1]
        return similarity(self._regions(masks, expression), crop_text, masked_text, settings.beta)

    def _regions(self, masks: Tensor, expression: Expression) -> RegionFeatures:
        """CLIP's features; of given proposals made once, unless the text changes pixels."""
        assert self.clip is not None
        settings = self.settings
        crop, masked = darkened(self._pixels, expression, settings.bias)
        changed = crop is not self._pixels or masked is not self._pixels
        if self._given is not None and self._features is not None and not changed:
            return self._features
        features = RegionFeatures(
            self.clip.crop_features(crop, masks, settings.crop),
            self.clip.masked_features(masked, masks),
        )
        if self._given is not None and not changed:
            self._features = features
        return features

    def _weights(
        self,
        noun: Noun,
        expression: Expression,
        masks: Tensor,
        heat: Tensor,
        clip: Tensor | None,
        maps: TokenMaps,
    ) -> geometry.Weighted:
        if self.settings.bias != "geometry":
            return geometry.Weighted(torch.ones(len(masks)))
        anchors = {}
        for other in (anchor for relation in expression.relations for anchor in relation.anchors):
            with suppress(WordError):  # beyond the window: the relation is left out and noted
                anchors[other] = self._heat(other, maps)
        return geometry.weights(masks, expression, scoring.evidence(heat, masks, clip), anchors)

    def _pick(
        self, expression: Expression, masks: Tensor, scores: Tensor, choice: int
    ) -> list[int]:
        """The chosen proposal, or for a plural those whose union is the answer."""
        if self.settings.bias == "geometry" and expression.number != 1 and choice == 1:
            return scoring.union(masks, scores, None, expression.number)
        return [scoring.choose(scores, masks, choice, DISTINCT)]

    def _presence(self, noun: Noun, maps: TokenMaps, mask: Tensor) -> float:
        """How much of the attention the word holds inside the mask, 0..1: is it there at all?"""
        if maps.mode == "logits":
            return 1.0
        columns = maps.columns(noun.word.start, noun.word.end)
        raw = word_map(maps, columns, size=self.size, normalise=False)
        raw = raw.exp() if maps.mode == "log_probabilities" else raw
        return float(raw[mask].mean()) if bool(mask.any()) else 0.0

    def _answer(self, expression: Expression, found: list[_Found]) -> Segmentation:
        """The union of what was found; a noun whose presence is too low adds nothing."""
        notes = list(dict.fromkeys(note for one in found for note in one.weighted.notes))
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
            masks = [self._full(one) for one in there] or [torch.zeros(size, dtype=torch.bool)]
        return Segmentation(
            image=self.image,
            mask=torch.stack(masks).any(0),
            heat=torch.stack([one.heat for one in found]).amax(0),
            expression=expression,
            candidates=tuple(candidate for one in found for candidate in one.candidates()),
            masks=torch.cat([one.masks for one in found]),
            presence=min(one.presence for one in there or found),
            notes=tuple(notes),
            times=dict(self.times),
            settings=self.settings,
        )

    def _full(self, found: _Found) -> Tensor:
        """The answer for one noun at the picture's size; masks that were given, as they came."""
        if self._own is not None:
            return self._own[found.picked].any(0)
        return enlarged(found.mask, (self.image.height, self.image.width))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.times[stage] = self.times.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class _Found:
    noun: Noun
    heat: Tensor
    masks: Tensor
    generative: Tensor
    clip: Tensor | None
    weighted: geometry.Weighted
    scores: Tensor
    picked: list[int]
    presence: float

    @property
    def mask(self) -> Tensor:
        return self.masks[self.picked].any(0)

    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(
            Candidate(
                noun=self.noun.word.text,
                generative=float(self.generative[i]),
                clip=None if self.clip is None else float(self.clip[i]),
                place=float(self.weighted.weights[i]),
                score=float(self.scores[i]),
                area=float(self.masks[i].float().mean()),
                chosen=i in self.picked,
            )
            for i in range(len(self.masks))
        )
