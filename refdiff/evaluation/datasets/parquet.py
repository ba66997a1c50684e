"""The two parquet mirrors that people have of RefCOCO, RefCOCO+ and RefCOCOg.

jxu124's hold every polygon and no pictures; lmms-lab's hold the pictures and one polygon for each
ref, so that objects in several parts lose some of them. Read with pyarrow, an optional extra.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from ...masks.rle import Size, from_segmentation
from .items import DataSplit, Ids, Item, Picked, Selection, by_picture, size_of, wanted
from .pictures import Pictures, decoded, upright_size
from .refer import matches, text_of

JXU124 = "hf-jxu124"
LMMS = "hf-lmms"
LOSSY = (
    "this mirror keeps one polygon for each object, so objects in several parts have incomplete "
    "masks; do not compare its figures with those of the original release"
)
_MARKS = {JXU124: {"raw_anns", "sentences", "image_id"}, LMMS: {"answer", "segmentation", "image"}}
_BATCH = 64  # rows in memory at once
_TEXT = ("image_id", "sentences", "split", "raw_anns", "raw_image_info", "image_path", "file_name")


def releases(place: Path) -> dict[str, Path]:
    """The mirror in a parquet file, or in a folder's parquet files or its `data` folder's."""
    for folder in (place, place / "data"):
        files = parquet_files(folder)
        if not files:
            continue
        columns = set(_opened(files[0]).schema_arrow.names)
        for name, marks in _MARKS.items():
            if marks <= columns:
                return {name: folder}
    return {}


def parquet_files(place: Path) -> list[Path]:
    """The parquet files at a place, by name."""
    return [place] if place.suffix == ".parquet" else sorted(place.glob("*.parquet"))


def read_jxu124(place: Path, split: str, selection: Selection, pictures: Pictures) -> DataSplit:
    """One split of jxu124's mirror; its rows say themselves which they belong to."""
    picked = Picked(_said(place, split), selection)
    items = by_picture(_with_polygons(picked))
    if not items:
        raise ValueError(
            f"No row of the parquet files in '{place}' is of the split {split!r}; choose another "
            "with --split (train, val, testA, testB, or val and test for RefCOCOg)."
        )
    return DataSplit(JXU124, split, items, picked.total, pictures, selection)


def _said(place: Path, split: str) -> Iterator[tuple[str, Any, Any]]:
    """(id, sentence, row) of every sentence of a split."""
    ids = Ids()
    for file in parquet_files(place):
        for number, row in _rows(file, _TEXT):
            where = f"row {number} of '{file}'"
            if not matches(wanted(row, "split", str, where), split):
                continue
            for said in wanted(row, "sentences", list, where):
                name = ids(wanted(said, "sent_id", (int, str), f"a sentence of {where}"))
                yield name, said, row | {"where": where}


def _with_polygons(said: Picked[tuple[str, Any, Any]]) -> Iterator[Item]:
    for name, sentence, row in said:
        where = row["where"]
        info = _json(wanted(row, "raw_image_info", str, where), where)
        annotation = _json(wanted(row, "raw_anns", str, where), where)
        size = size_of(info, f"the picture of {where}")
        shape = wanted(annotation, "segmentation", (list, dict), f"the annotation of {where}")
        yield Item(
            id=name,
            text=text_of(sentence, where),
            image=wanted(info, "file_name", str, f"the picture of {where}"),
            size=size,
            truth=from_segmentation(shape, size, where),
        )


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where[0].upper()}{where[1:]} holds text that is not JSON.") from error


