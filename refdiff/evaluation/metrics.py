"""How good masks are: one outcome per sentence, and the figures over many.

IoU is |mask and target| / |mask or target|, the target being the union of the objects meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Figures = dict[str, int | float | None]


@dataclass(frozen=True)
class Outcome:
    """What one sentence's mask amounts to, in pixels of its picture."""

    kind: str
    present: bool  # the sentence means at least one object
    intersection: int  # of the mask and the union of the objects meant
    union: int
    right: bool  # overlaps what is meant more than any other object
    empty: bool  # the mask has no pixel

    @property
    def iou(self) -> float:
        """Intersection over union, in 0..1."""
        return _share(self.intersection, self.union)


def judge(mask: np.ndarray, objects: np.ndarray, meant: Sequence[int], kind: str = "") -> Outcome:
    """Compare one mask with the objects meant and with every other object.

    mask: [H, W] bool. objects: [N, H, W] bool, all objects of the picture. meant: indices, none
    for a thing that is not there. The mask is right when its IoU with the union of what is meant
    is above its IoU with every single other object, and above zero. Raises ValueError when the
    sizes differ.
    """
    if mask.shape != objects.shape[1:]:
        raise ValueError(
            f"The mask is {mask.shape} but the objects are {objects.shape[1:]} (height, width); "
            "masks have the size of their picture."
        )
    mask = mask.astype(bool)
    chosen = np.isin(np.arange(len(objects)), list(meant))
    target = np.logical_or.reduce(objects[chosen], axis=0)
    intersection, union = _overlap(mask, target)
    others = [_share(*_overlap(mask, other)) for other in objects[~chosen]]
    right = _share(intersection, union) > max(others, default=0.0)
    return Outcome(kind, bool(len(meant)), intersection, union, right, not mask.any())


def summarise(outcomes: Sequence[Outcome]) -> Figures:
    """Figures over the sentences that mean at least one object, shares in 0..1, 4 digits.

    n: how many. miou: mean IoU. oiou: sum of intersections over sum of unions. pr50: share with
    IoU above 0.5. right_object: share that is right. All but n are None when n is 0.
    """
    present = [outcome for outcome in outcomes if outcome.present]
    intersections = sum(outcome.intersection for outcome in present)
    unions = sum(outcome.union for outcome in present)
    return {
        "n": len(present),
        "miou": _mean([outcome.iou for outcome in present]),
        "oiou": round(_share(intersections, unions), 4) if present else None,
        "pr50": _mean([outcome.iou > 0.5 for outcome in present]),
        "right_object": _mean([outcome.right for outcome in present]),
    }


def summarise_kind(outcomes: Sequence[Outcome]) -> Figures:
    """Figures of one kind: as `summarise`, or {n, empty_rate} when no sentence means an object.

    empty_rate: share of empty masks where nothing is meant. A kind with both has all figures,
    and `n_absent` says over how many sentences empty_rate is.
    """
    absent = [outcome.empty for outcome in outcomes if not outcome.present]
    if len(absent) == len(outcomes):
        return {"n": len(absent), "empty_rate": _mean(absent)}
    figures = summarise(outcomes)
    return figures | {"n_absent": len(absent), "empty_rate": _mean(absent)} if absent else figures


def _overlap(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    return int((mask & other).sum()), int((mask | other).sum())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
