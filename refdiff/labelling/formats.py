"""What labels are written as: files by their paths, each made from the journal's records.

masks: a picture per text. kohya: one mask per picture under the picture's own name, for
`conditioning_data_dir` (sd-scripts, masked loss). onetrainer: photo-masklabel.png beside the
picture. yolo: a text file of polygons per picture, and data.yaml. coco and parquet: one file.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .pictures import MASK_LABEL, Item
from .polygons import joined, polygons
from .records import Record, area_and_box, decoded, encoded, union

Files = dict[Path, bytes]


@dataclass(frozen=True)
class Place:
    """Where the pictures lie (folder), where the labels go (out), and the texts there are."""

    folder: Path
    out: Path
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """each: the files of one picture. whole: those of all of them. paired: by name less ending."""

    each: Callable[[Record, Place], Files] = lambda record, place: {}
    whole: Callable[[Iterable[Record], Place], Files] = lambda records, place: {}
    paired: bool = False


def check_names(items: Sequence[Item], kind: str) -> None:
    """ValueError when two pictures would share a file: photo.png and photo.jpg in one folder."""
    if not FORMATS[kind].paired:
        return
    stems = Counter(str(PurePosixPath(item.name).with_suffix("")).casefold() for item in items)
    shared = [stem for stem, count in stems.items() if count > 1]
    if shared:
        two = [
            item.name
            for item in items
            if str(PurePosixPath(item.name).with_suffix("")).casefold() == shared[0]
        ]
        raise ValueError(
            f"'{two[0]}' and '{two[1]}' would share a file, as {kind} tells pictures apart by "
            "their names without the ending; rename one."
        )


def _masks(record: Record, place: Place) -> Files:
    picture = PurePosixPath(record.name)
    files: Files = {}
    for number, label in enumerate(record.labels, 1):
        slug = re.sub(r"\W+", "-", label.text.lower()).strip("-")[:60]
        name = f"{picture.name}.{number}-{slug}.png"
        files[place.out / "masks" / picture.parent / name] = _png(
            union(label.instances, _size(record))
        )
    return files


def _kohya(record: Record, place: Place) -> Files:
    name = PurePosixPath(record.name).with_suffix(".png")
    return {place.out / "kohya" / name: _png(_all(record))}


def _onetrainer(record: Record, place: Place) -> Files:
    picture = place.folder / record.name
    return {picture.with_name(f"{picture.stem}{MASK_LABEL}.png"): _png(_all(record))}


def _yolo(record: Record, place: Place) -> Files:
    height, width = _size(record)
    lines = []
    for label in record.labels:
        number = place.classes.index(label.text)
        for counts in label.instances:
            parts = polygons(decoded(counts, (height, width)))
            if parts:
                corners = (joined(parts) / (width, height)).clip(0, 1)
                lines.append(f"{number} " + " ".join(f"{at:.6f}" for at in corners.ravel()))
    name = PurePosixPath(record.name).with_suffix(".txt")
    text = "".join(line + "\n" for line in lines)
    return {place.out / "yolo" / "labels" / name: text.encode()}


def _yolo_data(records: Iterable[Record], place: Place) -> Files:
    names = "".join(f"  {i}: {json.dumps(text)}\n" for i, text in enumerate(place.classes))
    text = (
        "# put the pictures, or a link to their folder, at images beside labels\n"
        f"path: {json.dumps(str((place.out / 'yolo').resolve()), ensure_ascii=False)}\n"
        f"train: images\nval: images\nnames:\n{names}"
    )
    return {place.out / "yolo" / "data.yaml": text.encode()}


def _coco(records: Iterable[Record], place: Place) -> Files:
    categories = {text: number for number, text in enumerate(place.classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        height, width = _size(record)
        images.append({"id": number, "file_name": record.name, "height": height, "width": width})
        for plain in _annotations(record):
            category = categories[plain.pop("text")]
            found = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append(found | plain)
    whole = {
        "info": {"description": "made by refdiff"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": text} for text, i in categories.items()],
    }
    return {place.out / "coco.json": json.dumps(whole, ensure_ascii=False).encode()}


def _annotations(record: Record) -> Iterator[dict[str, Any]]:
    """COCO's annotations, one per object found."""
    for label in record.labels:
        for counts in label.instances:
            area, box = area_and_box(counts, _size(record))
            yield {
                "text": label.text,
                "segmentation": {"size": list(_size(record)), "counts": counts},
                "area": area,
                "bbox": box,
                "iscrowd": 0,
                "score": label.certainty,
            }


def _parquet(records: Iterable[Record], place: Place) -> Files:
    from ..errors import ModelError

    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise ModelError(
            'Parquet needs pyarrow; install it with `pip install "refdiff[ray]"`.'
        ) from error
    schema = arrow.schema(
        {
            "image": arrow.string(),
            "height": arrow.int32(),
            "width": arrow.int32(),
            "text": arrow.string(),
            "found": arrow.bool_(),
            "presence": arrow.float32(),
            "certainty": arrow.float32(),
            "area": arrow.int64(),
            "box": arrow.list_(arrow.float32()),
            "counts": arrow.string(),
            "instances": arrow.list_(arrow.string()),
        }
    )
    sink = io.BytesIO()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        rows = (row for record in records for row in _rows(record))
        while group := [row for row, _ in zip(rows, range(1024), strict=False)]:
            writer.write_table(arrow.Table.from_pylist(group, schema))
    return {place.out / "labels.parquet": sink.getvalue()}


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    """A row per text; counts: of all its objects together, instances: of each."""
    height, width = _size(record)
    for label in record.labels:
        counts = encoded(union(label.instances, (height, width)))
        area, box = area_and_box(counts, (height, width))
        yield {
            "image": record.name,
            "height": height,
            "width": width,
            "text": label.text,
            "found": bool(label.instances),
            "presence": label.presence,
            "certainty": label.certainty,
            "area": area,
            "box": box,
            "counts": counts,
            "instances": list(label.instances),
        }


def _all(record: Record) -> NDArray[np.bool_]:
    """Everything that any of the texts means."""
    counts = [one for label in record.labels for one in label.instances]
    return union(counts, _size(record))


def _size(record: Record) -> tuple[int, int]:
    assert record.size is not None, "a record without an error has a size"
    return record.size


def _png(mask: NDArray[np.bool_]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(data, "PNG")
    return data.getvalue()


FORMATS: dict[str, Format] = {
    "coco": Format(whole=_coco),
    "masks": Format(each=_masks),
    "yolo": Format(each=_yolo, whole=_yolo_data, paired=True),
    "kohya": Format(each=_kohya, paired=True),
    "onetrainer": Format(each=_onetrainer, paired=True),
    "parquet": Format(whole=_parquet),
}
