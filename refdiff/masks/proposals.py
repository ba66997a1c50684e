"""Masks to choose from: cut out of a heat map (section 3.2, weight-free), or made by someone else.

Frame: heat is [H, W] float, masks are bool [N, H, W] of the same size; sizes are (height, width).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import HeatError
from ..io.pictures import dense

FLAT = 1e-6  # a heat map whose values differ by less has no shape to cut
MOST_PARTS = 256  # a noisy map falls into thousands of specks; the largest are enough

log = logging.getLogger(__name__)


def checked_heat(heat: Tensor) -> Tensor:
    """The heat as float32, refused unless it is a finite [H, W] map.

    Raises ValueError for another shape, HeatError for a map with NaN or infinity in it.
    """
    if heat.ndim != 2 or heat.numel() == 0:
        raise ValueError(
            f"heat has shape {tuple(heat.shape)}, wanted [height, width]; pass one word's map."
        )
    lost = int((~torch.isfinite(heat)).sum())
    if lost:
        raise HeatError(
            f"{lost} of {heat.numel()} values of the heat map are not finite, most likely because "
            "half precision overflowed; run the model in float32."
        )
    return heat.float()


def threshold_cuts(
    heat: Tensor,
    thresholds: int = 19,
    components: bool = False,
    least_area: float = 0.0,
) -> Tensor:
    """The paper's cuts M = {[c >= mu]}, mu = 5 %, 10 % ... 95 % for 19 thresholds: bool [N, H, W].

    mu is a share of the way from the coolest to the hottest value.
    components: also each 8-connected part of each cut, after the cuts, every mask once.
    least_area: smaller masks are left out, as a share of the picture, 0..1; if all are, the largest
    stays. A constant heat has no shape: it gives one mask, the whole picture (its contrast is 0).
    Raises ValueError for bad arguments, HeatError for a heat that is not finite.
    """
    heat = checked_heat(heat)
    _check_cutting(thresholds, least_area)
    if float(heat.max() - heat.min()) < FLAT:
        return torch.ones(1, *heat.shape, dtype=torch.bool, device=heat.device)
    cuts = heat >= _levels(heat, thresholds)[:, None, None]
    if components:
        cuts = _distinct(torch.cat([cuts, _parts(cuts, least_area)]))
    return _large_enough(cuts, least_area)


def _check_cutting(thresholds: int, least_area: float) -> None:
    if thresholds < 1:
        raise ValueError(f"thresholds is {thresholds}, wanted at least 1; the paper has 19.")
    if not 0 <= least_area <= 1:
        raise ValueError(f"least_area is {least_area}, wanted a share of the picture, 0 to 1.")


def _levels(heat: Tensor, thresholds: int) -> Tensor:
    """The value of each threshold mu, rising: [N]."""
    shares = torch.arange(1, thresholds + 1, device=heat.device) / (thresholds + 1)
    return heat.min() + shares * (heat.max() - heat.min())


def _large_enough(masks: Tensor, least_area: float) -> Tensor:
    shares = masks.flatten(1).float().mean(1)
    kept = shares >= least_area
    return masks[kept] if bool(kept.any()) else masks[shares.argmax()][None]


def _parts(cuts: Tensor, least_area: float) -> Tensor:
    """The 8-connected parts of every cut, at most MOST_PARTS of them (the largest): [K, H, W]."""
    from scipy import ndimage

    labelled = [ndimage.label(cut, structure=np.ones((3, 3)))[0] for cut in cuts.cpu().numpy()]
    sizes = [np.bincount(labels.ravel()) for labels in labelled]
    floor = least_area * cuts[0].numel()
    found = [
        (int(area), row, number)
        for row, areas in enumerate(sizes)
        for number, area in enumerate(areas)
        if number > 0 and area >= floor
    ]
    if len(found) > MOST_PARTS:
        largest = sorted(found, key=lambda part: -part[0])[:MOST_PARTS]
        found = sorted(largest, key=lambda part: part[1:])
    masks = [torch.from_numpy(labelled[row] == number) for _, row, number in found]
    return torch.stack(masks).to(cuts.device) if masks else cuts[:0]


def _distinct(masks: Tensor) -> Tensor:
    """Every mask once, in the order of first appearance."""
    first: dict[bytes, int] = {}
    for index, packed in enumerate(np.packbits(masks.flatten(1).cpu().numpy(), axis=1)):
        first.setdefault(packed.tobytes(), index)
    return masks[torch.tensor(list(first.values()), device=masks.device)]


def drop_repeats(masks: Tensor, overlap: float = 0.9) -> Tensor:
    """The masks [N, H, W] without those whose IoU with an earlier one exceeds `overlap`."""
    flat = masks.flatten(1).float()
    both, area = flat @ flat.T, flat.sum(1)
    alike = both / (area[:, None] + area[None] - both).clamp(min=1) > overlap
    kept: list[int] = []
    for index in range(len(masks)):
        if not bool(alike[index, kept].any()):
            kept.append(index)
    return masks[kept]


def keep_largest(masks: Tensor, count: int) -> Tensor:
    """The `count` largest of the masks [N, H, W], in the order they came (the authors keep 10)."""
    if count < 1:
        raise ValueError(f"count is {count}, wanted at least 1; the authors' code keeps 10.")
    areas = masks.flatten(1).sum(1)
    kept = areas.argsort(descending=True, stable=True)[:count]
    return masks[kept.sort().values]


def as_masks(masks: Any, size: tuple[int, int]) -> Tensor:
    """Masks that someone else made, as bool [N, h, w] on the CPU (Ref-Diff+).

    masks: a tensor, an array, a PIL picture, or a list of them; each [H, W], [N, H, W] or
    [N, 1, H, W]; bool, whole numbers (0/1, 0..255 or 0..65535), or floats 0..1, cut at the middle.
    size: the (height, width) they must have. Empty masks are left out, with a logged note.
    Raises ValueError for a wrong size or shape, values out of range, NaN, or no mask left.
    """
    items = list(masks) if isinstance(masks, list | tuple) else [masks]
    if not items:
        raise ValueError("There is no mask among the proposals, wanted at least one; add one.")
    stacked = [_as_stack(item, size) for item in items]
    found = torch.cat([_as_bool(stack) for stack in stacked])
    filled = found.flatten(1).any(1)
    if not bool(filled.any()):
        raise ValueError(_nothing_left(stacked))
    empty = int((~filled).sum())
    if empty:
        log.warning("%d of %d proposals are empty and were left out", empty, len(found))
    return found[filled]


def _nothing_left(stacks: Sequence[Tensor]) -> str:
    count = sum(len(stack) for stack in stacks)
    if count == 0:
        return "There are 0 masks among the proposals, wanted at least one; add one."
    top = max(float(stack.max()) for stack in stacks if len(stack))
    return (
        f"All {count} proposals are empty (largest value {top:g}), wanted at least one pixel "
        "of 1, 255 or True; check how they were saved."
    )


def _as_stack(item: Any, size: tuple[int, int]) -> Tensor:
    """One item of any kind as [N, h, w], values untouched."""
    stack = dense(_as_tensor(item), "A proposal")
    if stack.ndim == 4 and stack.shape[1] == 1:
        stack = stack[:, 0]
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3:
        raise ValueError(
            f"Proposals have shape {tuple(stack.shape)}, wanted [H, W], [N, H, W] or [N, 1, H, W]; "
            "give one channel per mask."
        )
    if tuple(stack.shape[1:]) != tuple(size):
        height, width = stack.shape[1:]
        raise ValueError(
            f"Proposals are {height} x {width} (height x width), the picture is "
            f"{size[0]} x {size[1]}; resize them to the picture."
        )
    return stack


def _as_tensor(item: Any) -> Tensor:
    if isinstance(item, Tensor):
        wide = item.dtype in (torch.uint16, torch.uint32, torch.uint64)
        return item.long() if wide else item
    if isinstance(item, Image.Image):
        plain = item.mode in ("1", "L", "F") or item.mode.startswith("I")
        item = np.array(item if plain else item.convert("L"))
    array = np.asarray(item)
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"Proposals are of kind {array.dtype}, wanted bool, whole numbers or floats; "
            "give tensors, arrays or pictures."
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array))


def _as_bool(stack: Tensor) -> Tensor:
    """Each value cut at the middle of its kind's range."""
    if stack.dtype == torch.bool or stack.numel() == 0:
        return stack.bool()
    if bool(torch.isnan(stack).any()):
        raise ValueError("Proposals hold NaN, wanted values from 0 to 1; look at what made them.")
    low, high = float(stack.min()), float(stack.max())
    limit = 1 if stack.is_floating_point() else 65535
    if low < 0 or high > limit:
        raise ValueError(
            f"Proposals hold values from {low:g} to {high:g}, wanted 0 to {limit}; "
            "cut them into masks first."
        )
    full = next(top for top in (1, 255, 65535) if high <= top)
    return stack >= full / 2
