"""Scenes with known objects and sentences about them: a folder with pictures and scenes.json.

    {"version": 1, "scenes": [{
        "image": "0001.png",
        "objects": [{"noun": "cat", "colour": "red" or null,
                     "mask": {"size": [H, W], "counts": "<COCO compressed RLE>"}}],
        "sentences": [{"text": "the red cat on the left", "objects": [0], "kind": "place"}]}]}

`objects` of a sentence are the indices of what it means: several for a plural, none for a thing
that is not there. "half": "top" (bottom, left, right) besides means that half of it alone. Keys
that are not named here are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..io.files import PathLike, write_safely
from ..io.pictures import picture_size, read_picture
from ..masks.rle import covers

FILE = "scenes.json"
HALVES = ("", "top", "bottom", "left", "right")
VERSION = 1


@dataclass(frozen=True)
class SceneObject:
    """One object: its noun, its colour word if it has one, and its visible part."""

    noun: str
    colour: str | None
    size: tuple[int, int]  # height, width of the picture
    counts: str  # COCO compressed RLE of the mask

    @property
    def mask(self) -> np.ndarray:
        """The visible part, [H, W] bool, decoded anew each time."""
        from pycocotools import mask as coco

        decoded = coco.decode({"size": list(self.size), "counts": self.counts.encode("ascii")})
        return decoded.astype(bool)

    @classmethod
    def from_mask(cls, noun: str, colour: str | None, mask: np.ndarray) -> SceneObject:
        """An object from its mask [H, W] bool."""
        from pycocotools import mask as coco

        encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        height, width = mask.shape
        return cls(noun, colour, (height, width), encoded["counts"].decode("ascii"))


@dataclass(frozen=True)
class Sentence:
    """A sentence, the indices of the objects it means (none: not there), and its kind.

    half: top, bottom, left or right for that half of them alone, else "".
    """

    text: str
    objects: tuple[int, ...]
    kind: str
    half: str = ""


@dataclass(frozen=True)
class Scene:
    """A picture file with its objects and the sentences about it."""

    image: Path
    objects: tuple[SceneObject, ...]
    sentences: tuple[Sentence, ...]

    def picture(self) -> Image.Image:
        """The picture, read anew, as RGB."""
        return read_picture(self.image)

    def masks(self) -> np.ndarray:
        """The objects' visible parts, [N, H, W] bool."""
        if not self.objects:
            return np.zeros((0, *picture_size(self.image)), bool)
        return np.stack([thing.mask for thing in self.objects])


def read_scenes(folder: PathLike) -> tuple[Scene, ...]:
    """The scenes of a folder, in the order of its scenes.json.

    Raises ValueError, one sentence naming the place, when the file is missing or not of this
    format, a picture is missing or of another size than its masks, or an index is out of range.
    """
    folder = Path(folder)
    data = _json(folder / FILE)
    if not isinstance(data, dict) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"'{folder / FILE}' should have \"version\": {VERSION}, found {found!r}.")
    entries = _field(data, "scenes", list, f"'{folder / FILE}'")
    return tuple(
        _scene(entry, folder, f"scene {number} of '{folder / FILE}'")
        for number, entry in enumerate(entries, 1)
    )


def write_scenes(
    folder: PathLike,
    scenes: Iterable[tuple[Image.Image, Sequence[SceneObject], Sequence[Sentence]]],
    kind: Literal["png", "jpg"] = "png",
) -> Path:
    """Write pictures (0001.png, ...) and their scenes.json; the inverse of `read_scenes`.

    kind: "jpg" is a fifth of the size and not exact.

    Pictures are written as they come, so `scenes` may be a generator. scenes.json comes last: a
    folder that has one is complete. Returns its path. Raises ValueError for a mask of another
    size than its picture or an index out of range, RefDiffError when writing fails.
    """
    folder = Path(folder)
    with suppress(OSError):
        (folder / FILE).unlink()
    lines = []
    for number, (picture, objects, sentences) in enumerate(scenes, 1):
        name, where = f"{number:04d}.{kind}", f"scene {number}"
        for thing in objects:
            _check_size(thing.size, (picture.height, picture.width), where)
        for sentence in sentences:
            _check_indices(list(sentence.objects), len(objects), where)
        write_safely(folder / name, partial(picture.save, **FORMATS[kind]))
        lines.append(json.dumps(_entry(name, objects, sentences), ensure_ascii=False))
    text = f'{{"version": {VERSION}, "scenes": [\n' + ",\n".join(lines) + "\n]}\n"
    write_safely(folder / FILE, text.encode())
    return folder / FILE


FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 90, "subsampling": 0},
}


def _entry(name: str, objects: Sequence[SceneObject], sentences: Sequence[Sentence]) -> Any:
    return {
        "image": name,
        "objects": [
            {
                "noun": thing.noun,
                "colour": thing.colour,
                "mask": {"size": list(thing.size), "counts": thing.counts},
            }
            for thing in objects
        ],
        "sentences": [
            {"text": said.text, "objects": list(said.objects), "kind": said.kind}
            | ({"half": said.half} if said.half else {})
            for said in sentences
        ],
    }


def _json(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "it is no file")
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"'{path}' is nested too deep for scenes; write it again.") from error
    except OSError as error:
        raise ValueError(
            f"There is no readable '{path}' ({error.strerror}); give a folder with pictures and "
            f"{FILE}."
        ) from error
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON ({error}); write it again.") from error


def _scene(entry: Any, folder: Path, where: str) -> Scene:
    name = Path(_field(entry, "image", str, where))
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"The image of {where} is '{name}', wanted one inside '{folder}'.")
    image = folder / name
    size = picture_size(image)
    objects = tuple(
        _object(item, size, f"object {index} in {where}")
        for index, item in enumerate(_field(entry, "objects", list, where))
    )
    sentences = tuple(
        _sentence(item, len(objects), f"sentence {number} in {where}")
        for number, item in enumerate(_field(entry, "sentences", list, where), 1)
    )
    return Scene(image, objects, sentences)


def _object(item: Any, picture: tuple[int, int], where: str) -> SceneObject:
    noun = _field(item, "noun", str, where)
    colour = item.get("colour")
    if colour is not None and not isinstance(colour, str):
        raise ValueError(f'"colour" of {where} should be a word or null, found {colour!r}.')
    mask = _field(item, "mask", dict, where)
    size = _field(mask, "size", list, f"the mask of {where}")
    _check_size(tuple(size), picture, where)
    counts = _field(mask, "counts", str, f"the mask of {where}")
    if not covers(counts, picture[0] * picture[1]):
        raise ValueError(
            f"The mask of {where} is not a COCO compressed RLE of {picture[0]} x {picture[1]} "
            "pixels; encode it again."
        )
    return SceneObject(noun, colour, picture, counts)


def _sentence(item: Any, count: int, where: str) -> Sentence:
    text = _field(item, "text", str, where)
    kind = _field(item, "kind", str, where)
    objects = _field(item, "objects", list, where)
    _check_indices(objects, count, where)
    half = item.get("half", "")
    if half not in HALVES:
        raise ValueError(f'"half" of {where} is {half!r}, wanted one of {", ".join(HALVES[1:])}.')
    return Sentence(text, tuple(objects), kind, half)


def _field(item: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get(key), kind):
        found = repr(item.get(key)) if isinstance(item, dict) else type(item).__name__
        found = found if len(found) <= 60 else found[:57] + "..."
        raise ValueError(
            f'{where[0].upper()}{where[1:]} needs "{key}" ({kind.__name__}), found {found}.'
        )
    return item[key]


def _check_size(size: tuple[Any, ...], picture: tuple[int, int], where: str) -> None:
    if size != picture:
        raise ValueError(
            f"A mask of {where} is {size} but the picture is {picture} (height, width); masks "
            "have the size of their picture."
        )


def _check_indices(objects: list[Any], count: int, where: str) -> None:
    good = all(type(index) is int and 0 <= index < count for index in objects)
    if not good or len(set(objects)) < len(objects):
        raise ValueError(
            f"Object indices of {where} are {objects}, but should be different whole numbers "
            f"from 0 up, below the scene's {count} objects."
        )
