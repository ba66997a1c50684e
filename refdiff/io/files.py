"""Files and folders that appear whole or not at all, and what may be replaced by them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RefDiffError

PathLike = str | os.PathLike[str]
Content = bytes | Callable[[BinaryIO], object]

REPORT = "report.json"
DIGESTS = "sha256"
STALE = 86_400  # seconds after which a temporary of another machine is taken for left behind
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
_TRIES = 100  # of taking a folder's place from another process that does the same
PAUSE = 0.01  # seconds, times the attempt, before another process's place is taken


def write_safely(path: PathLike, content: Content) -> None:
    """Write a file whole or leave what was there; folders are made.

    content: bytes, or a function that writes into an open binary file. It is written beside its
    place under a temporary name and then renamed. Raises RefDiffError, one sentence naming the
    file, when the disk is full or writing is not allowed.
    """
    path = Path(path)
    fresh = path.parent / _temporary()
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new(fresh, content)
            os.replace(fresh, path)
    finally:
        with suppress(OSError):
            fresh.unlink()


def write_folder(folder: Path, files: Mapping[str, Content], gone: Iterable[str] = ()) -> None:
    """Write a folder with these files whole, or leave what was there.

    It is written beside its place and then takes it by one rename, so that no other process
    sees some of its files without the others. Of an earlier folder other files are kept, but
    those called `gone`. What a process that was killed has left in the same place is tidied up.
    Raises as `write_safely`.
    """
    fresh = folder.parent / _temporary()
    try:
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _tidy(folder.parent)
            fresh.mkdir()
            for name, content in files.items():
                with _writing(folder / name):
                    _write_new(fresh / name, content)
            _take_place(fresh, folder, gone)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _take_place(fresh: Path, folder: Path, gone: Iterable[str]) -> None:
    """Rename `fresh` to `folder`; what stood there goes aside first, and back if that fails."""
    for attempt in range(_TRIES):
        aside = folder.parent / f"{_temporary()}.{folder.name}"
        with suppress(FileNotFoundError):
            os.rename(folder, aside)
        try:
            os.rename(fresh, folder)
            for name in gone:
                with suppress(OSError):
                    (aside / name).unlink()
            return
        except OSError as error:
            if attempt + 1 == _TRIES or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # another process was faster; take its place in turn
            time.sleep(random.uniform(0, PAUSE * (attempt + 1)))
        finally:
            _put_back(aside, folder)


def _put_back(aside: Path, folder: Path) -> None:
    """What went aside goes back where nothing took its place; else only its other files do.

    Tried anew while other processes move the folder, so that none of its files is lost.
    """
    for attempt in range(_TRIES):
        with suppress(OSError):
            if not os.path.lexists(folder):
                os.rename(aside, folder)
        with suppress(OSError):
            if not os.path.lexists(aside):
                return
            if not aside.is_dir() or aside.is_symlink():
                aside.unlink()
                return
            for path in aside.iterdir():
                _give(path, folder / path.name)
            aside.rmdir()
            return
        time.sleep(random.uniform(0, PAUSE * (attempt + 1)))


def _give(path: Path, place: Path) -> None:
    """Move a file or folder to a place that is free; where it is taken, also meanwhile, it goes.

    Raises OSError, and keeps it, when the place is of a folder that went away.
    """
    if path.is_dir() and not path.is_symlink():
        if not os.path.lexists(place):
            os.rename(path, place)  # refuses a folder that holds something
        else:
            shutil.rmtree(path)
        return
    try:
        os.link(path, place, follow_symlinks=False)  # which, unlike renaming, never replaces
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not os.path.lexists(place):
            os.rename(path, place)
            return
    path.unlink()


def _temporary() -> str:
    """A new name that tells which process of which machine made it."""
    return f".refdiff-{_host()}-{os.getpid()}-{secrets.token_hex(6)}.tmp"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _tidy(folder: Path) -> None:
    """Remove what processes that no longer run have left here under temporary names."""
    for path in folder.glob(".refdiff-*-*-*.tmp*"):
        name, _, replaced = path.name.partition(".tmp.")
        _, host, process, _ = name.split("-", 3)
        with suppress(OSError):
            if _runs(host, process) and time.time() - path.lstat().st_mtime < STALE:
                continue
            if replaced:
                _put_back(path, folder / replaced)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _runs(host: str, process: str) -> bool:
    """Whether the process may still run; one of another machine, or on Windows, may always."""
    if host != _host() or os.name == "nt" or not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


# ---- what refdiff wrote itself ---------------------------------------------------------------


def signed(report: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """A report as JSON, with the SHA-256 of itself and of the files it goes with.

    Letters of file names that are no text come as the JSON escapes of their bytes.
    """
    digests = {name: _digest(data) for name, data in files.items()}
    digests[REPORT] = _digest(_plain(report))
    return _plain({**report, DIGESTS: digests})


def not_ours(folder: Path, names: Iterable[str]) -> list[str]:
    """Which of these files in a folder were not written by refdiff, or were changed since."""
    there = [name for name in names if os.path.lexists(folder / name)]
    try:
        report = json.loads((folder / REPORT).read_bytes()) if there else {}
        digests = dict(report.pop(DIGESTS))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return there
    return [name for name in there if digests.get(name) != _held(folder / name, report)]


def _held(path: Path, report: Mapping[str, Any]) -> str | None:
    if path.is_symlink() or not path.is_file():
        return None
    return _digest(_plain(report) if path.name == REPORT else path.read_bytes())


def _plain(report: Mapping[str, Any]) -> bytes:
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = f"'{path}' cannot be written ({error.strerror or error})"
        raise RefDiffError(f"{said}; free some space or choose another place.") from error


def _write_new(path: Path, content: Content) -> None:
    with open(path, "xb") as file:
        content(file) if callable(content) else file.write(content)
