"""Masks as polygons: the outlines of their parts, walked along the pixels' edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

# Headings right, down, left, up: a step (down, right), and the pixels ahead on either hand.
_STEP = ((0, 1), (1, 0), (0, -1), (-1, 0))
_LEFT = ((-1, 0), (0, 0), (0, -1), (-1, -1))
_RIGHT = ((0, 0), (0, -1), (-1, -1), (-1, 0))
SPECK = 4  # parts of fewer pixels have no polygon


def polygons(mask: NDArray[np.bool_], tolerance: float = 0.7) -> list[Points]:
    """The outlines of the mask's 4-connected parts, the largest first: (x, y) in pixels, [K, 2].

    Holes are filled. tolerance: how far, in pixels, a simplified outline may stray.
    """
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        part = ndimage.binary_fill_holes(labels[place] == number)
        if part.sum() < SPECK:
            continue
        corners = _outline(part) + np.array([place[1].start, place[0].start])
        found.append((int(part.sum()), _simplified(corners, tolerance)))
    return [corners for _, corners in sorted(found, key=lambda each: -each[0])]


def joined(parts: list[Points]) -> Points:
    """Several outlines as one, each tied to the first ones at the places nearest to each other."""
    whole = parts[0]
    for part in parts[1:]:
        far = np.square(whole[:, None] - part[None]).sum(2)
        at, to = np.unravel_index(int(far.argmin()), far.shape)
        loop = np.concatenate([part[to:], part[: to + 1]])
        whole = np.concatenate([whole[: at + 1], loop, whole[at:]])
    return whole


def _outline(part: NDArray[np.bool_]) -> Points:
    """The corners of one part without holes, clockwise from its topmost left pixel: [K, 2]."""
    solid = np.pad(part, 1)

    def inside(row: int, column: int, side: tuple[int, int]) -> bool:
        return bool(solid[row + side[0], column + side[1]])

    start = (1, int(solid[1].argmax()))
    (row, column), heading = start, 0
    corners = [(column - 1, row - 1)]
    while True:
        row, column = row + _STEP[heading][0], column + _STEP[heading][1]
        if not inside(row, column, _RIGHT[heading]):
            heading = (heading + 1) % 4
        elif inside(row, column, _LEFT[heading]):
            heading = (heading - 1) % 4
        else:
            continue
        if (row, column) == start and heading == 0:
            return np.array(corners, dtype=float)
        corners.append((column - 1, row - 1))


def _simplified(corners: Points, tolerance: float) -> Points:
    """A closed outline with fewer corners (Ramer, Douglas and Peucker), at least three."""
    far = int(np.square(corners - corners[0]).sum(1).argmax())
    closed = np.concatenate([corners, corners[:1]])
    kept = {0, far, *_needed(closed, 0, far, tolerance)}
    kept |= set(_needed(closed, far, len(corners), tolerance))
    return corners[sorted(kept)] if len(kept) > 2 else corners


def _needed(points: Points, first: int, last: int, tolerance: float) -> list[int]:
    """The places between two points without which the line would stray too far."""
    needed: list[int] = []
    open_parts = [(first, last)]
    while open_parts:
        start, end = open_parts.pop()
        if end - start < 2:
            continue
        way = points[end] - points[start]
        between = points[start + 1 : end] - points[start]
        length = float(np.hypot(*way))
        across = np.abs(way[0] * between[:, 1] - way[1] * between[:, 0]) / max(length, 1e-9)
        away = across if length else np.hypot(*between.T)
        worst = int(away.argmax())
        if away[worst] > tolerance:
            middle = start + 1 + worst
            needed.append(middle)
            open_parts += [(start, middle), (middle, end)]
    return needed
