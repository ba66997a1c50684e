"""The heat map at working size, following the edges of the picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .attention import min_max

LONGEST = 256
"""Long side of the working size in pixels: heat, proposals and scores live there."""
RADIUS = 0.06
"""Reach of the guided filter, in long sides."""


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at the picture's own aspect with a long side of at most `LONGEST`."""
    scale = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def snapped(heat: Tensor, picture: Tensor, amount: float) -> Tensor:
    """Heat [H, W] drawn towards the edges of the picture [3, H, W], again 0..1.

    amount: share of the filtered heat, 0..1. A colour guided filter (He et al., 2013).
    """
    filtered = guided_filter(heat, picture, max(2, round(RADIUS * max(heat.shape))))
    return min_max(torch.lerp(heat, filtered.clamp(0, 1), amount))


def guided_filter(source: Tensor, guide: Tensor, radius: int, epsilon: float = 1e-3) -> Tensor:
    """source [H, W] as a locally linear function of the colours of guide [3, H, W]."""

    def mean(stack: Tensor) -> Tensor:
        return _box_mean(stack, radius)

    pairs = (guide[:, None] * guide[None]).flatten(0, 1)
    means = mean(torch.cat([guide, source[None], guide * source, pairs]))
    colour, level, shared, square = means[:3], means[3], means[4:7], means[7:]
    covariance = square.unflatten(0, (3, 3)) - colour[:, None] * colour[None]
    covariance = covariance + epsilon * torch.eye(3)[:, :, None, None]
    slope = torch.linalg.solve(
        covariance.permute(2, 3, 0, 1), (shared - colour * level).permute(1, 2, 0)
    )
    slope = slope.permute(2, 0, 1)
    offset = level - (slope * colour).sum(0)
    smooth = mean(torch.cat([slope, offset[None]]))
    return (smooth[:3] * guide).sum(0) + smooth[3]


def _box_mean(stack: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1) squared windows, cut off at the border; stack [C, H, W]."""
    side = 2 * radius + 1
    rows = avg_pool2d(stack[None], (side, 1), 1, (radius, 0), count_include_pad=False)
    return avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)[0]
