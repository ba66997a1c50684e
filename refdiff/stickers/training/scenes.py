"""Draws scenes: one to five stickers on a background, with the exact visible mask of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..nouns import NOUNS
from . import looks
from .sprites import Sprites

Cast = list[tuple[str, str | None]]
SIZE = 256
"""Side of a scene in pixels, the sticker models' native size."""


@dataclass(frozen=True)
class Thing:
    """One sticker in a scene. centre: (y, x) in 0..1; size: longer side in pixels."""

    noun: str
    colour: str | None
    centre: tuple[float, float]
    size: float


@dataclass(frozen=True)
class Drawing:
    """picture: [H, W, 3] uint8. labels: [H, W] uint8, 0 = background, i + 1 = things[i]."""

    picture: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    things: tuple[Thing, ...]


def draw_scene(
    sprites: Sprites,
    rng: np.random.Generator,
    augment: bool,
    alike: bool = False,
    cast: Cast | None = None,
    names: Sequence[str] = NOUNS,
) -> Drawing:
    """A random scene. augment: also change styles, shapes and the whole picture (training).

    alike: things of different nouns in one style, colour, size and outline: only what they are
    tells them apart. cast: the nouns and colours to draw, instead of lots drawn from `names`.
    """
    canvas = looks.background(rng, SIZE)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    things: list[Thing] = []
    plain_style = str(rng.choice(sorted(sprites)))
    seed = int(rng.integers(2**31)) if alike else 0
    if cast is None:
        cast = (_alike_cast if alike else _cast)(sprites, names, rng)
    for noun, colour in cast:
        styles = sorted(style for style in sprites if noun in sprites[style])
        one_style = plain_style in styles and (alike or not augment)
        style = plain_style if one_style else str(rng.choice(styles))
        choices = sprites[style][noun]
        look = np.random.default_rng(seed) if alike else rng
        sticker = draw_sticker(choices[rng.integers(len(choices))], colour, look, augment)
        place = _find_place(labels, sticker.shape[:2], rng)
        if place is None:
            continue
        paste(canvas, labels, sticker, place, len(things) + 1)
        things.append(_thing(noun, colour, place, sticker))
    if augment and rng.random() < 0.3:
        change = (looks.blurred, looks.noisy, looks.lit, looks.textured)[rng.integers(4)]
        canvas = change(canvas, rng)
    picture = (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)
    return Drawing(picture, labels, tuple(things))


def _cast(sprites: Sprites, names: Sequence[str], rng: np.random.Generator) -> Cast:
    """Nouns and colours, biggest group first; repeated nouns are common on purpose."""
    nouns = [noun for noun in names if any(noun in style for style in sprites.values())]
    count = int(rng.choice([1, 2, 3, 4, 5], p=[0.08, 0.17, 0.3, 0.3, 0.15]))
    repeated = 1
    if count > 1 and rng.random() < 0.6:
        repeated = int(rng.integers(2, min(count, 4) + 1))
    picked = rng.choice(nouns, count - repeated + 1, replace=False)
    cast = [str(picked[0])] * repeated + [str(noun) for noun in picked[1:]]
    colours = list(looks.COLOURS)
    tinted = rng.random(count) < (0.75 if rng.random() < 0.7 else 0.0)
    return [
        (noun, str(rng.choice(colours)) if paint else None)
        for noun, paint in zip(cast, tinted, strict=True)
    ]


def _alike_cast(sprites: Sprites, names: Sequence[str], rng: np.random.Generator) -> Cast:
    nouns = [noun for noun in names if any(noun in style for style in sprites.values())]
    colour = str(rng.choice(list(looks.COLOURS)))
    return [(str(noun), colour) for noun in rng.choice(nouns, rng.integers(2, 5), replace=False)]


def draw_sticker(
    sprite: Image.Image, colour: str | None, rng: np.random.Generator, augment: bool
) -> looks.Array:
    """A sprite as it goes into a scene: 40 to 130 pixels, turned, tinted, for training restyled."""
    size = float(np.exp(rng.uniform(np.log(40), np.log(130))))
    scale = size / max(sprite.size)
    width, height = (max(8, round(side * scale)) for side in sprite.size)
    if augment:
        width = max(8, round(width * rng.uniform(0.8, 1.2)))
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    turned = _turn(sprite, rng, 25 if augment else 12, 0.25 if augment else 0.0)
    sticker = np.asarray(turned, np.float32) / 255
    if augment:
        sticker = looks.restyle(sticker, rng)
    if colour is not None:
        sticker = looks.tint(sticker, colour, rng if augment else None)
        if augment and rng.random() < 0.4:
            change = looks.COLOUR_SAFE_CHANGES[rng.integers(len(looks.COLOUR_SAFE_CHANGES))]
            sticker[..., :3] = np.clip(change(sticker[..., :3], rng), 0, 1)
    if augment and rng.random() < 0.2:
        sticker = looks.outline(sticker, rng)
    return sticker


