"""Many masks of one picture in little memory: run lengths at its own size, bits at working size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from .resize import resize_masks

SAME = 0.9
"""IoU above which two masks count as one, where masks come by the thousand."""
SMALLEST, LARGEST = 0.0002, 0.98
"""Relative areas between which such masks are kept."""
CRUMB = 0.02
"""A part, or a hole, smaller than this share of its mask is no part of it."""
_GRID = 64  # cells a side on which masks are compared before they are compared exactly

Size = tuple[int, int]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Runs:
    """One mask as COCO's compressed run lengths."""

    counts: bytes
    size: Size

    @classmethod
    def of(cls, mask: Mask) -> Runs:
        """The run lengths of a mask [H, W]."""
        from pycocotools import mask as coco

        counts = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
        return cls(counts, (mask.shape[0], mask.shape[1]))

    def mask(self) -> Mask:
        """The mask [H, W]."""
        from pycocotools import mask as coco

        return coco.decode({"size": list(self.size), "counts": self.counts}).astype(bool)

    @property
    def area(self) -> int:
        """Pixels inside."""
        from pycocotools import mask as coco

        return int(coco.area({"size": list(self.size), "counts": self.counts}))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Masks of one picture: `len()` of them.

    runs: each at the picture's own size. small: bool [N, h, w], the working size.
    """

    runs: tuple[Runs, ...]
    small: Tensor

    def __len__(self) -> int:
        return len(self.runs)

    def full(self, indices: Sequence[int]) -> Tensor:
        """Some of them at the picture's size: bool [K, H, W]."""
        return torch.from_numpy(np.stack([self.runs[index].mask() for index in indices]))

    def sized(self, small: Size) -> Candidates:
        """The same at another working size, (height, width)."""
        if tuple(self.small.shape[1:]) == small:
            return self
        masks = (torch.from_numpy(one.mask())[None] for one in self.runs)
        return Candidates(self.runs, torch.cat([resize_masks(mask, small) for mask in masks]))

    def of(self, indices: Sequence[int]) -> Candidates:
        """Some of them."""
        return Candidates(tuple(self.runs[index] for index in indices), self.small[list(indices)])


def gather(
    masks: Iterable[Mask | Runs],
    small: Size,
    progress: Callable[[int], object] | None = None,
) -> Candidates:
    """Take masks in one by one; empty ones are left out.

    small: the working size, (height, width). progress: called with how many there are.
    Raises ValueError when none is left.
    """
    runs: list[Runs] = []
    reduced: list[Tensor] = []
    seen = 0
    for each in masks:
        seen += 1
        mask = each.mask() if isinstance(each, Runs) else each
        if not mask.any():
            continue
        runs.append(each if isinstance(each, Runs) else Runs.of(mask))
        reduced.append(resize_masks(torch.from_numpy(mask)[None], small)[0])
        if progress:
            progress(len(runs))
    if not runs:
        raise ValueError(
            f"All {seen} proposals are empty, wanted at least one pixel inside; look at what made "
            "them."
        )
    return Candidates(tuple(runs), torch.stack(reduced))


def distinct(found: Candidates, same: float = SAME) -> Candidates:
    """Without masks that are all of the picture or next to nothing, and each thing once.

    Of masks whose IoU exceeds `same` the first stays. If none is left, all are.
    """
    height, width = found.runs[0].size
    shares = [run.area / (height * width) for run in found.runs]
    fit = [i for i, share in enumerate(shares) if SMALLEST <= share <= LARGEST]
    kept = _first_of_each(found.small[fit], same) if fit else []
    return found.of([fit[index] for index in kept]) if kept else found


def _first_of_each(masks: Tensor, same: float) -> list[int]:
    """The indices of masks [N, h, w] that no earlier kept one equals."""
    grid = (min(_GRID, masks.shape[1]), min(_GRID, masks.shape[2]))
    coarse = torch.cat([
        interpolate(part[:, None].float(), grid, mode="area").flatten(1)
        for part in masks.split(128)
    ])  # fmt: skip
    kept: list[int] = []
    areas = coarse.sum(1)
    for index, mine in enumerate(coarse):
        both = torch.minimum(coarse[kept], mine).sum(1) if kept else areas[:0]
        near = both / (areas[kept] + areas[index] - both).clamp(min=1e-6)
        alike = [kept[at] for at in (near > same - 0.1).nonzero().flatten().tolist()]
        if not any(_iou(masks[index], masks[other]) > same for other in alike):
            kept.append(index)
    return kept


def _iou(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum()) / max(1, int((one | other).sum()))


def without_crumbs(mask: Mask) -> Mask:
    """The mask without small parts and small holes: see CRUMB."""
    from scipy import ndimage

    def large(values: Mask, least: float) -> Any:
        labels, count = ndimage.label(values)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        return (sizes >= least)[labels]

    if not mask.any():
        return mask
    least = CRUMB * mask.sum()
    solid = large(mask, least)
    return ~large(~solid, least) if not solid.all() else solid


def numbered(found: Candidates) -> Iterator[tuple[int, Tensor]]:
    """Every candidate's number, from 1, and mask at working size, the largest first."""
    areas = found.small.flatten(1).sum(1)
    for index in areas.argsort(descending=True, stable=True).tolist():
        yield index + 1, found.small[index]
