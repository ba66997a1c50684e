"""From heat and a mask to what asks SAM for a better one: points, a box and mask logits.

Positive points lie where a thing is hot and deep inside its mask, negative ones in rival things and
where it is cold beside it. Heat is [h, w] float in 0..1, masks bool of the same size; points and
boxes come out in pixels of the picture, (x, y).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

POINTS = 3  # positive ones, and negative ones, at most
CORE = 0.7  # a further positive point is at least this good, as a share of the first
APART = 0.3  # points keep this far apart, in sizes of the thing (the root of its area)
CLEAR = 0.5  # negative points stay this far from the mask, in sizes of the thing
COLD = 0.25  # and where the heat is below this share of its mean inside the mask
LOGIT = 8.0  # mask logits reach from minus this to this
SIDE = 256  # of the logits, as SAM's prompt encoder takes them


@dataclass(frozen=True, eq=False)
class Prompts:
    """What SAM is told about one thing.

    points: float [P, 2], (x, y) in pixels. labels: int [P], 1 inside the thing, 0 outside. box:
    (left, top, right, bottom) in pixels. logits: float32 [SIDE, SIDE] over the whole picture,
    above 0 inside.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    box: tuple[float, float, float, float]
    logits: Tensor

    @property
    def positive(self) -> NDArray[np.float32]:
        """The points inside the thing, [K, 2]."""
        return self.points[self.labels == 1]

    @property
    def negative(self) -> NDArray[np.float32]:
        """The points outside it, [K, 2]."""
        return self.points[self.labels == 0]

    def for_transformers(self) -> dict[str, Any]:
        """For the processors of SAM, SAM 2 and SAM 3 (tracker): one picture, one object."""
        return {
            "input_points": [[self.points.tolist()]],
            "input_labels": [[self.labels.tolist()]],
            "input_boxes": [[list(self.box)]],
        }

    def for_comfyui(self) -> dict[str, Any]:
        """For ComfyUI's SAM nodes: points as JSON, the box as a BOUNDING_BOX."""
        left, top, right, bottom = self.box
        return {
            "positive_coords": _as_json(self.positive),
            "negative_coords": _as_json(self.negative),
            "bboxes": {"x": left, "y": top, "width": right - left, "height": bottom - top},
        }


def _as_json(points: NDArray[np.float32]) -> str:
    return json.dumps([{"x": round(float(x)), "y": round(float(y))} for x, y in points])


def hand_over(
    heat: Tensor,
    mask: Tensor,
    rivals: Tensor | None = None,
    size: tuple[int, int] | None = None,
    points: int = POINTS,
) -> Prompts:
    """What to ask SAM for the thing in `mask`.

    rivals: bool [K, h, w], other candidates; those that lie on the mask are left out. size:
    (height, width) of the picture; left out, that of the heat. points: of each kind, at most.
    Raises ValueError for an empty mask or sizes that differ.
    """
    if mask.shape != heat.shape or (rivals is not None and rivals.shape[1:] != heat.shape):
        raise ValueError(
            f"heat is {tuple(heat.shape)} and the mask {tuple(mask.shape)}, wanted one size."
        )
    if not bool(mask.any()):
        raise ValueError("The mask is empty, so there is nothing to ask for; find a thing first.")
    height, width = size or (heat.shape[0], heat.shape[1])
    scale = np.array([width / heat.shape[1], height / heat.shape[0]], np.float32)
    warm, inside = heat.float().cpu().numpy(), mask.cpu().numpy()
    positive = _hot(warm, inside, points)
    negative = _cold(warm, inside, None if rivals is None else rivals.cpu().numpy(), points)
    places = np.array([*positive, *negative], np.float32).reshape(-1, 2)
    return Prompts(
        points=(places[:, ::-1] + 0.5) * scale,
        labels=np.array([1] * len(positive) + [0] * len(negative)),
        box=_box(inside, scale),
        logits=_logits(heat.float().cpu(), mask.cpu()),
    )


Place = tuple[int, int]


def _hot(heat: NDArray[np.float32], mask: NDArray[np.bool_], count: int) -> list[Place]:
    """Places (row, column) that are hot and deep inside the mask, apart from one another."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    worth = depth / depth.max() * np.clip(heat, 0, None)
    if not worth.any():
        worth = depth
    return _spread(worth, mask, count, CORE)


def _cold(
    heat: NDArray[np.float32],
    mask: NDArray[np.bool_],
    rivals: NDArray[np.bool_] | None,
    count: int,
) -> list[Place]:
    """Places in the deep of rival things, then cold ones in the reach of the mask."""
    from scipy import ndimage

    reach = float(mask.sum()) ** 0.5
    far = ndimage.distance_transform_edt(~mask)
    clear = far >= CLEAR * reach
    found: list[Place] = []
    for rival in () if rivals is None else rivals:
        if (rival & mask).any():
            continue
        depth = ndimage.distance_transform_edt(np.pad(rival, 1))[1:-1, 1:-1] * clear
        if depth.any():
            found.append(_highest(depth))
    found = found[: max(0, count - 1)]
    cold = clear & (heat <= COLD * heat[mask].mean()) & (far <= 2 * reach)
    for row, column in found:
        cold &= _away(heat.shape, row, column) > APART * reach
    worth = (1 - heat / max(float(heat.max()), 1e-6)) / (1 + far / reach)
    return found + _spread(worth, cold, count - len(found), 0.0, APART * reach)


def _spread(
    worth: NDArray[np.floating[Any]],
    where: NDArray[np.bool_],
    count: int,
    least: float,
    apart: float | None = None,
) -> list[Place]:
    """Up to `count` of the best places, each `apart` from those before."""
    apart = APART * float(where.sum()) ** 0.5 if apart is None else apart
    left = np.where(where, worth, -np.inf)
    top = left.max()
    found: list[Place] = []
    while len(found) < count and np.isfinite(left.max()) and left.max() >= least * top:
        place = _highest(left)
        found.append(place)
        left = np.where(_away(left.shape, *place) > apart, left, -np.inf)
    return found


def _highest(values: NDArray[np.floating[Any]]) -> Place:
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)


def _away(shape: tuple[int, ...], row: int, column: int) -> NDArray[np.float64]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, columns - column)


def _box(mask: NDArray[np.bool_], scale: NDArray[np.float32]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, right = float(columns[0] * scale[0]), float((columns[-1] + 1) * scale[0])
    return left, float(rows[0] * scale[1]), right, float((rows[-1] + 1) * scale[1])


def _logits(heat: Tensor, mask: Tensor) -> Tensor:
    """The mask as SAM's low-resolution logits: surer where it is hot inside and cold outside."""
    sure = torch.where(mask, 0.5 + heat.clamp(0, 1) / 2, heat.clamp(0, 1) / 2 - 0.5)
    return interpolate(sure[None, None] * LOGIT, (SIDE, SIDE), mode="bilinear")[0, 0]