def _turn(
    sprite: Image.Image, rng: np.random.Generator, degrees: float, shear: float
) -> Image.Image:
    """Rotates, and for training shears, bends and crops to what is left."""
    margin = max(4, round(0.25 * max(sprite.size)))
    wide = Image.new("RGBA", (sprite.width + 2 * margin, sprite.height + 2 * margin))
    wide.paste(sprite, (margin, margin))
    if shear:
        slant, rise = rng.uniform(-shear, shear), rng.uniform(-0.1, 0.1)
        middle_x, middle_y = wide.width / 2, wide.height / 2
        matrix = (1, slant, -slant * middle_y, rise, 1, -rise * middle_x)
        wide = wide.transform(wide.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            wide = _bend(wide, rng)
    wide = wide.rotate(rng.uniform(-degrees, degrees), Image.Resampling.BILINEAR)
    box = wide.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    return wide.crop(box)


def _bend(sprite: Image.Image, rng: np.random.Generator, cells: int = 3) -> Image.Image:
    """Moves the inner corners of a coarse mesh, so that proportions change."""
    xs, ys = np.linspace(0, sprite.width, cells + 1), np.linspace(0, sprite.height, cells + 1)
    nodes = np.stack(np.meshgrid(xs, ys, indexing="xy"), -1)
    reach = 0.09 * np.array(sprite.size)
    nodes[1:-1, 1:-1] += rng.uniform(-reach, reach, nodes[1:-1, 1:-1].shape)
    mesh = []
    for j in range(cells):
        for i in range(cells):
            box = (int(xs[i]), int(ys[j]), int(xs[i + 1]), int(ys[j + 1]))
            corners = (nodes[j, i], nodes[j + 1, i], nodes[j + 1, i + 1], nodes[j, i + 1])
            mesh.append((box, tuple(float(v) for corner in corners for v in corner)))
    return sprite.transform(sprite.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _find_place(
    labels: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """A corner (top, left) where the sticker hides at most a little of what is there."""
    height, width = size
    for _ in range(30):
        top = int(rng.integers(0, max(SIZE - height, 0) + 1))
        left = int(rng.integers(0, max(SIZE - width, 0) + 1))
        covered = labels[top : top + height, left : left + width]
        hidden = np.bincount(covered.ravel(), minlength=2)[1:]
        whole = np.bincount(labels.ravel(), minlength=2)[1:]
        if covered.size and (hidden <= 0.12 * np.maximum(whole[: len(hidden)], 1)).all():
            return top, left
    return None


def sticker_from(sprite: Image.Image, colour: str | None, size: float) -> looks.Array:
    """A sprite at a size in pixels, tinted if asked, otherwise as it is."""
    scale = size / max(sprite.size)
    shape = (max(8, round(sprite.width * scale)), max(8, round(sprite.height * scale)))
    small = sprite.resize(shape, Image.Resampling.LANCZOS, reducing_gap=3.0)
    sticker = np.asarray(small, np.float32) / 255
    return looks.tint(sticker, colour) if colour else sticker


def paste(
    canvas: looks.Array,
    labels: NDArray[np.uint8],
    sticker: looks.Array,
    place: tuple[int, int],
    label: int,
) -> None:
    top, left = place
    height, width = (
        min(side, whole - start)
        for side, start, whole in zip(sticker.shape[:2], place, canvas.shape[:2], strict=True)
    )
    sticker = sticker[:height, :width]
    region = canvas[top : top + height, left : left + width]
    alpha = sticker[..., 3:]
    region += alpha * (sticker[..., :3] - region)
    labels[top : top + height, left : left + width][alpha[..., 0] > 0.5] = label


def _thing(noun: str, colour: str | None, place: tuple[int, int], sticker: looks.Array) -> Thing:
    height, width = sticker.shape[:2]
    centre = ((place[0] + height / 2) / SIZE, (place[1] + width / 2) / SIZE)
    return Thing(noun, colour, centre, float(max(height, width)))
