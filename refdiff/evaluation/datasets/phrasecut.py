"""PhraseCut: refer_<split>.json with polygons for each phrase, pictures of Visual Genome.

Format and the way polygons become masks: github.com/ChenyunWu/PhraseCutDataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...masks.rle import Size, from_points
from ..json_stream import elements
from .items import DataSplit, Ids, Item, Picked, Selection, by_picture, size_of, wanted
from .pictures import Pictures

NAME = "phrasecut"
SIZES = "image_data_split*.json"


def releases(folder: Path) -> dict[str, Path]:
    """The folder under its data set's name, when it holds the phrases of a split."""
    inside = any(folder.glob("refer_*.json"))
    return {NAME: folder} if inside else {}


def read(folder: Path, split: str, selection: Selection, pictures: Pictures) -> DataSplit:
    """One split: train, val, test or miniv. Raises ValueError naming what is wrong and where."""
    file = folder / f"refer_{split}.json"
    if not file.is_file():
        own = sorted(path.stem.removeprefix("refer_") for path in folder.glob("refer_*.json"))
        raise ValueError(
            f"There is no '{file}'; the splits there are {', '.join(own) or 'none'}: choose one "
            "with --split."
        )
    sizes = _sizes(folder)
    picked = Picked((entry for _, entry in elements(file)), selection)
    items = by_picture(_items(picked, file, sizes, pictures))
    if not items:
        raise ValueError(f"'{file}' holds no phrase; take it from its source again.")
    return DataSplit(NAME, split, items, picked.total, pictures, selection)


def _sizes(folder: Path) -> dict[int, Size]:
    """Sizes of the pictures by id, from image_data_split3000.json where it is."""
    found = {}
    for file in sorted(folder.glob(SIZES)):
        for _, entry in elements(file):
            number = wanted(entry, "image_id", int, f"an entry of '{file}'")
            found[number] = size_of(entry, f"picture {number} in '{file}'")
    return found


def _items(
    picked: Picked[Any], file: Path, sizes: dict[int, Size], pictures: Pictures
) -> Iterator[Item]:
    ids = Ids()
    for entry in picked:
        task = ids(wanted(entry, "task_id", (str, int), f"a phrase of '{file}'"))
        where = f"phrase {task} of '{file}'"
        number = wanted(entry, "image_id", int, where)
        name = f"{number}.jpg"
        size = sizes.get(number) or _measured(name, pictures, where)
        instances = wanted(entry, "Polygons", list, where)
        polygons = [polygon for instance in instances for polygon in _inner(instance, where)]
        phrase = " ".join(wanted(entry, "phrase", str, where).split())
        yield Item(task, phrase, name, size, from_points(polygons, size, where), len(instances))


def _inner(instance: Any, where: str) -> list[Any]:
    if not isinstance(instance, list):
        raise ValueError(f'"Polygons" of {where} should be lists of polygons; take it anew.')
    return instance


def _measured(name: str, pictures: Pictures, where: str) -> Size:
    if not pictures.has(name):
        raise ValueError(
            f"The size of the picture of {where} is not known: there is neither {SIZES} beside "
            f"the phrases nor the picture '{name}'; put one of them there."
        )
    return pictures.size(name)
