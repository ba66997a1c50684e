"""What the commands say: safe for a terminal, in any encoding, and whatever becomes of the pipe."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any

import typer


@contextmanager
def printing() -> Iterator[None]:
    """Printing whose failure is only noted, because the work is done already."""
    try:
        yield
        flush()
    except OSError as error:
        hush()
        if not isinstance(error, BrokenPipeError):
            note(f"standard output cannot be written to ({error.strerror}), the files are")


def say_anything() -> None:
    """What the console's encoding cannot say comes as escapes; it is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def hush_if_full() -> None:
    """Without this Python would try again to write, and complain, when it ends."""
    try:
        flush()
    except (OSError, ValueError):
        hush()


def flush() -> None:
    if sys.stdout is not None:  # which it is where it was closed from the start
        sys.stdout.flush()


def hush() -> None:
    """Standard output leads nowhere from here on."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def note(text: str) -> None:
    """A line on standard error that is no error."""
    with suppress(OSError):
        typer.echo(f"note: {plain(text)}", err=True)


def plain(text: object) -> str:
    """Text as a terminal may have it: what would steer the terminal is spelled out.

    Control characters, and those that turn the direction of writing.
    """
    return "".join(repr(each)[1:-1] if _steers(each) else each for each in str(text))


def say(text: str) -> None:
    """Lines to standard output, safe for a terminal."""
    typer.echo("\n".join(map(plain, text.split("\n"))))


def _steers(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _DIRECTIONS


_DIRECTIONS = {chr(code) for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F))} | {
    chr(code) for code in range(0x2066, 0x206A)
}


def print_json(data: Any, indent: int | None = None) -> None:
    """One JSON value to standard output, as ASCII where that is what can be said."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
        unsafe = plain(text.replace("\n", "")) != text.replace("\n", "")
    except UnicodeEncodeError:
        unsafe = True
    typer.echo(json.dumps(data, indent=indent) if unsafe else text)


def table(heads: list[str], rows: list[list[Any]], numbers: bool = False) -> Any:
    """A plain rich table; numbers: what follows the first column stands to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, head in enumerate(heads):
        right = numbers and index > 0
        made.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in rows:
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        made.add_row(*(Text(plain(cell)) for cell in cells))
    return made
