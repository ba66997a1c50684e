"""Pictures of an answer: heat over the picture, the mask's outline, the word that was looked at.

Drawn with numpy and PIL alone. Lines and letters follow the size of the picture.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from .pictures import is_tensor

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor

# Heat 0..1 in nine steps of equal perceived lightness (OKLab L from 0.22 to 0.96), from indigo
# through magenta and orange to pale yellow.
COLOURS = (
    (23, 8, 77),
    (63, 16, 110),
    (109, 25, 131),
    (165, 35, 122),
    (219, 47, 92),
    (245, 101, 71),
    (247, 157, 93),
    (250, 206, 122),
    (253, 246, 168),
)
_INK = (18, 18, 26)
_PAPER = (250, 250, 248)
_LONGEST_LABEL = 500  # letters
_WORK_PIXELS = 4_000_000  # outlines are worked out at about this many pixels at most


def heat_image(heat: Array) -> Image.Image:
    """Heat [H, W] in 0..1 as an RGB picture of the same size, dark where cold."""
    return _coloured(_levels(heat))


def draw_overlay(
    image: Image.Image, heat: Array | None, mask: Array, label: str = ""
) -> Image.Image:
    """What was found, drawn over the picture: an RGB picture of the same size.

    heat: [h, w] in 0..1 of any size, stretched over the picture, or None (what is outside the
    mask is dimmed instead). mask: [H, W] bool of the picture's size, outlined in white between
    dark lines. label: written in the corner that hides least of the mask. Raises ValueError when
    the mask's size is not the picture's or the heat is not finite.
    """
    solid = _numpy(mask).astype(bool)
    if solid.shape != (image.height, image.width):
        raise ValueError(
            f"The mask is {solid.shape} but the picture is {(image.height, image.width)} "
            "(height, width); resize the mask to the picture."
        )
    inside = Image.fromarray(solid.astype(np.uint8) * 255)
    canvas = image.convert("RGB")
    canvas = _dimmed(canvas, inside) if heat is None else _heated(canvas, heat)
    canvas = _outlined(canvas, inside)
    return _labelled(canvas, label, solid) if label.strip() else canvas


def tile(
    images: Sequence[Image.Image],
    labels: Sequence[str],
    columns: int | None = None,
    width: int = 320,
) -> Image.Image:
    """Contact sheet: the pictures in rows, each `width` pixels wide with its label below.

    columns: how many in a row; as many as make the sheet about square when None.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"Give one label per picture, got {len(images)} and {len(labels)}.")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    cells = [_cell(image, label, width) for image, label in zip(images, labels, strict=True)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    gap = max(4, width // 20)
    heights = [max(cell.height for cell in row) for row in rows]
    size = (columns * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1))
    sheet = Image.new("RGB", size, _PAPER)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (gap + column * (width + gap), top))
        top += height + gap
    return sheet


def _numpy(values: Any) -> np.ndarray:
    if is_tensor(values):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _levels(heat: Array) -> Image.Image:
    values = _numpy(heat)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"Heat is [H, W] with finite values in 0..1, got shape {values.shape}.")
    return Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))


def _coloured(levels: Image.Image) -> Image.Image:
    steps = np.linspace(0, len(COLOURS) - 1, 256)
    channels = [
        np.interp(steps, range(len(COLOURS)), channel) for channel in zip(*COLOURS, strict=True)
    ]
    indexed = levels.copy()
    indexed.putpalette(np.rint(np.stack(channels, axis=1)).astype(np.uint8).tobytes())
    return indexed.convert("RGB")


def _heated(picture: Image.Image, heat: Array) -> Image.Image:
    """The picture in muted colours with the heat laid over it, denser where hotter."""
    levels = _levels(heat).resize(picture.size, Image.Resampling.BILINEAR)
    density = levels.point([round(80 + 120 * (level / 255) ** 0.8) for level in range(256)])
    muted = ImageEnhance.Color(picture).enhance(0.15)
    return Image.composite(_coloured(levels), muted, density)


def _dimmed(picture: Image.Image, inside: Image.Image) -> Image.Image:
    """The picture with what is outside the mask greyer and darker."""
    muted = ImageEnhance.Color(picture).enhance(0.25)
    return Image.composite(
        picture, Image.blend(muted, Image.new("RGB", picture.size, _INK), 0.5), inside
    )


