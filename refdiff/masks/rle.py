"""Masks as COCO run lengths: compared, counted and drawn without keeping pixels.

An `Rle` is what pycocotools calls one: {"size": [height, width], "counts": bytes}. Whatever comes
from a file passes `checked` first, because the C code behind pycocotools trusts its input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Rle = dict[str, Any]
Size = tuple[int, int]

_FEWEST = 6  # numbers of a polygon that has an inside
_REACH = 2  # how far, in picture sides, a polygon may stand out of its picture


def encode(mask: np.ndarray) -> Rle:
    """The run lengths of a mask [H, W]; what is not zero is inside."""
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))


def decode(rle: Rle) -> np.ndarray:
    """The mask of run lengths, [H, W] bool."""
    from pycocotools import mask as coco

    return coco.decode(rle).astype(bool)


def text_of(rle: Rle) -> str:
    """The counts as they stand in a JSON file."""
    counts: bytes = rle["counts"]
    return counts.decode("ascii")


def area(rle: Rle) -> int:
    """How many pixels are inside."""
    from pycocotools import mask as coco

    return int(coco.area(rle))


def union(rles: Sequence[Rle], size: Size) -> Rle:
    """What is inside at least one of them; none gives an empty mask."""
    from pycocotools import mask as coco

    return coco.merge(list(rles)) if rles else empty(size)


def overlap(one: Rle, other: Rle) -> int:
    """How many pixels are inside both; ValueError when their sizes differ."""
    from pycocotools import mask as coco

    if tuple(one["size"]) != tuple(other["size"]):
        raise ValueError(
            f"One mask is {tuple(one['size'])} and the other {tuple(other['size'])} "
            "(height, width); masks of one picture have one size."
        )
    return int(coco.area(coco.merge([one, other], intersect=True)))


def empty(size: Size) -> Rle:
    """The mask of nothing."""
    return encode(np.zeros(size, np.uint8))


def checked(counts: Any, size: Size, where: str) -> Rle:
    """Run lengths from a file: compressed text, or a list of whole numbers (COCO's crowds).

    Raises ValueError, naming the place, when they do not fill `size` exactly.
    """
    from pycocotools import mask as coco

    pixels = size[0] * size[1]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    if isinstance(counts, str) and covers(counts, pixels):
        return {"size": list(size), "counts": counts.encode("ascii")}
    runs = isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
    if runs and sum(counts) == pixels:
        return coco.frPyObjects({"size": list(size), "counts": counts}, *size)
    raise ValueError(
        f"The run lengths of {where} do not fill {size[0]} x {size[1]} pixels; take the file "
        "from its source again."
    )


def covers(counts: str, pixels: int) -> bool:
    """Whether a compressed RLE is whole, written as COCO writes it, and adds up to the picture.

    Each run is a little-endian number in base 32, one character (code 48 to 111) per digit, bit
    32 says that more follow and the last digit's bit 16 is the sign. From the fourth on, a run
    is stored as its difference to the one two before. No run has more digits than it needs:
    pycocotools reads some of those otherwise. Takes time in proportion to the text.
    """
    runs: list[int] = []
    value = shift = before = 0
    most = 5 * (len(_digits(pixels)) + 1)  # bits
    for digit in (ord(letter) - 48 for letter in counts):
        if not 0 <= digit < 64 or shift > most:
            return False
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            before = digit
            continue
        if shift > 5 and digit in (0, 31) and (digit & 16) == (before & 16):
            return False  # a digit that says nothing
        if digit & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return shift == 0 and min(runs, default=-1) >= 0 and sum(runs) == pixels


def _digits(number: int) -> list[int]:
    """Its digits in base 32."""
    return [(number >> shift) & 31 for shift in range(0, max(1, number.bit_length()), 5)]


def from_segmentation(found: Any, size: Size, where: str) -> Rle:
    """COCO's `segmentation` of one object: its polygons merged, or its run lengths.

    Polygons with fewer than three points have no inside and are left out: pycocotools would take
    four numbers for a box. Raises ValueError, naming the place, for anything else.
    """
    from pycocotools import mask as coco

    if isinstance(found, dict):
        if list(found.get("size") or ()) != list(size):
            raise ValueError(
                f"The run lengths of {where} are of size {found.get('size')} but the picture is "
                f"{size} (height, width); take the file from its source again."
            )
        return checked(found.get("counts"), size, where)
    polygons = [_polygon(one, size, where) for one in _list(found, where)]
    drawn = [one for one in polygons if len(one) >= _FEWEST]
    return coco.merge(coco.frPyObjects(drawn, *size)) if drawn else empty(size)


def from_points(polygons: Iterable[Sequence[Sequence[float]]], size: Size, where: str) -> Rle:
    """Polygons of [x, y] points as PhraseCut's own scorer draws them: whole numbers, edges too."""
    canvas = Image.new("L", (size[1], size[0]), 0)
    for polygon in _list(polygons, where):
        flat = [value for point in _list(polygon, where) for value in _list(point, where)]
        numbers = [int(value) for value in _polygon(flat, size, where)]
        if len(numbers) >= 4:
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
            ImageDraw.Draw(canvas).polygon(points, outline=1, fill=1)
    return encode(np.asarray(canvas))


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"The polygons of {where} should be lists of numbers, found {value!r:.40}."
        )
    return list(value)


def _polygon(values: Any, size: Size, where: str) -> list[float]:
    """The numbers x, y, x, y ... of one polygon, none of them absurdly far from the picture."""
    numbers = _list(values, where)
    most = (1 + _REACH) * max(size)
    good = len(numbers) % 2 == 0 and all(
        type(n) in (int, float) and math.isfinite(n) and -most <= n <= most for n in numbers
    )
    if not good:
        raise ValueError(
            f"A polygon of {where} is {numbers!s:.50}, wanted pairs x, y of numbers within its "
            f"picture of {size[0]} x {size[1]} pixels; take the file from its source again."
        )
    return [float(n) for n in numbers]
