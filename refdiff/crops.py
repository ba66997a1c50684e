"""Cutting a region out of a picture for CLIP.

Images are float [3, H, W] in 0..1, masks bool [h, w] of the same frame at any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SURROUNDINGS = ("black", "mean", "blur", "keep")

Box = tuple[int, int, int, int]  # top, left, height, width in picture pixels


@dataclass(frozen=True)
class CropStyle:
    """How a region is cut out of the picture.

    surroundings: what is seen outside the mask: "black", CLIP's "mean" colour, the picture
    blurred ("blur"), or the picture itself ("keep").
    margin: room left around the bounding box, as a share of its longer side.
    square: the box is widened to a square; else it keeps its aspect (up to `longest`), its shorter
    side becomes the model's size, and the position embeddings are interpolated.
    """

    surroundings: str = "black"
    margin: float = 0.0
    square: bool = True
    longest: float = 4.0

    def __post_init__(self) -> None:
        if self.surroundings not in SURROUNDINGS:
            raise ValueError(
                f"surroundings is {self.surroundings!r}, wanted one of {', '.join(SURROUNDINGS)}."
            )
        if self.margin < 0 or self.longest < 1:
            raise ValueError(
                f"margin is {self.margin} and longest {self.longest}, wanted margin from 0 up and "
                "longest from 1 up; correct the style."
            )

    @classmethod
    def official(cls) -> CropStyle:
        """The authors' code: on black, no margin, own aspect (theirs has no limit to it)."""
        return cls(surroundings="black", margin=0.0, square=False)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[3, H, W] at another (height, width), bicubic, still within 0..1."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def limited(image: Tensor, longest: int) -> Tensor:
    """The picture, shrunk if its long side exceeds `longest`."""
    height, width = image.shape[1:]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    return resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def bounding_box(mask: Tensor, height: int, width: int, style: CropStyle) -> Box:
    """The mask's bounding box in a picture of height x width; it may reach beyond the picture."""
    top, tall = _span(mask.any(1), height)
    left, wide = _span(mask.any(0), width)
    longer = max(tall, wide)
    margin = round(style.margin * longer)
    least = math.ceil((longer + 2 * margin) / (1 if style.square else style.longest))
    new_tall, new_wide = max(tall + 2 * margin, least), max(wide + 2 * margin, least)
    return top - (new_tall - tall) // 2, left - (new_wide - wide) // 2, new_tall, new_wide


def _span(hit: Tensor, length: int) -> tuple[int, int]:
    """First pixel and number of pixels of an axis of `length` that the hits [n] cover."""
    places = hit.nonzero().flatten()
    start = int(places[0]) * length // len(hit)
    end = -(-(int(places[-1]) + 1) * length // len(hit))
    return start, end - start


def cut_out(image: Tensor, backdrop: Tensor, mask: Tensor, box: Box, fill: Tensor) -> Tensor:
    """The box out of the picture, the backdrop outside the mask, fill beyond the picture."""
    top, left, tall, wide = box
    height, width = image.shape[1:]
    y, x = slice(max(top, 0), min(top + tall, height)), slice(max(left, 0), min(left + wide, width))
    rows = torch.arange(y.start, y.stop) * mask.shape[0] // height
    columns = torch.arange(x.start, x.stop) * mask.shape[1] // width
    shown = torch.where(mask[rows][:, columns], image[:, y, x], backdrop[:, y, x])
    around = fill.repeat(1, tall, wide)
    around[:, y.start - top : y.stop - top, x.start - left : x.stop - left] = shown
    return around
