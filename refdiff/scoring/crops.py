"""Cutting a region out of a picture for CLIP.

Images are float [3, H, W] in 0..1, masks bool [h, w] of the same frame at any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

SURROUNDINGS = ("black", "mean", "blur", "keep")
CIRCLE_LINE = 0.03  # of the crop's shorter side; no figure published
RED = (1.0, 0.0, 0.0)

Box = tuple[int, int, int, int]  # top, left, height, width in picture pixels


@dataclass(frozen=True)
class CropStyle:
    """How a region is cut out of the picture.

    surroundings: what is seen outside the mask: "black", CLIP's "mean" colour, the picture
    blurred ("blur"), or the picture itself ("keep").
    margin: room left around the bounding box, as a share of its longer side.
    wider: the margin of a second view, whose feature is averaged with the first one's, as ViLD does
    with the box and one half as large again (Gu et al., arXiv 2104.13921); None for one view.
    square: the box is widened to a square; else it keeps its aspect (up to `longest`), its shorter
    side becomes the model's size, and the position embeddings are interpolated.
    circle: a red ellipse is drawn around the mask's bounding box, which CLIP knows from pictures
    that people marked (Shtedritski et al., arXiv 2304.06712; with blurred surroundings 67.6 against
    61.8 mIoU on VOC for a black outside, arXiv 2312.07661); give it a margin to be seen in.
    """

    surroundings: str = "black"
    margin: float = 0.0
    square: bool = True
    longest: float = 4.0
    circle: bool = False
    wider: float | None = None

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
        if self.wider is not None and self.wider <= self.margin:
            raise ValueError(
                f"wider is {self.wider}, wanted more than the margin of {self.margin}; correct the "
                "style, or leave it out for one view."
            )

    def views(self) -> tuple[CropStyle, ...]:
        """The style of each view: one, or two."""
        first = replace(self, wider=None)
        return (first,) if self.wider is None else (first, replace(first, margin=self.wider))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[3, H, W] at another (height, width), bicubic, still within 0..1."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def cap_size(image: Tensor, longest: int) -> Tensor:
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


def circled(crop: Tensor, mask: Tensor, box: Box, height: int, width: int) -> Tensor:
    """A crop [3, tall, wide] with a red ellipse around the mask's bounding box.

    box: the crop's place in the picture of height x width. The line is CIRCLE_LINE of the crop's
    shorter side, one pixel at least; its inner edge touches the box's corners, unless that lies
    beyond the crop: then the ellipse is drawn as large as fits.
    """
    top, tall = _span(mask.any(1), height)
    left, wide = _span(mask.any(0), width)
    line = max(1.0, CIRCLE_LINE * min(crop.shape[1:]))
    distance = []
    for start, length, axis in ((top - box[0], tall, 1), (left - box[1], wide, 2)):
        middle, room = start + length / 2, crop.shape[axis]
        reach = min(length / 2 * math.sqrt(2) + line, max(middle, room - middle))
        reach = max(line, reach)
        distance.append(((torch.arange(room) + 0.5 - middle) / reach, reach))
    (down, tall_reach), (across, wide_reach) = distance
    inner_down = down * tall_reach / max(tall_reach - line, 1e-6)
    inner_across = across * wide_reach / max(wide_reach - line, 1e-6)
    within = down[:, None] ** 2 + across[None] ** 2 <= 1
    ring = within & (inner_down[:, None] ** 2 + inner_across[None] ** 2 > 1)
    return torch.where(ring, torch.tensor(RED).view(3, 1, 1), crop)
