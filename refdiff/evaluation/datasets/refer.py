"""The layout of the refer API: refs(<by>).p and instances.json in a folder per data set.

RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, Ref-ZOM and false-premise sets come so; gRefCOCO writes
grefs(<by>).json with a list of annotations for each ref, [-1] for none.
Format: github.com/lichengunc/refer, github.com/henghuiding/gRefCOCO.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...masks.rle import union
from ..json_stream import elements
from ..unpickle import load_plain
from .instances import Instances, read_instances
from .items import DataSplit, Ids, Item, Picked, Selection, by_picture, wanted
from .pictures import Pictures

REFS = re.compile(r"g?refs\((?P<by>[^()]+)\)\.(p|pkl|pickle|json)")
NAMES = {
    ("refcoco", "unc"): "refcoco",
    ("refcoco+", "unc"): "refcoco+",
    ("refcocop", "unc"): "refcoco+",
    ("refcocoplus", "unc"): "refcoco+",
    ("grefcoco", "unc"): "grefcoco",
    ("ref-zom", "final"): "ref-zom",
    ("refzom", "final"): "ref-zom",
}
"""Folder and who split it -> the data set's name; any other is called folder-by."""


@dataclass(frozen=True)
class Draft:
    """A sentence as its ref tells it; what it means is still annotation ids."""

    id: str
    text: str
    image: int
    annotations: tuple[int, ...]


def releases(folder: Path) -> dict[str, Path]:
    """The refs files in a folder and in the folders in it, by the names of their data sets."""
    places = [folder, *sorted(inner for inner in folder.iterdir() if inner.is_dir())]
    found: dict[str, Path] = {}
    for place in places:
        for file in sorted(place.glob("*refs(*")):
            if REFS.fullmatch(file.name):
                found.setdefault(name_of(file), file)
    return found


def name_of(file: Path) -> str:
    """The data set's name, from its folder and who split it."""
    matched = REFS.fullmatch(file.name)
    by = matched["by"].lower() if matched else ""
    folder = file.resolve().parent.name.lower()
    if file.name.startswith("grefs"):
        return "grefcoco"
    return NAMES.get((folder, by), f"{folder}-{by}")


def read(
    file: Path, split: str, selection: Selection, pictures: Pictures, everything: bool = False
) -> DataSplit:
    """One split of a refs file. everything: keep every object of the pictures, as proposals.

    Splits are matched as the refer API does: testA is every split with an A in its name, test
    every split with "test" in it. Raises ValueError naming what is wrong and where.
    """
    refs = _refs(file)
    picked = Picked(_drafts(refs, split, file), selection)
    drafts = list(picked)
    if not drafts:
        raise ValueError(_no_split(refs, split, file))
    instances = read_instances(
        file.parent / "instances.json",
        {draft.image for draft in drafts},
        {one for draft in drafts for one in draft.annotations},
        everything,
    )
    items = by_picture(_item(draft, instances, everything) for draft in drafts)
    return DataSplit(name_of(file), split, items, picked.total, pictures, selection)


def _refs(file: Path) -> list[Any]:
    if not (file.parent / "instances.json").is_file():
        raise ValueError(
            f"There is no instances.json beside '{file}'; it belongs to the same release, put it "
            "there."
        )
    if file.suffix == ".json":
        return [entry for _, entry in elements(file)]
    refs = load_plain(file)
    if not isinstance(refs, list):
        raise ValueError(
            f"'{file}' holds a {type(refs).__name__}, wanted a list of refs; take it from its "
            "source again."
        )
    return refs


def _drafts(refs: Iterable[Any], split: str, file: Path) -> Iterator[Draft]:
    ids = Ids()
    for number, ref in enumerate(refs):
        where = f"ref {number} of '{file}'"
        if not matches(wanted(ref, "split", str, where), split):
            continue
        image = wanted(ref, "image_id", int, where)
        annotations = _annotations(ref.get("ann_id"), where)
        for said in wanted(ref, "sentences", (list, tuple), where):
            name = ids(wanted(said, "sent_id", (int, str), f"a sentence of {where}"))
            yield Draft(name, text_of(said, where), image, annotations)


def text_of(sentence: Any, where: str) -> str:
    """What was written ("raw", as the field's loaders read it), else its cleaned form ("sent")."""
    for key in ("raw", "sent"):
        if isinstance(sentence, dict) and isinstance(sentence.get(key), str) and sentence[key]:
            return " ".join(sentence[key].split())
    return str(wanted(sentence, "sent", str, f"a sentence of {where}"))


def matches(own: str, asked: str) -> bool:
    """Whether a ref's split belongs to the split asked for, by the refer API's rule."""
    if re.fullmatch("test[A-C]", asked):
        return asked[-1] in own
    return "test" in own if asked == "test" else own == asked


def _annotations(value: Any, where: str) -> tuple[int, ...]:
    """The annotations meant: a number, or a list; -1, none and an empty list are no target."""
    given = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(type(one) is int for one in given):
        raise ValueError(
            f'"ann_id" of {where} is {value!s:.60}, wanted a whole number or a list of them; '
            "take the file from its source again."
        )
    return tuple(one for one in given if one != -1)


def _item(draft: Draft, instances: Instances, everything: bool) -> Item:
    size = instances.sizes[draft.image]
    return Item(
        id=draft.id,
        text=draft.text,
        image=instances.files[draft.image],
        size=size,
        truth=union([instances.masks[one] for one in draft.annotations], size),
        targets=len(draft.annotations),
        objects=instances.objects(draft.image) if everything else (),
    )


def _no_split(refs: list[Any], split: str, file: Path) -> str:
    own = sorted({str(ref.get("split")) for ref in refs if isinstance(ref, dict)})
    return (
        f"'{file}' has no sentence in the split {split!r}; it has {', '.join(own) or 'none'}: "
        "choose one with --split."
    )
