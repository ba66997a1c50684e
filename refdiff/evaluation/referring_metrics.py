"""The field's figures for referring segmentation, per sentence and over many.

Names and formulas: oIoU, mIoU and Pr@X as in LAVT (arXiv 2112.02244) and the papers after it;
gIoU, cIoU, N-acc. and T-acc. as in GRES (arXiv 2306.00968). Everything is counted per sentence, in
pixels of the picture itself, and a sentence without a mask counts as an empty mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..masks.rle import area, overlap
from .datasets.items import Item
from .predictions import Prediction

Figures = dict[str, int | float | None]

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
NAMES = {
    "oiou": "oIoU",
    "miou": "mIoU",
    **{f"pr{round(level * 100)}": f"Pr@{level}" for level in LEVELS},
    "giou": "gIoU",
    "ciou": "cIoU",
    "n_acc": "N-acc.",
    "t_acc": "T-acc.",
}
"""Every figure, and what the field calls it."""

NO_TARGET = "no target"
"""The kind of sentences that mean nothing in the picture, whatever they say."""


@dataclass(frozen=True)
class Score:
    """One sentence's mask against what is meant, in pixels.

    predicted, truth: areas. answered: there was a prediction at all.
    """

    id: str
    image: str
    kinds: tuple[str, ...]
    targets: int
    intersection: int
    predicted: int
    truth: int
    answered: bool = True
    seconds: float | None = None

    @property
    def union(self) -> int:
        """Pixels inside either mask."""
        return self.predicted + self.truth - self.intersection

    @property
    def iou(self) -> float:
        """Intersection over union in 0..1; two empty masks agree: 1."""
        return self.intersection / self.union if self.union else 1.0


def score(item: Item, prediction: Prediction | None, kinds: tuple[str, ...] = ()) -> Score:
    """Compare one mask with what its sentence means; ValueError when the sizes differ.

    prediction: None counts as an empty mask. kinds: of the sentence; `NO_TARGET` is added.
    """
    if prediction is not None and tuple(prediction.mask["size"]) != item.size:
        raise ValueError(
            f"The mask of sentence {item.id} is {tuple(prediction.mask['size'])} but its picture "
            f"'{item.image}' is {item.size} (height, width); masks have the size of their "
            "picture, so scale them back."
        )
    return Score(
        id=item.id,
        image=item.image,
        kinds=kinds if item.targets else (*kinds, NO_TARGET),
        targets=item.targets,
        intersection=overlap(prediction.mask, item.truth) if prediction else 0,
        predicted=area(prediction.mask) if prediction else 0,
        truth=area(item.truth),
        answered=prediction is not None,
        seconds=prediction.seconds if prediction else None,
    )


def score_all(items: Sequence[Item], predictions: Iterable[Prediction]) -> list[Score]:
    """The scores in the order of the items; masks are looked at one at a time and let go.

    Predictions of other sentences are passed over; of two for one sentence the first counts.
    """
    by_id = {item.id: item for item in items}
    found: dict[str, Score] = {}
    for one in predictions:
        item = by_id.get(one.id)
        if item is not None and one.id not in found:
            found[one.id] = score(item, one, _kinds(item, one))
    return [found.get(item.id) or score(item, None, _kinds(item, None)) for item in items]


def _kinds(item: Item, prediction: Prediction | None) -> tuple[str, ...]:
    """As the run that made the mask read the sentence, else as it is read now."""
    from .kinds import kinds_of

    known = prediction.kinds if prediction else None
    return kinds_of(item.text) if known is None else known


def figures(scores: Sequence[Score]) -> Figures:
    """Every figure over some sentences, as shares of 1; None where there is nothing to count.

    n: sentences; targeted: those that mean something; empty: masks without a pixel; unanswered:
    sentences without a mask. oIoU, mIoU and Pr@X are over the targeted ones alone; gIoU and cIoU
    over all, a sentence without target being right when its mask is empty and adding its mask to
    cIoU's unions when not. N-acc.: share of those without target whose mask is empty; T-acc.:
    share of the targeted whose mask is not. Targeted sentences whose truth has no pixel are left
    out of all but n, as nothing could be right about them.
    """
    usable = [one for one in scores if one.truth or not one.targets]
    targeted = [one for one in usable if one.targets]
    without = [one for one in usable if not one.targets]
    found: Figures = {
        "n": len(scores),
        "targeted": len(targeted),
        "empty": sum(not one.predicted for one in scores),
        "unanswered": sum(not one.answered for one in scores),
        "oiou": _pooled(targeted),
        "miou": _mean([one.iou for one in targeted]),
    }
    for level in LEVELS:
        found[f"pr{round(level * 100)}"] = _mean([one.iou >= level for one in targeted])
    return found | {
        "giou": _mean([one.iou for one in usable]),
        "ciou": _pooled(usable),
        "n_acc": _mean([not one.predicted for one in without]),
        "t_acc": _mean([bool(one.predicted) for one in targeted]),
    }


def by_kind(scores: Sequence[Score]) -> Mapping[str, Figures]:
    """The figures of each kind; a sentence of several kinds counts in each of them."""
    from .kinds import KINDS

    order = [*KINDS, NO_TARGET]
    names = dict.fromkeys(kind for one in scores for kind in one.kinds)
    known = [name for name in order if name in names] + [n for n in names if n not in order]
    return {name: figures([one for one in scores if name in one.kinds]) for name in known}


def _pooled(scores: Sequence[Score]) -> float | None:
    """Sum of intersections over sum of unions."""
    unions = sum(one.union for one in scores)
    return sum(one.intersection for one in scores) / unions if unions else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
