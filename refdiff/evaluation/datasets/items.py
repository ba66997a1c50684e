"""What every data set comes to: sentences with the mask of what they mean, and their pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

from ...masks.rle import Rle, Size

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Item:
    """One sentence. id: unique in its split. image: what its pictures are asked for.

    size: (height, width) of the picture. truth: the union of what is meant. targets: how many
    objects that is, 0 when the sentence means nothing in the picture. objects: the picture's
    other annotated objects and the meant ones, where the data set has them and they were asked for.
    """

    id: str
    text: str
    image: str
    size: Size
    truth: Rle
    targets: int = 1
    objects: tuple[Rle, ...] = ()


class PictureSource(Protocol):
    """Where a data set's pictures are."""

    def has(self, name: str) -> bool:
        """Whether the picture is there."""
        ...

    def size(self, name: str) -> Size:
        """(height, width), without decoding it; ValueError when it is no picture."""
        ...

    def read(self, name: str) -> Image.Image:
        """The picture as RGB; ValueError when it is no whole picture."""
        ...


@dataclass(frozen=True)
class Selection:
    """Part of a split: of its sentences every `every`-th from the first, and of these `first`."""

    first: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or (self.first is not None and self.first < 1):
            raise ValueError(
                f"first is {self.first} and every {self.every}; both count sentences, from 1 up."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a summary."""
        return {"first": self.first, "every": self.every}


@dataclass(eq=False)
class Picked(Generic[T]):
    """Runs through everything once, giving what is selected; knows how much there was."""

    drafts: Iterable[T]
    selection: Selection
    total: int = 0

    def __iter__(self) -> Iterator[T]:
        taken = 0
        for number, draft in enumerate(self.drafts):
            self.total = number + 1
            full = self.selection.first is not None and taken >= self.selection.first
            if not full and number % self.selection.every == 0:
                taken += 1
                yield draft


@dataclass(frozen=True, eq=False)
class DataSplit:
    """One split of a data set, or a part of it, sentences of one picture after each other.

    total: sentences in the whole split. lossy: why its masks are not the original ones, or "".
    notes: sentences for whoever reads the figures.
    """

    dataset: str
    split: str
    items: tuple[Item, ...]
    total: int
    pictures: PictureSource
    selection: Selection = field(default_factory=Selection)
    lossy: str = ""
    notes: tuple[str, ...] = ()


def by_picture(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items with those of one picture together, pictures in the order they first appear."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.image, []).append(item)
    return tuple(item for group in groups.values() for item in group)


class Ids:
    """Sentence ids as text, each given out once: a repeated one gets -2, -3 ... in file order."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def __call__(self, given: object) -> str:
        name = str(given)
        self._seen[name] += 1
        return name if self._seen[name] == 1 else f"{name}-{self._seen[name]}"


def wanted(record: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """A field of a record from a file; ValueError naming the place when it is not of its kind."""
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, kinds) and not isinstance(value, bool):
        return value
    names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
    found = repr(value) if isinstance(record, dict) else f"a {type(record).__name__}"
    raise ValueError(
        f'{where[0].upper()}{where[1:]} needs "{key}" ({" or ".join(names)}), found {found:.60}; '
        "take the file from its source again."
    )


def size_of(record: Any, where: str) -> Size:
    """(height, width) of a picture's record; ValueError when it is not a plausible size."""
    height, width = (wanted(record, key, int, where) for key in ("height", "width"))
    if not (0 < height <= 65535 and 0 < width <= 65535):
        raise ValueError(
            f"The picture's size in {where} is {height} x {width} (height x width), wanted 1 to "
            "65535; take the file from its source again."
        )
    return height, width
