"""Draws the picture that ships with the package: six stickers on a hillside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .. import SAMPLE, SAMPLE_LABELS
from .scenes import SIZE, Drawing, Thing, paste, sticker_from
from .sprites import load_sprites

CAST = (
    Thing("cat", "red", (0.62, 0.19), 76),
    Thing("cat", "blue", (0.60, 0.80), 74),
    Thing("dog", None, (0.74, 0.50), 84),
    Thing("tree", None, (0.28, 0.16), 78),
    Thing("balloon", None, (0.22, 0.52), 62),
    Thing("car", "green", (0.24, 0.83), 70),
)
STYLE = "fxemoji"  # one that the models were trained on: the picture shows, it does not measure
SKY, GRASS = (0.74, 0.87, 0.96), (0.68, 0.83, 0.55)


def draw_sample(packages: Path) -> Drawing:
    """The same picture every time."""
    sprites = load_sprites(packages, (STYLE,))[STYLE]
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    hill = y > 128 + 14 * np.sin(x / 46)
    canvas = np.where(hill[..., None], np.asarray(GRASS, np.float32), np.asarray(SKY, np.float32))
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for index, thing in enumerate(CAST):
        sticker = sticker_from(sprites[thing.noun][0], thing.colour, thing.size)
        top = round(thing.centre[0] * SIZE - sticker.shape[0] / 2)
        left = round(thing.centre[1] * SIZE - sticker.shape[1] / 2)
        paste(canvas, labels, sticker, (top, left), index + 1)
    return Drawing((canvas * 255).round().astype(np.uint8), labels, CAST)


def save_sample(packages: Path) -> None:
    """Draws the picture into the package, and a picture of which pixel shows which object."""
    drawing = draw_sample(packages)
    Image.fromarray(drawing.picture).save(SAMPLE, optimize=True)
    Image.fromarray(drawing.labels).save(SAMPLE_LABELS, optimize=True)