def _outlined(picture: Image.Image, inside: Image.Image) -> Image.Image:
    """A white line along the mask's edge between two dark ones, visible on any ground.

    Worked out on a mask of up to four times the size, or smaller for a big picture, and resized.
    """
    width, height = picture.size
    scale = min(4.0, math.sqrt(_WORK_PIXELS / (width * height)))
    work = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = inside.resize(work, Image.Resampling.BOX)
    smooth = smooth.filter(ImageFilter.GaussianBlur(0.5 * scale))
    solid = np.pad(np.asarray(smooth) > 100, 1)  # low enough to keep a single pixel
    short = min(width, height)
    reach = max(1, round(scale * min(max(1.0, short / 300), short / 40)))
    dark = _band(solid, 2 * reach)
    light = _band(solid, reach)
    for band, colour, strength in ((dark, _INK, 0.75), (light, _PAPER, 1.0)):
        alpha = Image.fromarray((band[1:-1, 1:-1] * (255 * strength)).astype(np.uint8))
        picture = Image.composite(
            Image.new("RGB", picture.size, colour),
            picture,
            alpha.resize(
                picture.size, Image.Resampling.BOX if scale > 1 else Image.Resampling.BILINEAR
            ),
        )
    return picture


def _band(solid: np.ndarray, reach: int) -> np.ndarray:
    """What lies within about `reach` pixels of the mask's edge, [H, W] bool."""
    return _grown(solid, reach) & _grown(~solid, reach)


def _grown(solid: np.ndarray, reach: int) -> np.ndarray:
    """The mask grown by an octagon: steps to 4 and to 8 neighbours in turn."""
    for step in range(reach):
        grown = solid.copy()
        grown[1:] |= solid[:-1]
        grown[:-1] |= solid[1:]
        wide = grown if step % 2 else solid
        solid = grown.copy()
        solid[:, 1:] |= wide[:, :-1]
        solid[:, :-1] |= wide[:, 1:]
    return solid


def _labelled(picture: Image.Image, label: str, solid: np.ndarray) -> Image.Image:
    """The label on a dark plate in the corner that hides least of the mask; none if too small."""
    height, width = solid.shape
    size = max(12.0, min(height, width) / 22)
    plate_height, margin, pad = round(1.7 * size), round(0.5 * size), round(0.6 * size)
    room, text = width - 2 * (margin + pad), " ".join(label[: 2 * _LONGEST_LABEL].split())
    length = ImageFont.load_default(size).getlength(text)
    font = ImageFont.load_default(max(10.0, min(size, size * room / length)))
    text = _shortened(text, font, room)
    if not text or 4 * plate_height > height:
        return picture
    plate_width = math.ceil(font.getlength(text)) + 2 * pad
    corners = [
        (top, left)
        for top in (margin, height - margin - plate_height)
        for left in (margin, width - margin - plate_width)
    ]
    top, left = min(
        corners, key=lambda at: solid[at[0] :, at[1] :][:plate_height, :plate_width].sum()
    )
    picture = picture.copy()
    picture.paste(_INK, (left, top), _plate(plate_width, plate_height, round(0.35 * size)))
    baseline = top + round((plate_height + 0.7 * size) / 2)
    ImageDraw.Draw(picture).text((left + pad, baseline), text, _PAPER, font, anchor="ls")
    return picture


def _plate(width: int, height: int, radius: int) -> Image.Image:
    """Opacity of a plate with round corners, smoothed by drawing it four times as large."""
    large = Image.new("L", (4 * width, 4 * height))
    box = (0, 0, 4 * width - 1, 4 * height - 1)
    ImageDraw.Draw(large).rounded_rectangle(box, 4 * radius, fill=215)
    return large.resize((width, height), Image.Resampling.BOX)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    """The text, cut with dots where it would not fit; empty when not even a letter does."""
    if len(text) < _LONGEST_LABEL and font.getlength(text) <= room:
        return text
    ends = range(1, min(len(text), _LONGEST_LABEL))
    fits = bisect_right(
        ends, float(room), key=lambda end: float(font.getlength(f"{text[:end]}..."))
    )
    return text[:fits].rstrip() + "..." if fits else ""


def _lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> list[str]:
    """The text broken at spaces into at most two lines, the second cut where it would not fit."""
    words = text[: 2 * _LONGEST_LABEL].split()
    count = len(words)
    while count > 1 and font.getlength(" ".join(words[:count])) > room:
        count -= 1
    parts = [" ".join(words[:count]), " ".join(words[count:])]
    return [_shortened(part, font, room) for part in parts if part]


def _cell(image: Image.Image, label: str, width: int) -> Image.Image:
    """One picture of a contact sheet, with its label below."""
    size = max(11, width / 19)
    font = ImageFont.load_default(size)
    lines = _lines(label, font, width)
    picture = image.convert("RGB")
    height = max(1, round(picture.height * width / picture.width))
    cell = Image.new("RGB", (width, height + round(size * (1.35 * len(lines) + 0.3))), _PAPER)
    cell.paste(picture.resize((width, height), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        baseline = height + round(size * (1.35 * number + 1.2))
        draw.text((width / 2, baseline), line, _INK, font, anchor="ms")
    return cell
