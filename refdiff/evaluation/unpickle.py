"""Pickles of plain data, read without running anything that is in them.

A pickle is a program. The old releases of referring data sets are pickles of lists, dicts, strings
and numbers (protocol 2, written by Python 2), and a program that makes these needs no more than
the opcodes below. The opcodes are looked at before the first of them runs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

PLAIN = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT DICT SETITEM SETITEMS "
    "PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE".split()
)
"""The opcodes that make plain containers, strings and numbers, and nothing else."""

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_MOST = 1 << 31  # bytes of a file that is read whole


class _Plain(pickle.Unpickler):
    """Refuses every name; the opcodes that look names up were refused already."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside itself")


def load_plain(path: Path) -> Any:
    """The data of a pickle that holds plain containers, strings and numbers.

    Strings of Python 2 are read as Latin-1. Raises ValueError, one sentence naming the file, for
    a pickle that holds anything else, is cut short, or is none; nothing of it has run then.
    """
    if path.stat().st_size > _MOST:
        raise ValueError(
            f"'{path}' is larger than {_MOST >> 30} GiB, too large for a list of refs."
        )
    data = path.read_bytes()
    _check(data, path)
    try:
        return _Plain(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:
        raise ValueError(_broken(path, error)) from error


def _check(data: bytes, path: Path) -> None:
    """That every opcode is a plain one, and no memo number larger than the count of opcodes."""
    count = highest = 0
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in PLAIN:
                named = f" ({argument})" if isinstance(argument, str) else ""
                raise ValueError(
                    f"'{path}' is a pickle that holds more than plain data: its opcode "
                    f"{opcode.name}{named:.60} could run code, so nothing of it was read; take "
                    "the file from its source again."
                )
            count += 1
            if opcode.name in _PUTS:
                highest = max(highest, int(argument or 0))
    except ValueError as error:
        if str(error).startswith(f"'{path}'"):
            raise
        raise ValueError(_broken(path, error)) from error
    except Exception as error:
        raise ValueError(_broken(path, error)) from error
    if highest > count:
        raise ValueError(f"'{path}' is a pickle with a memo number of {highest}, which is absurd.")


def _broken(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"'{path}' is no whole pickle ({reason:.80}); take the file from its source again."
