"""Masks counted on a coarse grid, where overlaps and distances cost little.

Positions are (y, x) in 0..1 from the top left; lengths between two points are in shares of the
picture's longer side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

GRID = 48  # cells a side at most
NEARBY = 0.15  # distance over which closeness falls to 1/e


@dataclass(frozen=True)
class MaskGrid:
    """What masks cover on a grid of at most GRID cells a side.

    shares: float [N, h, w], the part of the picture that a mask covers in each cell; filled: bool
    [N, h, w], cells covered by half or more, at least one for every mask that is not empty; rows
    [h] and columns [w]: middles of the cells; span: (height, width), the longer being 1.
    """

    shares: Tensor
    filled: Tensor
    rows: Tensor
    columns: Tensor
    span: tuple[float, float]

    def of(self, indices: list[int]) -> MaskGrid:
        """The same for some of the masks."""
        return replace(self, shares=self.shares[indices], filled=self.filled[indices])

    def middles(self, mass: Tensor) -> Tensor:
        """Centre (y, x) of each map of mass [K, h, w]: [K, 2]; the picture's middle for none."""
        total = mass.flatten(1).sum(1)
        sums = torch.stack([mass.sum(2) @ self.rows, mass.sum(1) @ self.columns], 1)
        return torch.where(total[:, None] > 0, sums / total[:, None].clamp(min=1e-9), 0.5)

    def closeness(self, heat: Tensor, outside: bool) -> Tensor:
        """Heat [h, w] summed, each cell counting less the farther it is from the mask: [N].

        outside: leave out the cells that the mask fills.
        """
        y, x = heat.nonzero(as_tuple=True)
        down = ((self.rows[:, None] - self.rows[y]) * self.span[0]).square()
        across = (self._to_nearest_in_row() * self.span[1]).square()
        columns = across.permute(2, 1, 0).contiguous().index_select(0, x)
        far = (columns + down.T[:, :, None]).amin(1).sqrt()
        near = torch.exp(-far / NEARBY) * heat[y, x, None]
        return (near * (far > 0) if outside else near).sum(0)

    def _to_nearest_in_row(self) -> Tensor:
        """Distance from each cell to the nearest filled one of its row: [N, h, w]."""
        before = torch.where(self.filled, self.columns, -torch.inf).cummax(2).values
        after = torch.where(self.filled, self.columns, torch.inf).flip(2).cummin(2).values.flip(2)
        return torch.minimum(self.columns - before, after - self.columns)


def count(masks: Tensor) -> MaskGrid:
    """Count the pixels of masks, bool [N, H, W], in every cell."""
    height, width = masks.shape[1:]
    down, across = -(-height // GRID), -(-width // GRID)
    rows, heights = _cut(height, down, masks.device)
    columns, widths = _cut(width, across, masks.device)
    kind = torch.uint8 if down * across <= 255 else torch.int32  # bytes are added the fastest
    pixels = _added(_added(masks.view(torch.uint8), 1, down, kind), 2, across, kind).float()
    filled = pixels >= 0.5 * heights[:, None] * widths
    lost = ~filled.flatten(1).any(1)
    if bool(lost.any()):
        filled[lost] = pixels[lost] > 0
    span = (height / max(height, width), width / max(height, width))
    return MaskGrid(pixels / (height * width), filled, rows, columns, span)


def _cut(size: int, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A side of `size` pixels in cells of `step`: their middles in 0..1 and lengths in pixels."""
    edges = torch.arange(0, size + step, step, device=device).clamp(max=size).float()
    return (edges[1:] + edges[:-1]) / (2 * size), edges[1:] - edges[:-1]


def _added(pixels: Tensor, axis: int, step: int, kind: torch.dtype) -> Tensor:
    """Every `step` entries along an axis added to one, the last of them being perhaps fewer."""
    whole = pixels.shape[axis] // step * step
    first, rest = pixels.tensor_split([whole], axis)
    added = [first.unflatten(axis, (-1, step)).sum(axis + 1, dtype=kind)]
    added += [rest.sum(axis, keepdim=True, dtype=kind)] if rest.numel() else []
    return torch.cat(added, axis)


def boxes(masks: Tensor) -> Tensor:
    """(top, left, bottom, right) of each mask: [N, 4] in 0..1; zeros for an empty mask."""
    sides = []
    for axis in (2, 1):
        used = masks.view(torch.uint8).amax(axis).bool()
        size = used.shape[1]
        place = torch.arange(size, device=masks.device)
        first = torch.where(used, place, size).amin(1)
        last = torch.where(used, place + 1, 0).amax(1)
        sides.append(torch.stack([torch.minimum(first, last), last]).float() / size)
    (top, bottom), (left, right) = sides
    return torch.stack([top, left, bottom, right], 1)
