"""Which masks stand for the same thing, and what is known of each thing.

A heat map cut at many levels gives many masks of one cat; counting, ranking and comparing need
each cat once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .grid import MaskGrid, boxes, count

PLAUSIBLE = 0.5  # share of the best evidence that a thing needs for order and size to count it
MOSTLY = 0.75  # share of a mask inside another from which it lies in it
SPECK = 0.05  # a part smaller than this share of the largest part is no rival to it
STEEP = 8.0  # of the logistic curve over 0..1: 0.98 at one end, 0.02 at the other


@dataclass(frozen=True)
class Things:
    """What the masks stand for, one row per thing, shown by the mask with the best evidence.

    centroids: (y, x) in 0..1, [G, 2]; areas: shares of the picture, [G]; boxes: see
    `cells.boxes`, [G, 4]; likely: bool [G], whether it fits the noun well enough to be counted.
    """

    centroids: Tensor
    areas: Tensor
    boxes: Tensor
    cells: MaskGrid
    likely: Tensor

    @property
    def span(self) -> Tensor:
        """(height, width) of the picture, the longer being 1: what turns positions to lengths."""
        return torch.tensor(self.cells.span, device=self.areas.device)

    def relative(self, value: Tensor, least: float) -> Tensor:
        """Logistic place of each value between the least and greatest likely one, the best 1.

        Values closer together than `least` are told apart less.
        """
        low, high = value[self.likely].amin(), value[self.likely].amax()
        place = (value - (low + high) / 2) / (high - low).clamp(min=least)
        return self.to_best(torch.sigmoid(STEEP * place.clamp(-0.5, 0.5)))

    def to_best(self, weight: Tensor) -> Tensor:
        """Weights scaled so that the best likely thing has 1."""
        return (weight / weight[self.likely].amax().clamp(min=1e-9)).clamp(0, 1)


def instances(masks: Tensor, evidence: Tensor, overlap: float = 0.5) -> Tensor:
    """Which thing each mask stands for: long [N], 0 for the thing with the best evidence.

    masks: bool [N, H, W]; evidence: [N] in 0..1, how well each fits the noun. Masks are the same
    thing when their IoU exceeds `overlap` or when one lies mostly in the other. A mask that covers
    several things which it does not connect, or which fit the noun better than it does, stands
    for none of them: -1. The order of the masks does not matter.
    Raises ValueError for masks or evidence of a wrong shape.
    """
    check(masks, evidence)
    labels = _labels(count(masks).filled, evidence.tolist(), overlap)
    return torch.tensor(labels, dtype=torch.long, device=evidence.device)


def same_object(masks: Tensor, scores: Tensor, overlap: float = 0.5) -> list[int]:
    """Which object each mask shows, [N] numbers from 0 for the best mask's: the one rule for it.

    Counting, picking several and the next `choice` all ask it. Masks are the same object when one
    of them shares more than `overlap` of the smaller of the two, so that a part and its whole are
    one. A mask belongs to the best-scored mask that it is the same as.
    Raises ValueError for masks that are not [N, H, W] or scores that are not [N].
    """
    check(masks, scores)
    flat = masks.flatten(1).float()
    area = flat.sum(1)
    least = torch.minimum(area[:, None], area[None]).clamp(min=1)
    same = (flat @ flat.T / least > overlap).tolist()
    seeds: list[int] = []
    numbers = [0] * len(scores)
    for index in scores.argsort(descending=True, stable=True).tolist():
        owner = next((n for n, seed in enumerate(seeds) if same[index][seed]), len(seeds))
        if owner == len(seeds):
            seeds.append(index)
        numbers[index] = owner
    return numbers


def best_of_each(scores: Tensor, labels: list[int]) -> list[int]:
    """The best-scored mask of each object, best first; masks of none (negative) are left out."""
    best: dict[int, int] = {}
    for index in scores.argsort(descending=True, stable=True).tolist():
        if labels[index] >= 0:
            best.setdefault(labels[index], index)
    return list(best.values())


def things_of(masks: Tensor, evidence: Tensor, overlap: float = 0.5) -> tuple[Things, Tensor]:
    """The things that at least one mask shows, and `instances` of the masks."""
    check(masks, evidence)
    cells, values = count(masks), evidence.tolist()
    labels = _labels(cells.filled, values, overlap)
    shown: dict[int, int] = {}
    for index in sorted(range(len(values)), key=lambda index: -values[index]):
        shown.setdefault(labels[index], index)
    best = [shown[thing] for thing in range(max(labels) + 1)]
    own = cells.of(best)
    things = Things(
        centroids=own.middles(own.shares),
        areas=own.shares.flatten(1).sum(1),
        boxes=boxes(masks[best]),
        cells=own,
        likely=evidence[best] >= PLAUSIBLE * evidence[best].amax(),
    )
    return things, torch.tensor(labels, device=evidence.device)


def _labels(filled: Tensor, evidence: list[float], overlap: float) -> list[int]:
    """`instances` of masks on the coarse grid, found from the smallest mask to the largest."""
    flat = filled.flatten(1).float()
    both, size = flat @ flat.T, flat.sum(1).clamp(min=1e-6)
    same = both / (size[:, None] + size - both) > overlap
    inside = both / size[:, None] > MOSTLY
    alike = [set(row.nonzero()[0].tolist()) for row in (same | inside.T).cpu().numpy()]
    grids = filled.cpu().numpy()
    things: list[list[int]] = []
    for index in size.argsort(stable=True).tolist():
        held = [thing for thing in things if not alike[index].isdisjoint(thing)]
        joined = _joined(index, held, grids, evidence) if len(held) > 1 else held
        if joined is not None:
            things = [thing for thing in things if thing not in joined]
            things.append([*(member for thing in joined for member in thing), index])
    return _numbered(things, evidence)


def _joined(
    index: int, held: list[list[int]], grids: np.ndarray, evidence: list[float]
) -> list[list[int]] | None:
    """The things `held` in mask `index` that it shows to be one; None when it covers several.

    The parts must touch within the mask, and the mask must fit the noun better than any part of
    more than a speck; specks that do not touch stay things of their own.
    """
    from scipy import ndimage

    parts = [grids[thing].any(0) & grids[index] for thing in held]
    sizes = [int(part.sum()) for part in parts]
    pieces, many = ndimage.label(grids[index], structure=np.ones((3, 3)))
    reached = np.zeros(many + 1, dtype=bool)
    reached[pieces[parts[sizes.index(max(sizes))]]] = True
    touching = [bool(reached[pieces[part]].any()) for part in parts]
    grown = [size >= SPECK * max(sizes) for size in sizes]
    if any(big and not touched for big, touched in zip(grown, touching, strict=True)):
        return None
    rivals = [max(evidence[i] for i in t) for t, big in zip(held, grown, strict=True) if big]
    if len(rivals) > 1 and evidence[index] <= max(rivals):
        return None
    return [thing for thing, touched in zip(held, touching, strict=True) if touched]


def _numbered(things: list[list[int]], evidence: list[float]) -> list[int]:
    labels = [-1] * len(evidence)
    ranked = sorted(things, key=lambda thing: -max(evidence[member] for member in thing))
    for number, thing in enumerate(ranked):
        for member in thing:
            labels[member] = number
    return labels


def check(masks: Tensor, evidence: Tensor) -> None:
    """ValueError unless masks are bool [N, H, W] and evidence is [N]."""
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"masks have shape {tuple(masks.shape)} and type {masks.dtype}, "
            "wanted bool [N, H, W]; compare the map with a threshold first."
        )
    if evidence.shape != masks.shape[:1]:
        raise ValueError(
            f"evidence has shape {tuple(evidence.shape)} for {len(masks)} masks, "
            "wanted one number per mask; score every mask first."
        )
