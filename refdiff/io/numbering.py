"""All candidates of a picture on it, each outlined in a colour of its own and numbered."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]


def draw_numbered(
    image: Image.Image, masks: Tensor, labels: Sequence[str], chosen: Sequence[bool] = ()
) -> Image.Image:
    """The picture with the outline and, in its middle, the number and label of each mask.

    masks: bool [N, h, w] of any size, numbered from 1 in their order; the largest are drawn first.
    labels: one each, "" for none. chosen: which are the answer, drawn with a thicker line.
    Raises ValueError unless there are as many labels as masks.
    """
    if len(labels) != len(masks):
        raise ValueError(f"There are {len(masks)} masks and {len(labels)} labels, wanted as many.")
    canvas = image.convert("RGB")
    areas = masks.flatten(1).sum(1)
    order = areas.argsort(descending=True, stable=True).tolist()
    width = max(1, round(max(canvas.size) / 300))
    for index in order:
        thick = width * (2 if index < len(chosen) and chosen[index] else 1)
        _outline(canvas, masks[index].numpy(), _colour(index), thick)
    for index in order:
        text = f"{index + 1} {labels[index]}".strip()
        _plate(canvas, masks[index].numpy(), text, _colour(index))
    return canvas


def _colour(index: int) -> Colour:
    """Hues a golden ratio apart: neighbours in number differ most."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618 % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _outline(canvas: Image.Image, mask: np.ndarray, colour: Colour, width: int) -> None:
    from scipy import ndimage

    large = Image.fromarray(mask).resize(canvas.size, Image.Resampling.NEAREST)
    solid = np.asarray(large)
    edge = solid & ~ndimage.binary_erosion(solid, iterations=width)
    canvas.paste(colour, (0, 0), Image.fromarray(edge))


def _plate(canvas: Image.Image, mask: np.ndarray, text: str, colour: Colour) -> None:
    """The text on its colour, at the place deepest inside the mask."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    x = (column + 0.5) * canvas.width / mask.shape[1]
    y = (row + 0.5) * canvas.height / mask.shape[0]
    font = ImageFont.load_default(max(10, max(canvas.size) / 40))
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox((x, y), text, font, anchor="mm")
    shift_x = min(0, canvas.width - 3 - right) + max(0, 3 - left)
    shift_y = min(0, canvas.height - 3 - bottom) + max(0, 3 - top)
    box = (left + shift_x - 2, top + shift_y - 2, right + shift_x + 2, bottom + shift_y + 2)
    draw.rectangle(box, fill=colour)
    draw.text((x + shift_x, y + shift_y), text, (18, 18, 26), font, anchor="mm")
