"""Labels onto the disk as they come: what a picture's record asks for, and the whole at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from ..io.files import write_safely
from . import summary
from .formats import FORMATS, Files, Place
from .pictures import Item
from .records import Label, Record


class Writer:
    """Writes one format. What was there before and is not a label's own is never replaced.

    overwrite: replace other files too; pictures never.
    """

    def __init__(self, kind: str, place: Place, overwrite: bool = False) -> None:
        if kind not in FORMATS:
            raise ValueError(f"The format is {kind!r}, wanted one of {', '.join(FORMATS)}.")
        self._kind = kind
        self._format = FORMATS[kind]
        self.place = place
        self._overwrite = overwrite

    def check(
        self, items: Sequence[Item], done: dict[str, Record], made: Collection[str] = ()
    ) -> None:
        """ValueError when a file would be replaced that is no label of the journal's, as it was.

        done: the journal's records by name. made: the digests of what it wrote of all pictures.
        """
        if self._overwrite:
            return
        found = [path for item in items for path in self._foreign(item, done.get(item.name))]
        out = self.place.out
        whole = [*self._format.whole((), self.place), out / summary.REPORT, out / summary.SHEET]
        found += [path for path in whole if path.exists() and _held(path) not in made]
        if found:
            raise ValueError(
                f"'{found[0]}' is there already and no label of this run, or was changed since; "
                "label into another folder, or pass --overwrite."
            )

    def _foreign(self, item: Item, before: Record | None) -> list[Path]:
        """Files in the way of a picture's labels that its record of before has not made."""
        if before is not None and before.answers(item):
            return []  # which are left as they are
        whole = before is not None and before.error is None
        ours = self._format.each(before, self.place) if before and whole else {}
        nothing = tuple(Label(text, "", 0.0, 0.0, 0.0, ()) for text in item.texts)
        blank = Record(item.name, item.stamp, item.texts, size=(1, 1), labels=nothing)
        there = [path for path in self._format.each(blank, self.place) if path.exists()]
        return [path for path in there if not path.is_file() or path.read_bytes() != ours.get(path)]

    def add(self, record: Record, again: bool = True) -> None:
        """Write one picture's files. again: also those that are there."""
        if record.error is None:
            files = self._format.each(record, self.place)
            self._write({p: c for p, c in files.items() if again or not p.exists()})

    def finish(
        self, records: Iterable[Record], told: Callable[[list[str]], object] | None = None
    ) -> list[Path]:
        """Write what is of all pictures: the format's own files, the report, the sheet.

        told: is given the digests of these files before they are written.
        """
        known = list(records)
        good = [record for record in known if record.error is None]
        out = self.place.out
        files = self._format.whole(good, self.place)
        files[out / summary.REPORT] = summary.report(known)
        drawn = summary.sheet(good, self.place.folder)
        files |= {} if drawn is None else {out / summary.SHEET: drawn}
        if told:
            told([_digest(content) for content in files.values()])
        self._write(files)
        return list(files)

    def _write(self, files: Files) -> None:
        for path, content in files.items():
            write_safely(path, content)


def _held(path: Path) -> str:
    return _digest(path.read_bytes()) if path.is_file() else ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
