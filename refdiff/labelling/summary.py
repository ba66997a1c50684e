"""To look at afterwards: report.csv with the least certain labels first, and a contact sheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..io.overlay import draw_overlay, tile
from ..io.pictures import read_picture
from .records import Label, Record, area_and_box, union

REPORT = "report.csv"
SHEET = "sheet.jpg"
SHOWN = 48  # labels on the contact sheet
SIDE = 512  # long side at which they are drawn
HEADS = ("image", "text", "found", "certainty", "presence", "objects", "area", "error")


def report(records: Iterable[Record]) -> bytes:
    """A line per picture and text, errors and the least certain first; area in pixels."""
    rows: list[tuple[float, list[object]]] = []
    for record in records:
        if record.error is not None:
            texts = "; ".join(record.texts)
            rows.append((-1.0, [record.name, texts, "no", 0.0, 0.0, 0, 0, record.error]))
        for label in record.labels:
            rows.append((label.certainty, _row(record, label)))
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(HEADS)
    writer.writerows(row for _, row in sorted(rows, key=lambda each: each[0]))
    return table.getvalue().encode("utf-8-sig")  # the mark by which spreadsheets know UTF-8


def _row(record: Record, label: Label) -> list[object]:
    size = record.size or (0, 0)
    area = sum(area_and_box(counts, size)[0] for counts in label.instances)
    found = "yes" if label.instances else "no"
    sure = (label.certainty, label.presence)
    return [record.name, label.text, found, *sure, len(label.instances), area, ""]


def sheet(records: Iterable[Record], folder: Path, shown: int = SHOWN) -> bytes | None:
    """The least certain labels drawn over their pictures, as JPEG; None when there are none."""
    pairs = [(record, label) for record in records for label in record.labels]
    least = sorted(pairs, key=lambda pair: pair[1].certainty)[:shown]
    cells = [
        (drawn, f"{record.name}: {label.text} ({label.certainty:.2f})")
        for record, label in least
        if (drawn := _drawn(record, label, folder)) is not None
    ]
    if not cells:
        return None
    pictures, labels = zip(*cells, strict=True)
    data = io.BytesIO()
    _tiled(pictures, labels).save(data, "JPEG", quality=88)
    return data.getvalue()


def _tiled(pictures: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    return tile(pictures, labels, width=256)


def _drawn(record: Record, label: Label, folder: Path) -> Image.Image | None:
    try:
        picture = read_picture(folder / record.name)
    except ValueError:  # it was moved since
        return None
    mask = Image.fromarray(union(label.instances, (picture.height, picture.width)))
    picture.thumbnail((SIDE, SIDE))
    small = np.asarray(mask.resize(picture.size, Image.Resampling.NEAREST))
    return draw_overlay(picture, None, small, label.text)
