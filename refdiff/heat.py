"""The working size: pictures and masks brought to it and back, heat that follows edges."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from .attention import min_max

LONGEST = 256
"""Long side of the working size in pixels: heat, proposals and scores live there."""
RADIUS = 0.1
"""Reach of the guided filter, in long sides."""


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at the picture's own aspect with a long side of at most `LONGEST`."""
    scale = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def to_tensor(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """An RGB picture at (height, width) as [3, h, w] float32 in 0..1."""
    small = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def shrunk(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [N, H, W] bool at a smaller size; a small one keeps the places it covers most.

    What `enlarged` made comes back exactly.
    """
    exact = _undone(masks, size)
    if exact is not None:
        return exact
    small = interpolate(masks[:, None].float(), size, mode="area")[:, 0]
    least = (0.5 * small.flatten(1).amax(1)).clamp(max=0.5)[:, None, None]
    return (small >= least) & (small > 0)


def reduced(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Heat [K, H, W] at a smaller size, averaged; what `enlarged` made comes back exactly."""
    exact = _undone(heat, size)
    return interpolate(heat[:, None], size, mode="area")[:, 0] if exact is None else exact


def enlarged(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Heat or a mask [h, w] at a larger size, interpolated between the old places.

    Each old place keeps its value exactly at one of the new ones, so nothing is lost.
    """
    if tuple(values.shape) == size:
        return values
    if values.dtype == torch.bool:
        return enlarged(values.float(), size) >= 0.5
    return _stretched(_stretched(values, size[1]).T, size[0]).T.contiguous()


def _stretched(values: Tensor, width: int) -> Tensor:
    """Rows [h, w] to [h, width], linear between the knots."""
    count = values.shape[1]
    if count == 1:
        return values.expand(-1, width)
    knots, places = _knots(count, width), torch.arange(width)
    right = torch.searchsorted(knots, places).clamp(1, count - 1)
    start, end = knots[right - 1], knots[right]
    share = ((places - start) / (end - start)).clamp(0, 1)
    return torch.lerp(values[:, right - 1], values[:, right], share)


def _knots(count: int, width: int) -> Tensor:
    """Where each of `count` places lies among `width` finer ones."""
    return ((torch.arange(count) + 0.5) * width / count).long()


def _undone(stack: Tensor, size: tuple[int, int]) -> Tensor | None:
    """The stack [N, h, w] of which `enlarged` makes this [N, H, W]; None when there is none."""
    height, width = stack.shape[1:]
    if height < size[0] or width < size[1]:
        return None
    rows, columns = _knots(size[0], height), _knots(size[1], width)
    small = stack[:, rows][:, :, columns]
    made = (
        torch.equal(enlarged(one, (height, width)), whole)
        for one, whole in zip(small, stack, strict=True)
    )
    return small if all(made) else None


def snapped(heat: Tensor, picture: Tensor, amount: float) -> Tensor:
    """Heat [H, W] drawn towards the edges of the picture [3, H, W], again 0..1.

    amount: share of the filtered heat, 0..1.
    """
    filtered = guided_filter(heat, picture, max(2, round(RADIUS * max(heat.shape))))
    return min_max(torch.lerp(heat, filtered.clamp(0, 1), amount))


def guided_filter(
    source: Tensor, guide: Tensor, radius: int, epsilon: float = 1e-3, coarser: int = 2
) -> Tensor:
    """source [H, W] as a locally linear function of the colours of guide [3, H, W].

    The colour guided filter (He et al., TPAMI 2013), its coefficients worked out on a grid
    `coarser` times smaller (He and Sun, arXiv 1505.00996).
    """
    height, width = source.shape
    size = max(1, height // coarser), max(1, width // coarser)
    small = interpolate(torch.cat([guide, source[None]])[None], size, mode="area")[0]
    colours, level = small[:3], small[3:]
    pairs = (colours[:, None] * colours[None]).flatten(0, 1)
    radius = max(1, radius // coarser)
    means = _box_mean(torch.cat([small, colours * level, pairs]), radius)
    colour, mean, shared, square = means[:3], means[3], means[4:7], means[7:]
    covariance = square.unflatten(0, (3, 3)) - colour[:, None] * colour[None]
    covariance = covariance + epsilon * torch.eye(3)[:, :, None, None]
    slope = _solved(covariance, shared - colour * mean)
    offset = mean - (slope * colour).sum(0)
    lines = _box_mean(torch.cat([slope, offset[None]]), radius)
    lines = interpolate(lines[None], (height, width), mode="bilinear")[0]
    return (lines[:3] * guide).sum(0) + lines[3]


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """x of matrix x = right in every place: matrix [3, 3, h, w] symmetric, right [3, h, w]."""
    rows = [torch.linalg.cross(matrix[i - 2], matrix[i - 1], dim=0) for i in range(3)]
    adjugate = torch.stack(rows, 1)
    determinant = (matrix[0] * adjugate[:, 0]).sum(0)
    return torch.einsum("ijhw,jhw->ihw", adjugate, right) / determinant


def _box_mean(stack: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1) squared windows, cut off at the border; stack [C, H, W]."""
    side = 2 * radius + 1
    rows = avg_pool2d(stack[None], (side, 1), 1, (radius, 0), count_include_pad=False)
    return avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)[0]
