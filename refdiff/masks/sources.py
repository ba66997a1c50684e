"""Candidates from anywhere: files, other libraries' detections, boxes, or SAM.

What is taken: masks of any kind (`proposals.tidy`); files and folders of masks; a picture of
labels ("labels:file.png", or any PNG with a palette); COCO's run lengths and polygons (.json);
boxes, filled; `supervision.Detections`; results of ultralytics; "sam:MODEL", "sam2:MODEL" and
"sam3:MODEL".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..io.arrays import COCO, read_json, what_labels_are
from ..io.pictures import as_picture, read_masks, read_values, stored_mode
from .candidates import Candidates, Mask, Runs, Size, distinct, gather
from .proposals import as_masks
from .resize import working_size
from .rle import from_segmentation
from .sam import KINDS, load_sam

LABELS = "labels:"
Found = Iterable[Mask | Runs]


def candidates_of(
    value: Any, image: Any, name: str | None = None, device: str | torch.device = "cpu"
) -> Candidates:
    """The candidates that `value` stands for, of this picture.

    value: one of the above, or a list of several. image: what `as_picture` takes. name: the
    picture's file name, by which a COCO file of many pictures knows it. device: where SAM runs.
    Raises ValueError for what is none of these or of another size, ModelError for a SAM that
    cannot be read.
    """
    if isinstance(value, Candidates):
        return value
    picture = as_picture(image)
    name = name or (Path(image).name if isinstance(image, str | os.PathLike) else None)
    size = (picture.height, picture.width)
    found = gather(_masks(value, picture, name, device), working_size(size))
    return distinct(found) if _is_sam(value) else found


def _is_sam(value: Any) -> bool:
    return isinstance(value, str) and value.partition(":")[0] in KINDS


def _masks(value: Any, picture: Image.Image, name: str | None, device: Any) -> Found:
    size = (picture.height, picture.width)
    if isinstance(value, str | os.PathLike):
        return _of_text(str(value), picture, name, device)
    if isinstance(value, list | tuple) and value and _is_named(value[0]):
        return (mask for one in value for mask in _masks(one, picture, name, device))
    if hasattr(value, "orig_shape") and hasattr(value, "boxes"):
        return _of_ultralytics(value, size)
    if hasattr(value, "xyxy") and hasattr(value, "mask"):
        return _of_supervision(value, size)
    if isinstance(value, dict) or _is_coco(value):
        return of_coco(value, size, name)
    if _is_boxes(value, size):
        return of_boxes(value, size)
    return (mask.numpy() for mask in as_masks(value, size))


def _is_named(one: Any) -> bool:
    """Whether a list holds sources of their own, rather than masks or boxes."""
    known = hasattr(one, "xyxy") or hasattr(one, "orig_shape")
    return known or isinstance(one, str | os.PathLike)


def _of_text(text: str, picture: Image.Image, name: str | None, device: Any) -> Found:
    size = (picture.height, picture.width)
    kind, _, model = text.partition(":")
    if kind in KINDS:
        return load_sam(text, device).everything(picture)
    path = Path(model if text.startswith(LABELS) else text)
    if text.startswith(LABELS) or _has_palette(path):
        return of_labels(path, size)
    if path.suffix.lower() == ".json":
        return _of_json(path, size, name)
    return (mask.numpy() for mask in as_masks(read_masks(path), size))


def _has_palette(path: Path) -> bool:
    return path.suffix.lower() == ".png" and path.is_file() and stored_mode(path) == "P"


def of_labels(path: Path, size: Size) -> Iterator[Mask]:
    """A picture whose values are numbers of things, 0 for none: a mask for each.

    8 or 16 bits of grey, or a palette's indices. Raises ValueError for colours, another size or no
    thing.
    """
    values = read_values(path)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise ValueError(f"'{path}' has colours; labels are numbers, so save it grey or indexed.")
    _check(values.shape, size, str(path))
    numbers = np.unique(values)
    if not (numbers != 0).any():
        raise ValueError(f"'{path}' has no label but 0; 1 and up stand for things.")
    return (values == number for number in numbers if number != 0)


def _of_json(path: Path, size: Size, name: str | None) -> Found:
    plain = read_json(path)
    if _is_boxes(plain, size):
        return of_boxes(plain, size)
    kind = what_labels_are(plain)
    if kind and kind not in COCO:
        raise ValueError(f"'{path}' is {kind}; make pictures of it, a PNG per mask.")
    if not (kind or _is_coco(plain) or (isinstance(plain, dict) and "annotations" in plain)):
        raise ValueError(
            f"'{path}' is JSON, no picture; JSON of candidates is COCO's annotations, run lengths, "
            "or boxes (left, top, right, bottom)."
        )
    return of_coco(plain, size, name)


def _is_coco(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)


def of_coco(plain: Any, size: Size, name: str | None = None) -> Iterator[Runs]:
    """Masks in COCO's ways: a data set, a list of annotations or of run lengths.

    Segmentations are run lengths, compressed or not, or polygons. name: of the picture, wanted
    where a data set holds several.
    """
    notes = _notes(plain, size, name)
    if not notes:
        raise ValueError("The JSON holds no segmentation of this picture; look at its file names.")
    return (_runs(note, size) for note in notes)


def _notes(plain: Any, size: Size, name: str | None) -> list[Any]:
    if not isinstance(plain, dict):
        return list(plain)
    if "annotations" not in plain:
        return [plain]
    images, notes = plain.get("images", []), plain["annotations"]
    for part in (images, notes):
        if not isinstance(part, list) or not all(isinstance(one, dict) for one in part):
            raise ValueError("The JSON's images and annotations should be lists of objects, as "
                             "COCO has them; write it again.")  # fmt: skip
    ids = [one.get("id") for one in images if Path(str(one.get("file_name"))).name == name]
    if len(images) <= 1:
        ids = [one.get("id") for one in images] or [note.get("image_id") for note in notes]
    if notes and not ids:
        raise ValueError(
            f"The data set holds {len(images)} pictures and none called {name!r}; give the picture "
            "by its own name."
        )
    return [note for note in notes if note.get("image_id") in ids]


def _runs(note: Any, size: Size) -> Runs:
    found = note.get("segmentation", note) if isinstance(note, dict) else note
    if isinstance(found, dict) and isinstance(found.get("size"), list | tuple):
        _check(found["size"], size, "A segmentation")
    return Runs(from_segmentation(found, size, "a candidate")["counts"], size)


def _is_boxes(value: Any, size: Size) -> bool:
    """Rows of four numbers, where these cannot be one mask of the picture's size."""
    try:
        array = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError):
        return False
    flat = array.ndim == 2 and array.shape[1] == 4 and array.shape != size
    return flat and array.dtype.kind in "iuf"


