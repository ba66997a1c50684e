"""The working size: pictures, heat and masks brought to it and back."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

LONGEST = 256
"""Usual long side of the working size in pixels: heat, proposals and scores live there."""


def working_size(size: tuple[int, int], longest: int = LONGEST) -> tuple[int, int]:
    """(height, width) at the picture's own aspect with a long side of at most `longest`."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def to_tensor(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """An RGB picture at (height, width) as [3, h, w] float32 in 0..1."""
    small = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [N, H, W] bool at a smaller size; a small one keeps the places it covers most.

    What `upsample` made comes back exactly.
    """
    exact = _undone(masks, size)
    if exact is not None:
        return exact
    small = interpolate(masks[:, None].float(), size, mode="area")[:, 0]
    least = (0.5 * small.flatten(1).amax(1)).clamp(max=0.5)[:, None, None]
    return (small >= least) & (small > 0)


def resize_heat(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Heat [K, H, W] at a smaller size, averaged; what `upsample` made comes back exactly."""
    exact = _undone(heat, size)
    return interpolate(heat[:, None], size, mode="area")[:, 0] if exact is None else exact


def upsample(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Heat or a mask [h, w] at a larger size, interpolated between the old places.

    Each old place keeps its value exactly at one of the new ones, so nothing is lost.
    """
    if tuple(values.shape) == size:
        return values
    if values.dtype == torch.bool:
        return upsample(values.float(), size) >= 0.5
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
    """The stack [N, h, w] of which `upsample` makes this [N, H, W]; None when there is none."""
    height, width = stack.shape[1:]
    if height < size[0] or width < size[1]:
        return None
    rows, columns = _knots(size[0], height), _knots(size[1], width)
    small = stack[:, rows][:, :, columns]
    if not all(map(_crosses, small, stack[:, rows])):
        return None
    made = (
        torch.equal(upsample(one, (height, width)), whole)
        for one, whole in zip(small, stack, strict=True)
    )
    return small if all(made) else None


def _crosses(small: Tensor, rows: Tensor) -> bool:
    """Whether `upsample` would make these rows [h, W] at the places where [h, w] keeps its values.

    Seldom true of anything else, and quickly told.
    """
    made = _stretched(small.float(), rows.shape[1])
    return torch.equal(made >= 0.5 if small.dtype == torch.bool else made, rows)
