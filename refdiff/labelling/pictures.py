"""Which pictures a folder holds, and which words each is to be masked by."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..io.pictures import picture_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CAPTION = ".txt"
LONGEST_CAPTION = 100_000  # bytes
MASK_LABEL = "-masklabel"  # what OneTrainer's masks end with; they are no pictures to label


@dataclass(frozen=True)
class Item:
    """A picture and what to look for in it.

    name: its path below the folder, with forward slashes. stamp: its size in bytes and the time
    of its last change, by which a changed picture is known. texts: one mask each.
    """

    name: str
    path: str
    stamp: tuple[int, int]
    texts: tuple[str, ...]


def phrases(text: str) -> tuple[str, ...]:
    """ "a person; the red car" as ("a person", "the red car"): one mask per part or line."""
    parts = (part.strip() for part in re.split(r"[;\n]", text))
    return tuple(dict.fromkeys(part for part in parts if part))


def find_pictures(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Every picture below a folder in the order of its names; hidden ones are left out.

    leave_out: a folder that is not looked into, such as the one that is written to.
    Raises ValueError when the folder is none or holds no picture.
    """
    if not folder.is_dir():
        raise ValueError(f"'{folder}' is no folder; name one that holds pictures.")
    skipped = None if leave_out is None else leave_out.resolve()
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() != skipped
        ]
        found += [here / name for name in files if _is_picture(name)]
    if not found:
        raise ValueError(f"There are no pictures in '{folder}'; put PNG, JPEG or WebP files there.")
    return sorted(found, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def _is_picture(name: str) -> bool:
    path = Path(name)
    known = path.suffix.lower() in SUFFIXES and not name.startswith(".")
    return known and not path.stem.endswith(MASK_LABEL)


def _natural(name: str) -> str:
    return re.sub(r"\d+", lambda number: number[0].zfill(20), name)


def items_of(folder: Path, pictures: Iterable[Path], text: str | None) -> list[Item]:
    """What to do. text: the words for every picture; None takes each picture's own caption.

    A caption is a file beside the picture: photo.txt for photo.png. Raises ValueError when there
    is a picture without one, or no words at all.
    """
    shared = None if text is None else phrases(text)
    if shared == ():
        raise ValueError(f'The text is {text!r}; write what to mask, such as "a person; a car".')
    found, bare = [], []
    for path in pictures:
        texts = _caption(path) if shared is None else shared
        if not texts:
            bare.append(path)
            continue
        state = path.stat()
        name = path.relative_to(folder).as_posix()
        found.append(Item(name, str(path), (state.st_size, state.st_mtime_ns), texts))
    if bare:
        raise ValueError(
            f"{len(bare)} pictures have no caption beside them, first '{bare[0]}'; write what to "
            f"mask into {bare[0].with_suffix(CAPTION).name}, a line per mask, or give TEXT."
        )
    return found


def _caption(path: Path) -> tuple[str, ...]:
    caption = path.with_suffix(CAPTION)
    if not caption.exists():
        return ()
    try:
        if not caption.is_file() or caption.stat().st_size > LONGEST_CAPTION:
            raise OSError(f"it is no file of at most {LONGEST_CAPTION:,} bytes")
        return phrases(caption.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The caption '{caption}' cannot be read ({error}); save it as UTF-8."
        ) from error


def classes_of(items: Iterable[Item]) -> tuple[str, ...]:
    """Every text once, in the order of first appearance."""
    return tuple(dict.fromkeys(text for item in items for text in item.texts))


def batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Pictures of one size together, at most `size` of them; those that can't be read alone."""
    groups: dict[tuple[int, int] | None, list[Item]] = {}
    for item in items:
        groups.setdefault(_size(item), []).append(item)
    alone = [[item] for item in groups.pop(None, [])]
    return alone + [
        group[start : start + size]
        for group in groups.values()
        for start in range(0, len(group), size)
    ]


def _size(item: Item) -> tuple[int, int] | None:
    try:
        return picture_size(item.path)
    except ValueError:  # said when it is labelled
        return None