def of_boxes(boxes: Any, size: Size) -> Iterator[Mask]:
    """Boxes (left, top, right, bottom) in pixels [N, 4], each filled."""
    array = np.asarray(boxes.cpu() if isinstance(boxes, torch.Tensor) else boxes, dtype=float)
    if not np.isfinite(array).all() or (array[:, 2:] <= array[:, :2]).any():
        raise ValueError("Boxes are (left, top, right, bottom) in pixels; right exceeds left.")
    height, width = size
    edges = array.round().clip(0, (width, height, width, height)).astype(int)
    for left, top, right, bottom in edges:
        mask = np.zeros(size, bool)
        mask[top:bottom, left:right] = True
        yield mask


def _of_supervision(detections: Any, size: Size) -> Iterator[Mask]:
    """`supervision.Detections`: their masks, or their boxes where there are none."""
    if detections.mask is None:
        return of_boxes(detections.xyxy, size)
    return (_checked(np.asarray(mask, dtype=bool), size) for mask in detections.mask)


def _of_ultralytics(result: Any, size: Size) -> Iterator[Mask]:
    """A result of ultralytics: its outlines, filled, or its boxes where there are none."""
    _check(result.orig_shape, size, "The result's picture")
    if result.masks is None:
        return of_boxes(result.boxes.xyxy, size)
    return (_filled(corners, size) for corners in result.masks.xy)


def _filled(corners: Sequence[Any], size: Size) -> Mask:
    canvas = Image.new("1", (size[1], size[0]))
    if len(corners) > 2:
        ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corners], fill=1)
    return np.array(canvas)


def _checked(mask: Mask, size: Size) -> Mask:
    _check(mask.shape, size, "A mask")
    return mask


def _check(got: Sequence[int], size: Size, what: str) -> None:
    if tuple(got) != tuple(size):
        raise ValueError(
            f"{what} is {tuple(got)}, the picture is {tuple(size)} (height, width); candidates "
            "have the picture's size."
        )
