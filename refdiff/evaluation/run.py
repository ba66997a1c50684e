"""A model over a data set: one mask for each sentence, kept as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..io.files import write_safely
from ..masks.rle import encode
from .datasets.items import DataSplit, Item, PictureSource
from .predictions import FILE as PREDICTIONS
from .predictions import Log, Prediction, mask_name
from .summary import check_place

RUN = "run.json"
Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class Answer:
    """A mask [H, W] bool of the picture's size. presence: 0..1; note: why it is empty, if told."""

    mask: np.ndarray
    presence: float | None = None
    kinds: tuple[str, ...] | None = None
    note: str = ""


Asker = Callable[[str], Answer]
Model = Callable[[Image.Image, Sequence[Item]], Asker]
"""Called once for each picture with the sentences to come; what it gives is called with each."""


@dataclass
class Lost:
    """Pictures that are not there, or cannot be read, with how many sentences each has."""

    missing: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)

    @property
    def sentences(self) -> int:
        """How many sentences have no picture."""
        return sum(self.missing.values()) + sum(self.unreadable.values())

    def copy(self) -> Lost:
        """Another that can be added to without changing this one."""
        return Lost(dict(self.missing), dict(self.unreadable))

    def names(self) -> list[str]:
        """The pictures, by name."""
        return sorted({*self.missing, *self.unreadable})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a summary."""
        return {
            "sentences": self.sentences,
            "missing": dict(sorted(self.missing.items())),
            "unreadable": dict(sorted(self.unreadable.items())),
        }


def check_pictures(split: DataSplit) -> tuple[tuple[Item, ...], Lost]:
    """The items whose pictures are there, and what is lost; only headers are read.

    Raises ValueError when no picture is there, or one has another size than its masks.
    """
    lost, kept = Lost(), []
    for image, group in groupby(split.items, lambda item: item.image):
        items = list(group)
        if not split.pictures.has(image):
            lost.missing[image] = len(items)
            continue
        try:
            size = split.pictures.size(image)
        except ValueError:
            lost.unreadable[image] = len(items)
            continue
        if size != items[0].size:
            raise ValueError(
                f"The picture '{image}' is {size} but its masks are {items[0].size} (height, "
                "width); take the pictures that the data set was made of, unscaled."
            )
        kept += items
    if not kept:
        raise ValueError(
            f"None of the {len(lost.names())} pictures is there, such as '{lost.names()[0]}'; name "
            "their folder or zip with --images."
        )
    return tuple(kept), lost


def answer_all(
    items: Sequence[Item],
    pictures: PictureSource,
    model: Model,
    log: Log,
    lost: Lost,
    progress: Progress | None = None,
    masks: Path | None = None,
) -> None:
    """Ask for every sentence that the log has no answer to, and write each answer down.

    masks: also a picture per sentence, <id>.png, in that folder. A picture that cannot be read
    is added to `lost` and its sentences are left for another time.
    """
    done = sum(item.id in log.done for item in items)
    for image, group in groupby(items, lambda item: item.image):
        todo = [item for item in group if item.id not in log.done]
        if not todo:
            continue
        start = time.perf_counter()
        try:
            picture = pictures.read(image)
        except ValueError:
            lost.unreadable[image] = lost.unreadable.get(image, 0) + len(todo)
            continue
        asker: Asker | None = None
        for item in todo:
            asker = asker or model(picture, todo)
            answer = asker(item.text)
            seconds = time.perf_counter() - start  # the first bears the picture's own work
            log.add(_prediction(item, answer, seconds, masks))
            start = time.perf_counter()
            done += 1
            if progress:
                progress(done, len(items))


def _prediction(item: Item, answer: Answer, seconds: float, masks: Path | None) -> Prediction:
    if masks is not None:
        image = Image.fromarray(answer.mask.astype(np.uint8) * 255)
        path = masks / f"{mask_name(item.id)}.png"
        write_safely(path, lambda file: image.save(file, "PNG"))
    return Prediction(
        id=item.id,
        mask=encode(answer.mask),
        text=item.text,
        kinds=answer.kinds,
        presence=answer.presence,
        seconds=seconds,
        note=answer.note,
    )


def begin(folder: Path, run: dict[str, Any]) -> None:
    """Write down what makes a folder's predictions, or check that it is the same as before.

    run: plain data with "hash". Raises ValueError when the folder holds another run.
    """
    path = folder / RUN
    if path.is_file():
        earlier = read_run(folder)
        if earlier.get("hash") != run["hash"]:
            raise ValueError(
                f"'{folder}' holds a run with other {_differences(earlier, run)}; choose another "
                "--out, or delete that folder."
            )
        return
    check_place(folder)
    if (folder / PREDICTIONS).exists():
        raise ValueError(
            f"'{folder / PREDICTIONS}' is there, but no {RUN} that says what made it; choose "
            "another --out."
        )
    text = json.dumps(run, indent=2, ensure_ascii=False) + "\n"
    write_safely(path, text.encode())


def read_run(folder: Path) -> dict[str, Any]:
    """What made a folder's predictions; {} where nothing says so. ValueError when it is damaged."""
    path = folder / RUN
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (OSError, ValueError, RecursionError):
        pass
    raise ValueError(f"'{path}' is not what a run wrote; delete it, or choose another folder.")


def _differences(earlier: dict[str, Any], run: dict[str, Any]) -> str:
    """The names of what differs, settings one by one."""
    one, other = (
        {key: value for key, value in found.items() if key != "settings"}
        | (found.get("settings") or {})
        for found in (earlier.get("made_by") or {}, run.get("made_by") or {})
    )
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return ", ".join(names[:4]) or "settings"
