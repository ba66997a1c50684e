"""What is known of a picture once it is labelled, as plain data that a line of JSON holds.

Masks are COCO's compressed run lengths (the "counts" of pycocotools), of the picture's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..masks import rle
from .pictures import Item


@dataclass(frozen=True)
class Label:
    """One text's answer in one picture.

    instances: the counts of every object's mask, none where nothing was found. presence and
    certainty: 0..1, is it there at all, and how surely this mask is meant (`certainty_of`).
    """

    text: str
    noun: str
    presence: float
    certainty: float
    score: float
    instances: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """A picture's labels, or the error that kept it from having any.

    size: (height, width). worker: host and process that made it.
    """

    name: str
    stamp: tuple[int, int]
    texts: tuple[str, ...]
    size: tuple[int, int] | None = None
    labels: tuple[Label, ...] = ()
    error: str | None = None
    seconds: float = 0.0
    worker: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Record:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError for anything else."""
        size = None if plain["size"] is None else tuple(plain["size"])
        labels = [{**one, "instances": _checked(one["instances"], size)} for one in plain["labels"]]
        return cls(
            **{
                **plain,
                "stamp": tuple(plain["stamp"]),
                "texts": tuple(plain["texts"]),
                "size": size,
                "labels": tuple(Label(**one) for one in labels),
            }
        )

    def answers(self, item: Item) -> bool:
        """Whether this is the answer to that item: same picture, same texts, no error."""
        same = (self.name, self.stamp, self.texts) == (item.name, item.stamp, item.texts)
        return same and self.error is None

    @property
    def certainty(self) -> float:
        """Of its least certain label; 0 with an error."""
        return min((label.certainty for label in self.labels), default=0.0)


def _checked(counts: Sequence[Any], size: Any) -> tuple[str, ...]:
    """Run lengths from a file, which fill the picture; ValueError for others."""
    for one in counts:
        rle.checked(one, size, "an object")
    return tuple(counts)


def encoded(mask: NDArray[np.bool_]) -> str:
    """The compressed run lengths of a mask [H, W]."""
    return rle.text_of(rle.encode(mask))


def decoded(counts: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask [H, W] of run lengths."""
    return rle.decode({"size": list(size), "counts": counts.encode()})


def union(counts: Sequence[str], size: tuple[int, int]) -> NDArray[np.bool_]:
    """All of the masks as one [H, W]; zeros for none."""
    found = np.zeros(size, dtype=bool)
    for one in counts:
        found |= decoded(one, size)
    return found


def area_and_box(counts: str, size: tuple[int, int]) -> tuple[int, list[float]]:
    """Pixels of a mask, and its box (left, top, width, height)."""
    from pycocotools import mask as coco

    runs = {"size": list(size), "counts": counts.encode()}
    return int(coco.area(runs)), [float(side) for side in coco.toBbox(runs)]
