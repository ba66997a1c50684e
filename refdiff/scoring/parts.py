"""Parts of a thing: a region ("top half of the sandwich"), or a thing on it ("handle")."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..attention.maps import min_max
from ..expression import Part

REACH = 0.25  # how far a part may stick out of its whole, share of the whole's longer side
LIES = 0.5  # share of a part that lies on its whole
OFF = 0.001  # weight of what does not
PIECE = 8  # times as large is what makes a piece of a mask inside it
CRUMB = 0.7  # weight of a piece where a thing is meant


def crop(mask: Tensor, part: Part) -> Tensor:
    """The part of a mask [..., H, W] (bool) that lies at the sides asked for.

    The share is of the extent of the mask's box: half of the height for "top half". The middle is
    the same share around the box's centre. An empty mask stays empty.
    """
    if mask.ndim > 2:
        return torch.stack([crop(one, part) for one in mask]) if len(mask) else mask
    kept = mask.clone()
    axes = {"top": (0, False), "bottom": (0, True), "left": (1, False), "right": (1, True)}
    for side in part.sides:
        if side == "middle":
            kept &= _band(mask, 1, part.share)
        else:
            axis, far = axes[side]
            kept &= _end(mask, axis, part.share, far)
    return kept


def _extent(mask: Tensor, axis: int) -> tuple[int, int]:
    used = mask.any(1 - axis).nonzero()
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)


def _line(mask: Tensor, axis: int) -> Tensor:
    place = torch.arange(mask.shape[axis], device=mask.device)
    return place[:, None] if axis == 0 else place[None]


def _end(mask: Tensor, axis: int, share: float, far: bool) -> Tensor:
    low, high = _extent(mask, axis)
    step = max(1, round((high - low) * share))
    place = _line(mask, axis)
    return (place >= high - step) & (place < high) if far else (place < low + step)


def _band(mask: Tensor, axis: int, share: float) -> Tensor:
    low, high = _extent(mask, axis)
    margin = round((high - low) * (1 - share) / 2)
    place = _line(mask, axis)
    return (place >= low + margin) & (place < high - margin)


def gate(wholes: Tensor) -> Tensor:
    """Where parts of these things may lie, bool [H, W]: on any of the masks [K, H, W], or near it.

    A cut of "mug" may leave its handle out, so that each mask is grown by `REACH` of its extent.
    """
    grown = [_grown(mask) for mask in wholes]
    return torch.stack(grown).any(0) if grown else torch.zeros(wholes.shape[1:], dtype=torch.bool)


def _grown(mask: Tensor) -> Tensor:
    reach = round(REACH * max(high - low for low, high in (_extent(mask, 0), _extent(mask, 1))))
    wide = max_pool2d(mask[None, None].float(), (1, 2 * reach + 1), 1, (0, reach))
    return max_pool2d(wide, (2 * reach + 1, 1), 1, (reach, 0))[0, 0] > 0


def gated(heat: Tensor, inside: Tensor) -> Tensor:
    """The heat [H, W] within bool [H, W], stretched to 0..1 there; 0 outside."""
    return min_max(torch.where(inside, heat, heat[inside].amin() if bool(inside.any()) else 0.0))


def wholes(masks: Tensor) -> Tensor:
    """1 for masks [N, H, W] (bool), `CRUMB` for those that are a small piece of another: [N].

    For a text that names no thing ("bottom right"), to which a cat's eye is as good as the cat. Of
    the masks that hold a mask the smallest counts, so that a thing is no piece of many together.
    """
    flat = masks.flatten(1).float()
    area = flat.sum(1).clamp(min=1)
    holds = (flat @ flat.T / area[:, None] > 0.9) & (area[None] > area[:, None])
    holder = torch.where(holds, area[None], torch.inf).amin(1)
    return torch.where(holder.isfinite() & (holder >= PIECE * area), CRUMB, 1.0)


def held(masks: Tensor, inside: Tensor) -> Tensor:
    """1 for masks [N, H, W] that lie within bool [H, W] by `LIES` at least, else `OFF`: [N]."""
    area = masks.flatten(1).sum(1).clamp(min=1)
    share = (masks & inside).flatten(1).sum(1) / area
    return torch.where(share >= LIES, 1.0, OFF)