def read_lmms(place: Path, split: str, selection: Selection) -> DataSplit:
    """One split of lmms-lab's mirror: the files whose names begin with it."""
    files = [file for file in parquet_files(place) if file.stem.split("-")[0] == split]
    if not files:
        own = sorted({file.stem.split("-")[0] for file in parquet_files(place)})
        raise ValueError(
            f"'{place}' has no parquet file of the split {split!r}; it has {', '.join(own)}: "
            "choose one with --split."
        )
    lost: list[str] = []
    picked = Picked(_answers(files), selection)
    items = by_picture(_with_pictures(picked, lost))
    if not items:
        raise ValueError(
            f"'{place}' holds no sentence of {split!r} with a polygon; fetch it again."
        )
    notes = (f"{len(lost)} sentences have no polygon and were left out",) if lost else ()
    pictures = PacketPictures(files)
    return DataSplit(LMMS, split, items, picked.total, pictures, selection, LOSSY, notes)


def _answers(files: Sequence[Path]) -> Iterator[tuple[str, str, Any]]:
    """(id, sentence, row) of every sentence; the row has its picture's bytes and name."""
    ids = Ids()
    for index, file in enumerate(files):
        for number, row in _rows(file, ("question_id", "answer", "segmentation", "image")):
            where = f"row {number} of '{file}'"
            question = wanted(row, "question_id", (str, int), where)
            for text in wanted(row, "answer", list, where):
                if not isinstance(text, str):
                    raise ValueError(
                        f'"answer" of {where} should be sentences, found {text!r:.40}.'
                    )
                yield ids(question), text, row | {"where": where, "name": f"{index}:{number}"}


def _with_pictures(said: Picked[tuple[str, str, Any]], lost: list[str]) -> Iterator[Item]:
    for name, text, row in said:
        shape = row["segmentation"]
        polygons = shape if shape and isinstance(shape[0], list) else [shape or []]
        if not any(len(polygon) >= 6 for polygon in polygons):
            lost.append(name)
            continue
        size = upright_size(_bytes_of(row), row["where"])
        truth = from_segmentation(polygons, size, row["where"])
        yield Item(name, " ".join(text.split()), row["name"], size, truth)


def _bytes_of(row: Any) -> bytes:
    data = row["image"].get("bytes") if isinstance(row.get("image"), dict) else None
    if not isinstance(data, bytes):
        raise ValueError('The mirror\'s "image" column holds no pictures; fetch it again.')
    return data


class PacketPictures:
    """Pictures that stand in the rows of parquet files; named by file and row, "0:17"."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)

    def has(self, name: str) -> bool:
        """Whether the picture is there: all are."""
        return True

    def size(self, name: str) -> Size:
        """(height, width) of the picture in a row."""
        return upright_size(self._data(name), name)

    def read(self, name: str) -> Image.Image:
        """The picture in a row, as RGB; ValueError when it is not whole."""
        return decoded(self._data(name), name)

    def _data(self, name: str) -> bytes:
        index, number = (int(part) for part in name.split(":"))
        start = 0
        parquet = _opened(self._files[index])
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            if number < start + count:
                column = _images(self._files[index], group)
                return _bytes_of({"image": column[number - start].as_py()})
            start += count
        raise ValueError(f"There is no row {number} in '{self._files[index]}'; fetch it again.")


@lru_cache(maxsize=1)
def _images(file: Path, group: int) -> Any:
    return _opened(file).read_row_group(group, columns=["image"]).column("image")


@lru_cache(maxsize=8)
def _opened(file: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"'{file}' is read with pyarrow, which is not installed: pip install refdiff[eval]."
        ) from error
    try:
        return parquet.ParquetFile(file)
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"'{file}' is no whole parquet file ({reason:.80}); fetch it again."
        ) from error


def _rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row as a dict of the columns there are, a few in memory at once."""
    opened = _opened(file)
    known = [name for name in columns if name in opened.schema_arrow.names]
    number = 0
    try:
        for batch in opened.iter_batches(batch_size=_BATCH, columns=known):
            for row in batch.to_pylist():
                yield number, row
                number += 1
    except OSError as error:
        raise ValueError(f"'{file}' is no whole parquet file ({error}); fetch it again.") from error
