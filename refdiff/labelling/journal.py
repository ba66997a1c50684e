"""The journal of a labelling: one line of JSON per picture, added when it is done.

What the journal holds is done, what it doesn't is not: a run that was killed goes on from it. A
line that was cut short by a kill counts as not written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import RefDiffError
from .records import Record

FILE = "labels.jsonl"
LOCK = "labels.lock"
VERSION = 1
WROTE = "wrote"  # of a line with the digests of files


class Journal:
    """Reads and adds to the journal in a folder; as a context it keeps other runs out.

    made: the digests of what was written of all pictures, known when it was read.
    how: what the labels depend on besides picture and text (models, settings), as plain data; a
    journal that was kept another way is refused.
    """

    def __init__(self, folder: Path, how: dict[str, Any]) -> None:
        self.path = folder / FILE
        self._how = how
        self._lock = folder / LOCK
        self.made: set[str] = set()
        self._held: Any = None
        self._file: Any = None

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _check_file(self.path)
        self._held = _locked(self._lock)
        self._whole()
        fresh = not self.path.exists() or self.path.stat().st_size == 0
        self._file = open(self.path, "a", encoding="utf-8")
        if fresh:
            self._write({"version": VERSION, "how": self._how})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._held.close()
        with suppress(OSError):
            self._lock.unlink()

    def add(self, record: Record) -> None:
        """Add a picture; when this returns, the line is on the disk."""
        self._write(record.to_dict())

    def wrote(self, digests: list[str]) -> None:
        """Add the SHA-256 of files that are about to be written of all pictures."""
        if not self.made.issuperset(digests):
            self._write({WROTE: digests})

    def read(self) -> dict[str, Record]:
        """What is known of each picture by its name, the latest line counting.

        Raises ValueError for a file that is no journal, or one that was kept another way.
        """
        self.made.clear()
        return {record.name: record for record in self._records()}

    def _records(self) -> Iterator[Record]:
        for number, plain in enumerate(_lines(self.path), 1):
            if number == 1:
                self._check(plain)
                continue
            try:
                if WROTE in plain:
                    self.made.update(map(str, plain[WROTE]))
                    continue
                yield Record.from_dict(plain)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"Line {number} of '{self.path}' is no label ({error}); label into another "
                    "folder."
                ) from error

    def _check(self, head: Any) -> None:
        if not isinstance(head, dict) or head.get("version") != VERSION:
            raise ValueError(f"'{self.path}' is no journal of refdiff; label into another folder.")
        was, now = head.get("how", {}), self._how
        other = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        if other:
            name = sorted(other)[0]
            raise ValueError(
                f"The labels in '{self.path.parent}' were made with {name} {was.get(name)!r}, not "
                f"{now.get(name)!r}; say so again, or label into another folder."
            )

    def _whole(self) -> None:
        """Drop what a kill has left of a last line."""
        if not self.path.is_file():
            return
        with open(self.path, "rb+") as file:
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)

    def _write(self, plain: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(plain, ensure_ascii=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RefDiffError(
                f"'{self.path}' cannot be written ({error.strerror}); free some space and start "
                "again: what is labelled is kept."
            ) from error


def _check_file(path: Path) -> None:
    """ValueError for a pipe and the like, whose opening might never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"'{path}' is no file; label into another folder.")


def _lines(path: Path) -> Iterator[Any]:
    _check_file(path)
    with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"Line {number} of '{path}' is not JSON ({error}); label into another folder."
                ) from error


def _locked(path: Path) -> Any:
    """An open file that no other process can lock while it is open; a kill lets it go."""
    file = open(path, "a+b")
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RefDiffError(
            f"Another run is labelling into '{path.parent}'; wait for it, or label elsewhere."
        ) from error
    return file
