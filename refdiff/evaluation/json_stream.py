"""Large JSON files an element at a time, so that a file of 500 MB costs a few.

The file is one list, or one object whose interesting values are lists of its first level, which
is how COCO and PhraseCut keep their annotations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_PIECE = 1 << 20  # characters read at once
_LONGEST = 1 << 26  # characters of one element, at most
_SPACE = re.compile(r"[\s,]*")


def elements(path: Path, *lists: str) -> Iterator[tuple[str, Any]]:
    """Each element of the named lists of a file's object, as (list's name, element).

    Without names, the file is one list, whose name is "". Other values are passed over. Raises
    ValueError, one sentence naming the file, when it is not such a file or cut short.
    """
    try:
        with open(path, encoding="utf-8") as file:
            yield from _Reader(file, path).elements(lists)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{path}' is not JSON in UTF-8; take it from its source again."
        ) from error
    except RecursionError as error:
        raise ValueError(f"'{path}' is nested too deeply for a data set; take another.") from error


class _Reader:
    """A window on the file's text, moved forward as values are taken."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._over = "", 0, False
        self._decode = json.JSONDecoder().raw_decode

    def elements(self, lists: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if not lists:
            self._expect("[")
            yield from (("", one) for one in self._list())
            return
        self._expect("{")
        while self._next() != "}":
            name = self._value()
            self._expect(":")
            if self._next() != "[":
                self._value()
                continue
            self._expect("[")
            for one in self._list():
                if name in lists:
                    yield name, one

    def _list(self) -> Iterator[Any]:
        while self._next() != "]":
            yield self._value()
        self._at += 1

    def _value(self) -> Any:
        """The value that begins here; more is read until it is whole."""
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._over or len(self._text) - self._at > _LONGEST:
                    raise self._wrong(error.msg) from error
                self._fill()
                continue
            if end == len(self._text) and not self._over:  # a number may go on
                self._fill()
                continue
            self._at = end
            return value

    def _next(self) -> str:
        """The next character that is neither space nor comma."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if self._over:
                raise self._wrong("it ends in the middle")
            self._fill()

    def _expect(self, letter: str) -> None:
        if self._next() != letter:
            raise self._wrong(f"wanted {letter!r}, found {self._text[self._at]!r}")
        self._at += 1

    def _fill(self) -> None:
        piece = self._file.read(max(_PIECE, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + piece, 0
        self._over = not piece

    def _wrong(self, reason: str) -> ValueError:
        return ValueError(
            f"'{self._path}' is not the whole JSON of a data set ({reason}); take the file from "
            "its source again."
        )
