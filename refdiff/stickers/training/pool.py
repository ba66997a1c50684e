"""A pool of drawn scenes on disk, in shards, from which the sticker models are trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..nouns import NOUNS
from .emoji import load_emoji, names_of
from .scenes import Thing, draw_scene
from .sprites import TRAINING_STYLES, load_sprites

SHARD = 500
"""Scenes in one shard."""


@dataclass(frozen=True)
class Shard:
    """pictures: [N, 256, 256, 3] uint8; labels: [N, 256, 256] uint8; latents: [N, 4, 32, 32].

    Pictures and latents are empty where they were not asked for.
    """

    folder: Path
    pictures: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    latents: NDArray[np.float16]
    things: list[tuple[Thing, ...]]


def draw_pool(
    folder: Path,
    packages: Path,
    shards: int,
    first: int = 0,
    alike: float = 0.0,
    further: bool = False,
) -> None:
    """Draws shards `first` to `shards` in the training styles; those that exist are kept.

    alike: the share of scenes whose things look alike in all but their noun (`draw_scene`).
    further: with further drawings of the forty nouns, and every other shard with other emoji too.
    """
    nouns = load_sprites(packages, TRAINING_STYLES, further=further)
    emoji = load_emoji(packages, TRAINING_STYLES) if further else {}
    every = names_of(emoji)
    for index in range(first, shards):
        place = folder / f"{index:04d}"
        if (place / "things.json").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(10_000 + index)
        hard = np.arange(SHARD) < round(alike * SHARD)
        sprites = emoji if further and index % 2 else nouns
        drawings = []
        for one in hard:
            names = NOUNS if sprites is nouns else _some_names(every, rng)
            drawings.append(draw_scene(sprites, rng, augment=True, alike=bool(one), names=names))
        np.save(place / "pictures.npy", np.stack([drawing.picture for drawing in drawings]))
        np.save(place / "labels.npy", np.stack([drawing.labels for drawing in drawings]))
        things = [[asdict(thing) for thing in drawing.things] for drawing in drawings]
        (place / "things.json").write_text(json.dumps(things))


def _some_names(names: list[str], rng: np.random.Generator) -> list[str]:
    """Five of the forty nouns and five of any names, for one scene."""
    picked = {*rng.choice(NOUNS, 5, replace=False), *rng.choice(names, 5, replace=False)}
    return sorted(map(str, picked))


def read_pool(
    folder: Path,
    pictures: bool = True,
    latents: bool = False,
    most: int | None = None,
    only: str = "*",
) -> list[Shard]:
    """Finished shards, in order and in memory; with `latents` only those that have been encoded."""
    ready = "latents.npy" if latents else "things.json"
    found = sorted(folder.glob(f"{only}/{ready}"))[:most]
    return [_read_shard(path.parent, pictures, latents) for path in found]


def _read_shard(folder: Path, pictures: bool, latents: bool) -> Shard:
    things = json.loads((folder / "things.json").read_text())
    return Shard(
        folder,
        np.load(folder / "pictures.npy") if pictures else np.empty(0, np.uint8),
        np.load(folder / "labels.npy"),
        np.load(folder / "latents.npy") if latents else np.empty(0, np.float16),
        [
            tuple(Thing(**{**thing, "centre": tuple(thing["centre"])}) for thing in scene)
            for scene in things
        ],
    )
