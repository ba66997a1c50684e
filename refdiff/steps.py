"""The steps of the method, each a function of tensors and settings.

`pipeline.Look` runs them one after the other. They live at the working size: heat is [h, w] float
in 0..1, masks are bool [N, h, w] of the same size. Symbols are the paper's (arXiv 2308.16777).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from . import geometry, scoring
from .attention import TokenMaps, word_map
from .clip_scorer import ClipScorer, RegionFeatures, blend, similarity
from .expression import Expression, Noun
from .heat import snapped
from .positional_bias import darkened
from .proposals import from_heat, keep_largest
from .settings import Settings
from .things import best_cuts, separate

DISTINCT = 0.5
"""IoU above which two proposals count as the same."""


def heat_of(
    maps: TokenMaps,
    columns: tuple[int, ...],
    size: tuple[int, int],
    settings: Settings,
    pixels: Tensor | None = None,
) -> Tensor:
    """c of section 3.2, [h, w]: the heat of the tokens in these columns; see `word_map`.

    pixels: the picture [3, h, w] whose edges the heat follows; None follows none.
    """
    weights = None if settings.grid_weights is None else dict(enumerate(settings.grid_weights))
    heat = word_map(
        maps,
        columns,
        size=size,
        weights=weights,
        normalise=settings.normalise,
        quantise=settings.quantise,
    )
    return snapped(heat, pixels, settings.snap) if settings.snap and pixels is not None else heat


def proposals_of(heat: Tensor, settings: Settings) -> Tensor:
    """M of section 3.2: the masks that the heat proposes, [N, h, w]; the best s^G if too many."""
    masks = _cut(heat, settings)
    if len(masks) <= settings.shortlist:
        return masks
    best = scoring.SCORES[settings.score](heat, masks).topk(settings.shortlist).indices
    return masks[best.sort().values]


def _cut(heat: Tensor, settings: Settings) -> Tensor:
    if settings.threshold is not None:
        return (heat >= settings.threshold)[None]
    if settings.proposals == "things":
        zones = separate(heat, settings.prominence)
        return best_cuts(heat, zones, settings.thresholds, settings.least_area)
    parts = settings.proposals == "parts"
    masks = from_heat(heat, settings.thresholds, settings.reading, parts, settings.least_area)
    return keep_largest(masks, settings.largest) if settings.largest else masks


@dataclass(frozen=True, eq=False)
class Judged:
    """What CLIP says of each mask, [N] each: s^D, and how probable it is that it shows the words.

    likely is None for a CLIP that can't say; see `ClipScorer.probability`.
    """

    similarity: Tensor
    likely: Tensor | None = None


class Regions:
    """Masks of one picture as CLIP sees them, looked at once for any number of sentences."""

    def __init__(self, clip: ClipScorer, pixels: Tensor, masks: Tensor) -> None:
        self.clip, self.pixels, self.masks = clip, pixels, masks
        self._features: RegionFeatures | None = None

    def judged(self, noun: Noun, expression: Expression, settings: Settings) -> Judged:
        """s^D of section 3.3: how close each mask, cut out and in place, is to the words."""
        texts = self.clip.text_features([expression.text, noun.phrase, noun.word.text])
        if settings.texts == "official":
            crop_text, masked_text = texts[0], blend(texts, [0.5, 0.0, 0.5])
        elif settings.texts == "paper":
            crop_text = masked_text = blend(texts, [0.5, 0.5, 0.0])
        else:
            crop_text = masked_text = texts[1]
        seen = self._seen(expression, settings)
        near = similarity(seen, crop_text, masked_text, settings.beta)
        return Judged(near, self.clip.probability(near))

    def _seen(self, expression: Expression, settings: Settings) -> RegionFeatures:
        """The masks' features; made anew only where the words change the picture's pixels."""
        crop, masked = darkened(self.pixels, expression, settings.bias)
        same = crop is self.pixels and masked is self.pixels
        if same and self._features is not None:
            return self._features
        features = RegionFeatures(
            self.clip.crop_features(crop, self.masks, settings.crop),
            self.clip.masked_features(masked, self.masks),
        )
        if same:
            self._features = features
        return features


@dataclass(frozen=True, eq=False)
class Scored:
    """Masks [N, h, w] and, [N] each, s^G, s^D, the weight of their place, and the fused score s.

    likely: as in `Judged`.
    """

    masks: Tensor
    generative: Tensor
    clip: Tensor | None
    place: Tensor
    total: Tensor
    notes: tuple[str, ...] = ()
    likely: Tensor | None = None


def scored(
    expression: Expression,
    heat: Tensor,
    masks: Tensor,
    settings: Settings,
    clip: Judged | None = None,
    anchors: Mapping[Noun, Tensor] | None = None,
) -> Scored:
    """Fusion: s = alpha s^G + (1 - alpha) s^D, moved by place, size, order and relation words.

    clip: None for the generative half alone. anchors: the heat of each noun that the
    expression relates its root to.
    """
    generative = scoring.SCORES[settings.score](heat, masks)
    near, likely = (None, None) if clip is None else (clip.similarity, clip.likely)
    weighted = geometry.Weighted(torch.ones(len(masks)))
    if settings.bias == "geometry":
        evidence = scoring.evidence(heat, masks, near)
        weighted = geometry.weights(masks, expression, evidence, dict(anchors or {}))
    total = scoring.combine(generative, near, weighted.weights, settings.alpha, settings.strength)
    notes = tuple(weighted.notes)
    return Scored(masks, generative, near, weighted.weights, total, notes, likely)


def picked(expression: Expression, found: Scored, settings: Settings, choice: int = 1) -> list[int]:
    """Which masks are the answer: one, or for a plural the best of each thing that is meant.

    choice: 2 takes the next best different mask, and so on; ValueError when there are not as many.
    """
    if settings.bias == "geometry" and expression.number != 1 and choice == 1:
        return scoring.union(found.masks, found.total, None, expression.number)
    return [scoring.choose(found.total, found.masks, choice, DISTINCT)]


def presence_map(maps: TokenMaps, columns: tuple[int, ...], size: tuple[int, int]) -> Tensor | None:
    """How much of each place's attention the word holds, [h, w] in 0..1; None for logits."""
    if maps.mode == "logits":
        return None
    raw = word_map(maps, columns, size=size, normalise=False)
    return raw.exp() if maps.mode == "log_probabilities" else raw


def presence_of(held: Tensor | None, found: Scored) -> float:
    """Is the thing there at all? 0..1, by the masks that show it best, whichever is chosen.

    The geometric mean of what is known: the highest mean of a presence map inside a mask, and the
    highest of CLIP's probabilities. 0 without masks, 1 when nothing is known.
    """
    masks = found.masks.flatten(1).float()
    if not bool(masks.any()):
        return 0.0
    means = None if held is None else masks @ held.flatten() / masks.sum(1).clamp(min=1)
    signs = [float(sign.max()) for sign in (means, found.likely) if sign is not None]
    return math.prod(signs) ** (1 / max(1, len(signs)))
