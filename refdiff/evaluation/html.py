"""The figures and some of the pictures as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from ..io.overlay import draw_overlay
from ..masks.rle import Rle, decode, empty
from .datasets.items import DataSplit, Item
from .predictions import Prediction
from .referring_metrics import NAMES, Score
from .summary import made_by, percent

SHOWN = 4  # pictures of the best, of the median and of the worst
_WIDTH = 320  # pixels

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8885 }
th:first-child, td:first-child { text-align: left }
tr.all td { font-weight: 600 }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem }
figure { margin: 0 } figure div { display: flex; gap: 2px }
figure img { width: 50%; object-fit: contain } figcaption { font-size: .9rem }
"""


def to_html(
    summary: Mapping[str, Any],
    split: DataSplit,
    scores: Sequence[Score],
    predictions: Callable[[set[str]], Iterable[Prediction]],
) -> str:
    """The page. predictions: gives those of the ids that are shown; pictures that are not there
    are not shown."""
    groups = extremes(scores)
    shown = {one.id for group in groups.values() for one in group}
    masks = {one.id: one.mask for one in predictions(shown)}
    items = {item.id: item for item in split.items if item.id in shown}
    title = f"{summary['dataset']}, {summary['split']}"
    parts = [f"<h1>{escape(title)}</h1>", _table(summary)]
    parts += [f"<p>Note: {escape(note)}.</p>" for note in summary["warnings"]]
    for name, group in groups.items():
        cases = [_case(items[one.id], one, masks.get(one.id), split) for one in group]
        parts.append(f"<h2>{name}</h2><div class='cases'>{''.join(cases)}</div>")
    lines = "".join(f"<li>{escape(line.removeprefix('- '))}</li>" for line in made_by(summary))
    parts.append(f"<h2>Made by</h2><ul>{lines}</ul>")
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def extremes(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """The best, the median and the worst of the sentences that mean something, by IoU."""
    ranked = sorted(
        (one for one in scores if one.targets and one.truth), key=lambda one: (-one.iou, one.id)
    )
    few = min(SHOWN, len(ranked))
    middle = max(0, (len(ranked) - few) // 2)
    return {
        "The best": ranked[:few],
        "The median": ranked[middle : middle + few],
        "The worst": ranked[len(ranked) - few :],
    }


def _table(summary: Mapping[str, Any]) -> str:
    rows = {"all": summary["figures"], **summary["kinds"]}
    keys = [key for key in NAMES if any(row.get(key) is not None for row in rows.values())]
    heads = "".join(f"<th>{escape(head)}</th>" for head in ["", "n", *(NAMES[key] for key in keys)])
    lines = []
    for name, row in rows.items():
        cells = [escape(name), str(row["n"]), *(percent(row.get(key)) for key in keys)]
        marked = " class='all'" if name == "all" else ""
        lines.append(f"<tr{marked}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _case(item: Item, one: Score, mask: Rle | None, split: DataSplit) -> str:
    said = f"{item.text} — IoU {one.iou:.2f}"
    try:
        picture = split.pictures.read(item.image) if split.pictures.has(item.image) else None
    except ValueError:
        picture = None
    pictures = "" if picture is None else _pair(picture, item, mask or empty(item.size))
    return f"<figure><div>{pictures}</div><figcaption>{escape(said)}</figcaption></figure>"


def _pair(picture: Image.Image, item: Item, mask: Rle) -> str:
    """What is meant and what was found, side by side."""
    if (picture.height, picture.width) != item.size:
        return ""
    scale = min(1.0, _WIDTH / picture.width)
    small = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    made = []
    for name, rle in (("meant", item.truth), ("found", mask)):
        drawn = draw_overlay(picture, None, decode(rle)).resize(small, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        drawn.save(file, "JPEG", quality=80)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        alt = escape(f"{name}: {item.text}", quote=True)
        made.append(f"<img alt='{alt}' title='{name}' src='data:image/jpeg;base64,{data}'>")
    return "".join(made)
