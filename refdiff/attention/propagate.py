"""Heat spread along the self-attention: places that look at each other share what they know.

The mean self-attention A of layers of one grid has n x n numbers, and its square is what is wanted.
It is never squared, and built only where it is small: queries and keys are kept, rows of A are made
a few at a time, and each is multiplied with the heat as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Grid = tuple[int, int]

ENTROPY = 0.1  # iSeg's `ent` for COCO; 0.015 for VOC
ROUNDS = 10  # iSeg's `iter`
_CHUNK = 1 << 22  # most numbers of A, over all heads, held at once: 16 MiB
_SMALL = 1 << 24  # numbers of an A that is kept between two multiplications: 64 MiB


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """What one self-attention layer asked and answered, for one picture.

    query, key: [n, heads * d], n being the places of the grid (height, width), row by row.
    """

    query: Tensor
    key: Tensor
    heads: int
    grid: Grid

    def __post_init__(self) -> None:
        places = self.grid[0] * self.grid[1]
        if self.query.shape != self.key.shape or self.query.shape[0] != places:
            raise ValueError(
                f"Queries {tuple(self.query.shape)} and keys {tuple(self.key.shape)} do not fill a "
                f"grid of {self.grid[0]}x{self.grid[1]}."
            )

    def rows(self) -> Iterator[tuple[slice, Tensor]]:
        """Parts of A, heads averaged: which rows, and these, [r, n], each summing to 1."""
        places = len(self.query)
        step = max(1, _CHUNK // (self.heads * places))
        key = self._by_head(self.key)
        for first in range(0, places, step):
            part = slice(first, min(first + step, places))
            query = self._by_head(self.query[part])
            logits = query @ key.mT * query.shape[-1] ** -0.5
            yield part, logits.softmax(-1).mean(0)

    def _by_head(self, tensor: Tensor) -> Tensor:
        return tensor.float().unflatten(1, (self.heads, -1)).transpose(0, 1)


def propagate(heat: Tensor, layers: Sequence[SelfAttention], order: int = 2) -> Tensor:
    """A applied `order` times to the heat: [K, h, w] in, [K, *grid] out, float32.

    A place gets the mean of what the places it looks at have. heat: at any size, resampled to the
    layers' grid. Order 2 is best with 1/8 of the picture (GoCA, arXiv 2603.06178; order 3 costs
    0.9 mIoU, coarser layers 5.8).
    """
    grid = _grid_of(layers)
    values, parts = _on_grid(heat, grid), _Rows(layers, order)
    for _ in range(order):
        moved = torch.zeros_like(values)
        for part, rows in parts:
            moved[part] += rows @ values
        values = moved / len(layers)
    return values.mT.unflatten(1, grid)


def propagate_sharpened(
    heat: Tensor,
    layers: Sequence[SelfAttention],
    rounds: int = ROUNDS,
    entropy: float = ENTROPY,
) -> Tensor:
    """The same with the entropy of A reduced, many times over: [K, h, w] in, [K, *grid] out, 0..1.

    Each row a of A, divided by its maximum, becomes a + entropy * log10(e a), cut off below 0, so
    that weak links go; heat then flows along what is left, and its lowest value is taken off after
    each round (iSeg, arXiv 2409.03209).
    """
    grid = _grid_of(layers)

    def links(rows: Tensor) -> Tensor:
        rows = rows / rows.amax(1, keepdim=True)
        return (rows + entropy * (torch.e * rows).log10()).clamp(min=0)

    values, parts = _stretched(_on_grid(heat, grid)), _Rows(layers, rounds, links)
    for _ in range(rounds):
        above, below = torch.zeros_like(values), torch.zeros(len(values), 1)
        for part, rows in parts:
            above += rows.mT @ values[part]
            below += rows.sum(0)[:, None]
        values = _stretched(above / below.clamp(min=torch.finfo(below.dtype).tiny))
    values = values / values.amax(0, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return values.mT.unflatten(1, grid)


class _Rows:
    """Every layer's rows of A, part by part; summed over the layers and kept where that is small.

    times: how often they will be gone through. change: made of each layer's rows.
    """

    def __init__(
        self,
        layers: Sequence[SelfAttention],
        times: int,
        change: Callable[[Tensor], Tensor] = lambda rows: rows,
    ) -> None:
        self._layers, self._change = layers, change
        self._whole: Tensor | None = None
        places = len(layers[0].query)
        if times > 1 and places**2 <= _SMALL:
            self._whole = torch.zeros(places, places)
            for part, rows in self._fresh():
                self._whole[part] += rows

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        return self._fresh() if self._whole is None else iter([(slice(None), self._whole)])

    def _fresh(self) -> Iterator[tuple[slice, Tensor]]:
        for layer in self._layers:
            for part, rows in layer.rows():
                yield part, self._change(rows)


def _stretched(values: Tensor) -> Tensor:
    """Columns from 0 up that sum to 1."""
    values = values - values.amin(0, keepdim=True)
    return values / values.sum(0, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def _on_grid(heat: Tensor, grid: Grid) -> Tensor:
    """[K, h, w] to [n, K]."""
    resampled = interpolate(heat.float()[None], grid, mode="bilinear", align_corners=False)[0]
    return resampled.flatten(1).mT


def _grid_of(layers: Sequence[SelfAttention]) -> Grid:
    grids = {layer.grid for layer in layers}
    if len(grids) != 1:
        raise ValueError(f"The layers' grids are {sorted(grids)}, wanted one grid for all.")
    return grids.pop()
