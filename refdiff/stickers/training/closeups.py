"""Draws close-ups: one sticker as a painter sees it, with its surroundings, and what it is.

Scenes show things of 40 to 130 pixels, too small to learn from what a thing looks like when it
fills the place that is painted. Here it takes most of a small picture, in its middle, as in what
`painting.brush.window_around` cuts out with the context that this painter is given.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import looks
from .scenes import _turn, paste
from .sprites import Sprites, load_sprites

STYLES = ("fluent-flat",)
"""Flat drawings with few details, which latents of 8 pixels a side can hold."""
SIDE = 160
LONG = (106, 130)
"""A thing's long side, in pixels of `SIDE`."""
SHARD = 500
GROUND = "empty background"


def draw_closeup(sprites: Sprites, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
    """A picture [SIDE, SIDE, 3] and its caption, "" one time in ten (for guidance)."""
    canvas = _ground(rng)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    if rng.random() < 0.25:
        for _ in range(rng.integers(1, 3)):
            _paste_neighbour(canvas, labels, sprites, rng)
    caption = GROUND
    if rng.random() > 0.05:
        noun, style = _pick(sprites, rng)
        colour = str(rng.choice(list(looks.COLOURS))) if rng.random() < 0.3 else None
        sticker = _sticker(sprites, style, noun, colour, float(rng.uniform(*LONG)), rng)
        centre = SIDE / 2 + rng.normal(0, 2.5, 2) - np.array(sticker.shape[:2]) / 2
        top, left = (int(np.clip(value, 0, SIDE - 8)) for value in centre)
        paste(canvas, labels, sticker, (top, left), 1)
        article = str(rng.choice(["a", "a", "a", "the", ""]))
        caption = " ".join(word for word in (article, colour, noun) if word)
    if rng.random() < 0.1:
        caption = ""
    return (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8), caption


def _ground(rng: np.random.Generator) -> looks.Array:
    """Mostly a calm one: what is painted matters, and not what is around it."""
    if rng.random() < 0.15:
        return looks.background(rng, SIDE)
    kinds = (looks._plain, looks._graded, looks._horizon)
    return np.array(kinds[rng.integers(3)](rng, SIDE), np.float32)


def _pick(sprites: Sprites, rng: np.random.Generator) -> tuple[str, str]:
    style = str(rng.choice(sorted(sprites)))
    return str(rng.choice(sorted(sprites[style]))), style


def _sticker(
    sprites: Sprites,
    style: str,
    noun: str,
    colour: str | None,
    size: float,
    rng: np.random.Generator,
) -> looks.Array:
    sprite = sprites[style][noun][0]
    scale = size / max(sprite.size)
    shape = (max(8, round(sprite.width * scale)), max(8, round(sprite.height * scale)))
    sprite = sprite.resize(shape, Image.Resampling.BILINEAR, reducing_gap=2.0)
    sticker = np.asarray(_turn(sprite, rng, 2, 0.0), np.float32) / 255
    return looks.tint(sticker, colour) if colour else sticker


def _paste_neighbour(
    canvas: looks.Array, labels: NDArray[np.uint8], sprites: Sprites, rng: np.random.Generator
) -> None:
    """Another thing that looks in from a side of the picture."""
    noun, style = _pick(sprites, rng)
    colour = str(rng.choice(list(looks.COLOURS))) if rng.random() < 0.4 else None
    sticker = _sticker(sprites, style, noun, colour, float(rng.uniform(60, 150)), rng)
    height, width = sticker.shape[:2]
    side, shown = rng.integers(4), int(rng.integers(12, 40))
    along = int(rng.integers(-40, SIDE - 30))
    across = (height if side < 2 else width) - shown
    far = SIDE - shown if side % 2 else -across
    top, left = (far, along) if side < 2 else (along, far)
    skip_y, skip_x = max(0, -top), max(0, -left)
    if skip_y < height and skip_x < width and top < SIDE and left < SIDE:
        paste(canvas, labels, sticker[skip_y:, skip_x:], (max(0, top), max(0, left)), 2)


def draw_closeups(folder: Path, packages: Path, shards: int) -> None:
    """Draws shards of 500 with their captions; those that exist are kept."""
    sprites = load_sprites(packages, STYLES)
    for index in range(shards):
        place = folder / f"{index:04d}"
        if (place / "captions.json").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(50_000 + index)
        drawn = [draw_closeup(sprites, rng) for _ in range(SHARD)]
        np.save(place / "pictures.npy", np.stack([picture for picture, _ in drawn]))
        (place / "captions.json").write_text(json.dumps([caption for _, caption in drawn]))


def read_closeups(folder: Path) -> list[tuple[NDArray[np.float16], list[str]]]:
    """The encoded shards: latents [500, 4, h, w] and their captions."""
    return [
        (np.load(path), json.loads((path.parent / "captions.json").read_text()))
        for path in sorted(folder.glob("*/latents.npy"))
    ]
