"""COCO's instances.json, of which only what is asked for is kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...masks.rle import Rle, Size, from_segmentation
from ..json_stream import elements
from .items import size_of, wanted


@dataclass(eq=False)
class Instances:
    """Pictures by id, masks of annotations by id, and which picture each annotation is of."""

    files: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, Size] = field(default_factory=dict)
    masks: dict[int, Rle] = field(default_factory=dict)
    of_picture: dict[int, list[int]] = field(default_factory=dict)

    def objects(self, image: int) -> tuple[Rle, ...]:
        """Every mask kept of one picture."""
        return tuple(self.masks[one] for one in self.of_picture.get(image, ()))


def read_instances(
    path: Path, images: Collection[int], annotations: Collection[int], everything: bool = False
) -> Instances:
    """The named pictures and annotations of an instances.json, read an element at a time.

    everything: every annotation of those pictures. The file is read again when its annotations
    stand before its pictures. Raises ValueError naming the place when it lacks one of them or
    one is not whole.
    """
    found = Instances()
    late = _read(path, found, set(images), set(annotations), everything)
    if late:
        _read(path, found, set(images), set(annotations), everything)
    for kind, asked, has in (
        ("picture", images, found.files),
        ("annotation", annotations, found.masks),
    ):
        lost = [one for one in asked if one not in has]
        if lost:
            raise ValueError(
                f"'{path}' has no {kind} {lost[0]}, which the sentences speak of"
                f"{f' (and {len(lost) - 1} more)' if len(lost) > 1 else ''}; both files should be "
                "of one release."
            )
    return found


def _read(
    path: Path, found: Instances, images: set[int], annotations: set[int], everything: bool
) -> bool:
    """Fill `found`; whether an annotation came before its picture, so that it was passed over."""
    late = False
    for kind, entry in elements(path, "images", "annotations"):
        number = wanted(entry, "id", int, f"an entry of {kind} in '{path}'")
        if kind == "images":
            if number in images:
                _keep_picture(found, number, entry, path)
            continue
        if number in found.masks:
            continue
        image = entry.get("image_id")
        if number in annotations or (everything and image in images):
            if image in found.sizes:
                _keep_mask(found, number, entry, path)
            else:
                late = True
    return late


def _keep_picture(found: Instances, number: int, entry: Any, path: Path) -> None:
    where = f"picture {number} in '{path}'"
    found.files[number] = wanted(entry, "file_name", str, where)
    found.sizes[number] = size_of(entry, where)


def _keep_mask(found: Instances, number: int, entry: Any, path: Path) -> None:
    image = entry["image_id"]
    where = f"annotation {number} in '{path}'"
    shape = wanted(entry, "segmentation", (list, dict), where)
    found.masks[number] = from_segmentation(shape, found.sizes[image], where)
    found.of_picture.setdefault(image, []).append(number)
