"""A data set's pictures, wherever they lie: in folders of any of the known layouts, or in zips."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image

from ...io.pictures import MAX_MEGAPIXELS, as_picture, picture_size, read_picture
from ...masks.rle import Size

LAYOUTS = tuple(
    """
    . images train2014 val2014 trainval2014 images/train2014 images/val2014 images/trainval2014
    images/mscoco/images/train2014 mscoco/images/train2014 mscoco/train2014
    coco/train2014 coco/val2014 coco/images/train2014 coco/images/val2014
    images/saiapr_tc-12 saiapr_tc-12 VG_100K VG_100K_2 images/VG_100K images/VG_100K_2
    """.split()
)
"""Folders in which releases and other tools keep the pictures, in the order they are tried."""

_LARGEST = 256 << 20  # bytes of one picture in a zip
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class Pictures:
    """Pictures found by their file name under some roots, each a folder or a zip.

    Names are looked for in the folders of `LAYOUTS`, then in the zips, then everywhere below the
    roots. Folders in a name are ignored, so that no name reaches outside. beside: more folders,
    of which the layouts alone are tried.
    """

    def __init__(self, roots: Sequence[Path], beside: Sequence[Path] = ()) -> None:
        for root in roots:
            if not root.exists():
                raise ValueError(f"There is no '{root}' to look for pictures in; check --images.")
            if root.is_file() and not zipfile.is_zipfile(root):
                raise ValueError(
                    f"'{root}' is neither a folder nor a whole zip; give one with the pictures."
                )
        self.roots = tuple(roots)
        self._folders = [
            folder
            for root in (*roots, *beside)
            if root.is_dir()
            for layout in LAYOUTS
            if (folder := root / layout).is_dir()
        ]
        self._found: dict[str, Path | None] = {}

    def has(self, name: str) -> bool:
        """Whether a picture of that file name is there."""
        name = _plain(name)
        return self._path(name) is not None or name in self._zipped

    def size(self, name: str) -> Size:
        """(height, width), without decoding it; ValueError when it is no picture."""
        path = self._path(_plain(name))
        return picture_size(path) if path else upright_size(self._bytes(name), name)

    def read(self, name: str) -> Image.Image:
        """The picture as RGB; ValueError when it is not there or not whole."""
        path = self._path(_plain(name))
        return read_picture(path) if path else decoded(self._bytes(name), name)

    def _path(self, name: str) -> Path | None:
        if name not in self._found:
            places = (folder / name for folder in self._folders)
            self._found[name] = next((path for path in places if path.is_file()), None)
            if self._found[name] is None and name not in self._zipped:
                self._found[name] = self._anywhere.get(name)
        return self._found[name]

    @cached_property
    def _zipped(self) -> dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
        """Every file in the zips given, or lying in the folders given, by its own name."""
        zips = [root for root in self.roots if root.is_file()]
        zips += [
            file for root in self.roots if root.is_dir() for file in sorted(root.glob("*.zip"))
        ]
        found: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        for path in zips:
            if not zipfile.is_zipfile(path):
                continue
            archive = zipfile.ZipFile(path)
            for entry in archive.infolist():
                found.setdefault(_plain(entry.filename), (archive, entry))
        return found

    @cached_property
    def _anywhere(self) -> dict[str, Path]:
        """Every file below the folders given; links are followed, each folder once."""
        return {
            path.name: path
            for root in reversed(self.roots)
            if root.is_dir()
            for path in _walk(root)
        }

    def _bytes(self, name: str) -> bytes:
        if _plain(name) not in self._zipped:
            raise ValueError(f"The picture '{name}' is not there; name its folder with --images.")
        archive, entry = self._zipped[_plain(name)]
        if entry.file_size > _LARGEST:
            raise ValueError(f"'{name}' unpacks to more than {_LARGEST >> 20} MiB; check the zip.")
        try:
            return archive.read(entry)
        except Exception as error:
            raise ValueError(
                f"'{name}' cannot be unpacked ({error}); fetch the zip again."
            ) from error


def decoded(data: bytes, name: str) -> Image.Image:
    """The picture in some bytes, as RGB; ValueError naming it when it is not whole."""
    upright_size(data, name)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            picture.load()
            return as_picture(picture)
    except Exception as error:
        raise _unreadable(name, error) from error


def upright_size(data: bytes, name: str) -> Size:
    """(height, width) of the upright picture in some bytes; ValueError when it is none."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception as error:
        raise _unreadable(name, error) from error
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise ValueError(f"'{name}' has more than {MAX_MEGAPIXELS} megapixels; scale it down.")
    return (width, height) if turned else (height, width)


def _unreadable(name: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ValueError(f"The picture '{name}' cannot be read ({reason:.80}); fetch it again.")


def _plain(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _walk(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        yield from (Path(folder, name) for name in names)
