"""Scenes in refdiff's own format (`scenes.json`) as a referring data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...masks.rle import Rle, union
from ..scenes import FILE, Scene, read_scenes
from .items import DataSplit, Item, Picked, Selection
from .pictures import Pictures

NAME = "scenes"


def releases(folder: Path) -> dict[str, Path]:
    """The folder under this format's name, when it holds scenes."""
    return {NAME: folder} if (folder / FILE).is_file() else {}


def read(folder: Path, split: str, selection: Selection) -> DataSplit:
    """All sentences of a folder with scenes; the split is the folder's name, whatever is asked."""
    picked = Picked(_items(read_scenes(folder)), selection)
    items = tuple(picked)
    return DataSplit(
        NAME, folder.resolve().name, items, picked.total, Pictures([folder]), selection
    )


def _items(scenes: tuple[Scene, ...]) -> Iterator[Item]:
    for scene in scenes:
        objects = [_rle(thing.size, thing.counts) for thing in scene.objects]
        size = scene.objects[0].size if scene.objects else scene.masks().shape[1:]
        for number, said in enumerate(scene.sentences, 1):
            meant = [objects[index] for index in said.objects]
            yield Item(
                id=f"{scene.image.stem}-{number}",
                text=said.text,
                image=scene.image.name,
                size=(int(size[0]), int(size[1])),
                truth=union(meant, (int(size[0]), int(size[1]))),
                targets=len(meant),
                objects=tuple(objects),
            )


def _rle(size: tuple[int, int], counts: str) -> Rle:
    return {"size": list(size), "counts": counts.encode("ascii")}
