"""What the small CLIP is trained on: cut-outs of the pool's scenes, and sentences about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from ..nouns import NOUNS
from .emoji import names_of
from .looks import COLOURS
from .pool import Shard
from .scenes import Thing, draw_sticker, paste
from .sentences import plural_of
from .sprites import Sprites

CROPS, STICKERS, SCENES, TEXTS, MOST = 32, 48, 4, 96, 5
SCENE_SIDE = 128


@dataclass(frozen=True)
class Region:
    """What a cut-out shows: nothing whole for a bad cut, else one thing."""

    thing: Thing | None


def _draw(
    shards: list[Shard], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[Thing, ...]]:
    while True:
        shard = shards[rng.integers(len(shards))]
        index = int(rng.integers(len(shard.things)))
        if shard.things[index]:
            return (
                np.asarray(shard.pictures[index]),
                np.asarray(shard.labels[index]),
                shard.things[index],
            )


def batch(
    shards: list[Shard], emoji: Sprites, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, list[Region], list[str], Tensor]:
    """Cut-outs, scenes and their masks, the regions of both, sentences, and which are true."""
    cut_outs, cut_regions = crops(shards, emoji, rng)
    pictures, masks, scene_regions = scenes(shards, rng)
    regions = cut_regions + scene_regions
    return (cut_outs, pictures, masks, regions, *texts(regions, rng))


def crops(
    shards: list[Shard], emoji: Sprites, rng: np.random.Generator
) -> tuple[Tensor, list[Region]]:
    """Cut-outs of the pool's scenes, then of single emoji before them. [N, 3, 64, 64]."""
    pictures: list[np.ndarray] = []
    regions: list[Region] = []
    while len(pictures) < CROPS:
        picture, labels, things = _draw(shards, rng)
        for index in rng.permutation(len(things))[:2]:
            mask = labels == index + 1
            if mask.sum() >= 150:
                _add(pictures, regions, picture, mask, things[index], rng)
    del pictures[CROPS:], regions[CROPS:]
    for name in rng.choice(names_of(emoji), STICKERS // 2):
        styles = [style for style in sorted(emoji) if name in emoji[style]]
        for style in rng.permutation(styles)[[0, -1]]:
            choices = emoji[style][name]
            sprite = choices[rng.integers(len(choices))]
            colour = str(rng.choice(list(COLOURS))) if rng.random() < 0.3 else None
            sticker = draw_sticker(sprite, colour, rng, augment=True)
            picture, mask = _before(_draw(shards, rng)[0], sticker, rng)
            thing = Thing(str(name), colour, (0.5, 0.5), float(max(sticker.shape)))
            _add(pictures, regions, picture, mask, thing, rng)
    return _changed(_pixels(np.stack(pictures)), rng), regions


def _add(
    pictures: list[np.ndarray],
    regions: list[Region],
    picture: np.ndarray,
    mask: np.ndarray,
    thing: Thing,
    rng: np.random.Generator,
) -> None:
    box, good = _box(mask, rng)
    pictures.append(_cut(picture, mask, box, rng))
    regions.append(Region(thing if good else None))


def _before(
    picture: np.ndarray, sticker: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A piece of a scene, half as large again as the sticker that is put in its middle."""
    height, width = sticker.shape[:2]
    side = min(round(1.5 * max(height, width)), len(picture))
    top, left = rng.integers(0, len(picture) - side + 1, 2)
    canvas = picture[top : top + side, left : left + side].astype(np.float32) / 255
    labels = np.zeros((side, side), np.uint8)
    place = (max(0, (side - height) // 2), max(0, (side - width) // 2))
    paste(canvas, labels, sticker, place, 1)
    mask = labels == 1
    mask |= mask.sum() < 150  # of a sticker too pale to have a shape, the whole piece
    return (canvas * 255).round().astype(np.uint8), mask


def _changed(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Each picture [N, 3, S, S] relit, and some coarsened or partly covered."""
    pictures = _relit(pictures, rng)
    for index in range(len(pictures)):
        if rng.random() < 0.25:
            side = int(rng.integers(18, 48))
            small = F.adaptive_avg_pool2d(pictures[index], side)[None]
            pictures[index] = F.interpolate(small, pictures.shape[-2:], mode="bicubic")[0]
        if rng.random() < 0.25:
            top, left, height, width = (*rng.integers(-8, 60, 2), *rng.integers(8, 30, 2))
            rows = slice(max(0, top), max(0, top + height))
            columns = slice(max(0, left), max(0, left + width))
            paint = torch.from_numpy(rng.uniform(-1, 1, 3)).float()
            pictures[index, :, rows, columns] = paint[:, None, None]
    return pictures.clamp(-1, 1)


def _relit(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Each picture [N, 3, S, S] with a contrast and a brightness of its own, half of them flipped.

    Hues stay, since colours are among the words.
    """
    contrast, light = rng.uniform(0.6, 1.25, len(pictures)), rng.uniform(-0.2, 0.2, len(pictures))
    scale, shift = (torch.tensor(one).float().view(-1, 1, 1, 1) for one in (contrast, light))
    flipped = torch.from_numpy(rng.random(len(pictures)) < 0.5).view(-1, 1, 1, 1)
    pictures = torch.where(flipped, pictures.flip(-1), pictures)
    return (pictures * scale + shift).clamp(-1, 1)


def _box(mask: np.ndarray, rng: np.random.Generator) -> tuple[tuple[int, int, int, int], bool]:
    """A square-ish box around the thing with some slack; one in seven is a bad cut."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    centre = np.array([rows[0] + rows[-1], columns[0] + columns[-1]]) / 2
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    good = rng.random() > 0.15
    if good:
        side = side * rng.uniform(0.95, 1.35)
        centre = centre + rng.uniform(-0.07, 0.07, 2) * side
    elif rng.random() < 0.5:
        centre = centre + rng.choice([-1, 1], 2) * rng.uniform(0.55, 1.0, 2) * side
    else:
        side = side * rng.choice([0.35, 2.6])
        centre = centre + rng.uniform(-0.3, 0.3, 2) * side
    left, top = centre[1] - side / 2, centre[0] - side / 2
    return (round(left), round(top), round(left + side), round(top + side)), good


def _cut(
    picture: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator
) -> np.ndarray:
    """The box as 64 pixels, its surroundings kept, black, grey or blurred."""
    source = Image.fromarray(picture)
    kind = rng.random()
    if kind > 0.5:
        alpha = Image.fromarray(mask.astype(np.uint8) * 255)
        if kind < 0.7:
            ground = source.filter(ImageFilter.GaussianBlur(float(rng.uniform(3, 10))))
        else:
            shade = 0 if kind < 0.85 else int(rng.integers(90, 160))
            ground = Image.new("RGB", source.size, (shade, shade, shade))
        source = Image.composite(source, ground, alpha)
    return np.asarray(source.crop(box).resize((64, 64), Image.Resampling.BICUBIC))


def scenes(shards: list[Shard], rng: np.random.Generator) -> tuple[Tensor, Tensor, list[Region]]:
    pictures, masks, regions = [], torch.zeros(SCENES, MOST, SCENE_SIDE, SCENE_SIDE), []
    for row in range(SCENES):
        picture, labels, things = _draw(shards, rng)
        pictures.append(
            np.asarray(
                Image.fromarray(picture).resize((SCENE_SIDE, SCENE_SIDE), Image.Resampling.BICUBIC)
            )
        )
        small = np.asarray(
            Image.fromarray(labels).resize((SCENE_SIDE, SCENE_SIDE), Image.Resampling.NEAREST)
        )
        for column in range(MOST):
            thing = (
                things[column]
                if column < len(things) and (small == column + 1).sum() > 30
                else None
            )
            shape = small == column + 1 if thing else _elsewhere(small, rng)
            masks[row, column] = torch.from_numpy(shape)
            regions.append(Region(thing))
    return _pixels(np.stack(pictures)), masks, regions


def _elsewhere(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A block of mostly background."""
    shape = np.zeros(labels.shape, bool)
    top, left, height, width = (*rng.integers(0, 100, 2), *rng.integers(16, 70, 2))
    shape[top : top + height, left : left + width] = True
    return shape & (labels == 0) if ((labels == 0) & shape).any() else labels == 0


def _pixels(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def texts(regions: list[Region], rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """Sentences about the regions and others, and which are true of which. truth: [R, T] bool."""
    there = [region.thing for region in regions if region.thing]
    wanted: list[tuple[str, str | None]] = []
    for _ in range(TEXTS):
        thing = there[rng.integers(len(there))]
        noun = thing.noun if rng.random() < 0.8 else str(rng.choice(NOUNS))
        tone = thing.colour if rng.random() < 0.6 else str(rng.choice(list(COLOURS)))
        wanted.append((noun, tone if rng.random() < 0.6 else None))
    truth = torch.tensor(
        [[_true(region.thing, noun, tone) for noun, tone in wanted] for region in regions]
    )
    return [_wording(noun, tone, rng) for noun, tone in wanted], truth


def _true(thing: Thing | None, noun: str, tone: str | None) -> bool:
    return thing is not None and thing.noun == noun and (tone is None or thing.colour == tone)


ENDINGS = (
    "on the left",
    "on the right",
    "at the top",
    "at the bottom",
    "from the left",
    "next to the {}",
    "to the left of the {}",
    "above the {}",
)


def _wording(noun: str, tone: str | None, rng: np.random.Generator) -> str:
    start = str(
        rng.choice(
            [
                "the",
                "a",
                "",
                "a photo of the",
                "a photo of a",
                "small",
                "big",
                "left",
                "second",
                "all",
            ]
        )
    )
    name = plural_of(noun) if start == "all" else noun
    words = " ".join(word for word in (start, tone, name) if word)
    if rng.random() < 0.3:
        words += " " + str(rng.choice(ENDINGS)).format(str(rng.choice(NOUNS)))
    return words
