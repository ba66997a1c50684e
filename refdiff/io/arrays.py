"""Arrays of masks from .npy and .npz files, and other tools' files told by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

MOST_NUMBERS = 2_000_000_000  # twenty masks of the largest picture
LARGEST_JSON = 500_000_000  # bytes; COCO's own instances of train2017 have 470 million
COCO = ("a COCO file of annotations", "a run-length encoded mask")


def read_arrays(path: Path) -> list[np.ndarray]:
    """The arrays of a .npy or .npz file; ValueError when they are too large for masks.

    Their headers are read first, so that a small file cannot ask for much memory; pickled objects
    are never read.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no file but a pipe, a device or a folder")
    count = sum(_counts(path))
    if count > MOST_NUMBERS:
        raise ValueError(f"it holds {count:,} numbers, and {MOST_NUMBERS:,} are the limit")
    loaded: Any = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return [loaded]
    with loaded:
        return [loaded[name] for name in loaded.files]


def _counts(path: Path) -> Iterator[int]:
    """How many numbers each array of a file says that it has."""
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as file:
            yield _count(file)
        return
    try:
        with ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    yield _count(member)
    except BadZipFile as error:
        raise ValueError("it is no whole .npz archive") from error


def _count(file: Any) -> int:
    version = np.lib.format.read_magic(file)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise ValueError(f"its format is numpy's {version}, wanted 1.0 or 2.0")
    shape, _, _ = reader(file)
    if any(side < 0 for side in shape):
        raise ValueError(f"its array is {shape}")
    count = 1
    for side in shape:
        count *= side
    return count


def read_json(path: Path) -> Any:
    """What a .json file of labels holds; ValueError, naming it, when it cannot be read as JSON."""
    try:
        if not path.is_file():
            raise ValueError(f"'{path}' is not there, or no file; check the path.")
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(
                f"'{path}' has over {LARGEST_JSON / 1e6:.0f} MB, the limit; cut it into several."
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}); check the path.") from error
    except RecursionError as error:
        raise ValueError(f"'{path}' is nested too deep; write it again.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is not JSON ({error}); write it again.") from error


def what_labels_are(held: Any) -> str:
    """Whose labels a JSON object is, in words; empty when it is none that is known."""
    keys = set(held) if isinstance(held, dict) else set()
    kinds = {
        "a LabelMe file of polygons": {"shapes", "imagePath"},
        COCO[0]: {"annotations", "images"},
        COCO[1]: {"size", "counts"},
        "a file of refdiff's scenes": {"scenes", "version"},
        "a report of refdiff": {"candidates", "understood"},
    }
    return next((kind for kind, wanted in kinds.items() if wanted <= keys), "")


def what_json_is(path: Path) -> str:
    """Whose file of labels a .json is, in words; empty when it is no JSON."""
    try:
        known = path.suffix.lower() == ".json"
        return (what_labels_are(read_json(path)) or "JSON, no picture") if known else ""
    except ValueError:
        return ""
