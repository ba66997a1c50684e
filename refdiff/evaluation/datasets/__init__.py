"""Referring data sets in the files they are released in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import own, parquet, phrasecut, refer
from .items import DataSplit, Item, Picked, PictureSource, Selection
from .pictures import Pictures

__all__ = [
    "AUTO",
    "DataSplit",
    "Item",
    "Picked",
    "PictureSource",
    "Pictures",
    "Selection",
    "find_release",
    "read_split",
]

AUTO = "auto"


def find_release(place: Path, dataset: str = AUTO) -> tuple[str, Path]:
    """The data set at a place, and where it lies; `dataset` says which of several.

    place: a folder with a data set's files, a folder of such folders, or the file itself.
    Raises ValueError, naming what is there, when there is none, or several and no choice.
    """
    if not place.exists():
        raise ValueError(f"There is no '{place}'; name the folder that holds the data set.")
    found = _releases(place)
    if dataset != AUTO and dataset in found:
        return dataset, found[dataset]
    if dataset == AUTO and len(found) == 1:
        return next(iter(found.items()))
    if not found:
        raise ValueError(
            f"'{place}' holds no data set that is known: wanted refs(...).p or grefs(...).json "
            "with instances.json, refer_<split>.json, *.parquet or scenes.json, in it or in a "
            "folder in it."
        )
    names = ", ".join(sorted(found))
    if dataset == AUTO:
        raise ValueError(f"'{place}' holds several data sets ({names}); choose with --dataset.")
    raise ValueError(f"'{place}' holds {names} and no {dataset!r}; choose one with --dataset.")


def _releases(place: Path) -> dict[str, Path]:
    if place.is_dir():
        kinds = (refer.releases, phrasecut.releases, parquet.releases, own.releases)
        return {name: where for kind in kinds for name, where in kind(place).items()}
    if refer.REFS.fullmatch(place.name):
        return {refer.name_of(place): place}
    return parquet.releases(place) if place.suffix == ".parquet" else {}


def read_split(
    place: Path,
    split: str = "val",
    dataset: str = AUTO,
    images: Sequence[Path] = (),
    selection: Selection | None = None,
    everything: bool = False,
) -> DataSplit:
    """One split of the data set at a place, or the selected part of it.

    images: folders or zips with the pictures; left out, they are looked for where releases keep
    them. everything: read the pictures' other objects too. Raises ValueError, one sentence naming
    what came, what was wanted and what to do, for a file that is not of its format.
    """
    name, where = find_release(place, dataset)
    selection = selection or Selection()
    folder = where if where.is_dir() else where.parent
    roots = list(dict.fromkeys([folder, place] if place.is_dir() else [folder]))
    pictures = Pictures(images) if images else Pictures(roots, [folder.parent])
    if name == own.NAME:
        return own.read(where, split, selection)
    if name == phrasecut.NAME:
        return phrasecut.read(where, split, selection, pictures)
    if name == parquet.JXU124:
        return parquet.read_jxu124(where, split, selection, pictures)
    if name == parquet.LMMS:
        return parquet.read_lmms(where, split, selection)
    return refer.read(where, split, selection, pictures, everything)
