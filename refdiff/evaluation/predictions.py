"""Masks on file, one line of JSON for each sentence, written as they come and never rewritten.

    {"dataset": "refcoco", "split": "val", "id": "143", "text": "left man", "kinds": ["place"],
     "size": [480, 640], "counts": "<COCO compressed RLE>", "presence": 0.62, "seconds": 1.4}

A line counts once it ends. What a kill leaves behind, half a line at the end, is cut off when the
run goes on, and that sentence is answered again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import RefDiffError
from ..io.pictures import MASK_SUFFIXES, read_mask
from ..masks.rle import Rle, checked, encode, text_of
from .datasets.items import Item, wanted

FILE = "predictions.jsonl"


@dataclass(frozen=True, eq=False)
class Prediction:
    """The mask of one sentence, and what it took. note: why it is empty, when there is a reason."""

    id: str
    mask: Rle
    text: str = ""
    kinds: tuple[str, ...] | None = None
    presence: float | None = None
    seconds: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a line, without what is not known."""
        plain: dict[str, Any] = {"id": self.id, "text": self.text}
        plain |= {} if self.kinds is None else {"kinds": list(self.kinds)}
        plain |= {"size": list(self.mask["size"]), "counts": text_of(self.mask)}
        for name in ("presence", "seconds"):
            if (value := getattr(self, name)) is not None:
                plain[name] = round(value, 4)
        return plain | ({"note": self.note} if self.note else {})


class Log:
    """The predictions of one split in a folder, to be added to; closes itself as a context.

    Raises ValueError when the file holds a line that is none of ours, RefDiffError when another
    run is writing it or it cannot be written.
    """

    def __init__(self, folder: Path, dataset: str, split: str) -> None:
        self._name = {"dataset": dataset, "split": split}
        self._path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(self._path, "ab+")
        except OSError as error:
            raise _unwritable(self._path, error) from error
        try:
            _lock(self._file, self._path)
            self._cut_torn_line()
            self.done = {id for id, _ in _lines(self._path, dataset, split)}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, prediction: Prediction) -> None:
        """Write one line, which the system has before this returns."""
        line = json.dumps(self._name | prediction.to_dict(), ensure_ascii=False) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self.done.add(prediction.id)

    def _cut_torn_line(self) -> None:
        """Take off what follows the last end of a line."""
        end = self._file.seek(0, os.SEEK_END)
        at = end
        while at > 0:
            start = max(0, at - (1 << 16))
            self._file.seek(start)
            found = self._file.read(at - start).rfind(b"\n")
            if found >= 0:
                at = start + found + 1
                break
            at = start
        if at < end:
            self._file.truncate(at)
        self._file.seek(0, os.SEEK_END)


def read_predictions(
    folder: Path, dataset: str, split: str, only: Collection[str] | None = None
) -> Iterator[Prediction]:
    """The predictions of one split in a folder's predictions.jsonl, a line at a time.

    only: those of these sentences.
    Raises ValueError naming file and line for a line that is not one; a last line without its
    end is passed over.
    """
    for id, plain in _lines(folder / FILE, dataset, split):
        if only is None or id in only:
            yield _prediction(id, plain, folder / FILE)


def splits_in(folder: Path) -> list[tuple[str, str]]:
    """The (data set, split) pairs that a folder's predictions.jsonl speaks of."""
    found = {(str(one["dataset"]), str(one["split"])) for one in _records(folder / FILE)}
    return sorted(found)


class MaskFolder(Mapping[str, Prediction]):
    """Somebody's masks, a picture for each sentence, named by its id: 143.png."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        self._files = {file.stem: file for file in files if file.suffix.lower() in MASK_SUFFIXES}
        if not self._files:
            raise ValueError(
                f"'{folder}' holds neither {FILE} nor mask pictures named by their sentences' ids "
                "(143.png); name the folder that does."
            )

    def __getitem__(self, id: str) -> Prediction:
        return Prediction(id, encode(np.asarray(read_mask(self._files[mask_name(id)]))))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def of(
        self, items: tuple[Item, ...], only: Collection[str] | None = None
    ) -> Iterator[Prediction]:
        """The prediction of each item that has a file, or of `only` these ids."""
        for item in items:
            if mask_name(item.id) in self._files and (only is None or item.id in only):
                yield self[item.id]


def mask_name(id: str) -> str:
    """What a sentence's mask file is called, without its ending."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in id)


def _lines(path: Path, dataset: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for plain in _records(path):
        if (plain["dataset"], plain["split"]) == (dataset, split):
            yield str(wanted(plain, "id", (str, int), f"a line of '{path}'")), plain


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield _record(line, f"line {number} of '{path}'")
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}); check the path.") from error


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{where[0].upper()}{where[1:]} is not JSON; take that line out, and its sentence is "
            "answered again."
        ) from error
    wanted(plain, "dataset", str, where)
    wanted(plain, "split", str, where)
    return plain


def _prediction(id: str, plain: dict[str, Any], path: Path) -> Prediction:
    where = f"sentence {id} in '{path}'"
    size = wanted(plain, "size", list, where)
    if len(size) != 2 or not all(type(side) is int and 0 < side <= 65535 for side in size):
        raise ValueError(f'"size" of {where} is {size}, wanted [height, width] in pixels.')
    kinds = plain.get("kinds")
    seconds, presence = plain.get("seconds"), plain.get("presence")
    return Prediction(
        id=id,
        mask=checked(plain.get("counts"), (size[0], size[1]), where),
        text=str(plain.get("text", "")),
        kinds=tuple(str(kind) for kind in kinds) if isinstance(kinds, list) else None,
        presence=presence if isinstance(presence, int | float) else None,
        seconds=seconds if isinstance(seconds, int | float) else None,
        note=str(plain.get("note", "")),
    )


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other runs out of the file while it is open, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs into one folder are the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RefDiffError(
            f"Another run is writing '{path}'; wait for it, or write elsewhere with --out."
        ) from error
    except OSError:  # a file system without locks
        return


def _unwritable(path: Path, error: OSError) -> RefDiffError:
    return RefDiffError(
        f"'{path}' cannot be written ({error.strerror}); free some space or choose another --out."
    )
