"""How `refdiff eval refer` asks a model: one look at each picture, a mask for each sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Ready

if TYPE_CHECKING:
    from PIL import Image

    from ..evaluation.datasets import Item
    from ..evaluation.run import Answer, Asker
    from ..pipeline import Look

OWN, OBJECTS = "own", "objects"


def check_proposals(proposals: str) -> None:
    """ValueError when it is neither a known word nor a folder."""
    if proposals not in (OWN, OBJECTS) and not Path(proposals).is_dir():
        raise ValueError(
            f"--proposals is {proposals!r}, wanted own, objects, or a folder with masks for each "
            "picture."
        )


def asker_of(ready: Ready, proposals: str) -> Callable[[Image.Image, Sequence[Item]], Asker]:
    """What the run asks: one look at each picture, then a mask for each of its sentences."""
    import numpy as np

    from ..evaluation.run import Answer
    from ..pipeline import Look

    def look_at(picture: Image.Image, items: Sequence[Item]) -> Asker:
        size = (picture.height, picture.width)
        given = given_masks(items[0], proposals)
        if given is not None and not given.any():
            nothing = Answer(np.zeros(size, bool), note="there are no proposals for this picture")
            return lambda text: nothing
        look = Look(picture, ready.capture, ready.models.clip, ready.settings, given)
        return lambda text: _answer(look, text, size)

    return look_at


def _answer(look: Look, text: str, size: tuple[int, int]) -> Answer:
    """The mask of one sentence; empty, with the reason, for one that cannot be read."""
    import numpy as np

    from ..errors import WordError
    from ..evaluation.kinds import kinds_in
    from ..evaluation.run import Answer
    from ..expression import parse

    try:
        expression = parse(text)
    except ValueError as error:
        return Answer(np.zeros(size, bool), None, ("unread",), str(error))
    kinds = kinds_in(expression)
    try:
        found = look(expression)
    except WordError as error:  # the tokenizer has no piece of it
        return Answer(np.zeros(size, bool), None, kinds, str(error))
    return Answer(found.mask.cpu().numpy(), found.presence, kinds)


def given_masks(item: Item, proposals: str) -> Any:
    """The masks to choose from in an item's picture, [N, H, W] bool; None for the heat's own."""
    import numpy as np

    from ..io.pictures import read_masks
    from ..masks.rle import decode

    if proposals == OWN:
        return None
    nothing = np.zeros((0, *item.size), bool)
    if proposals == OBJECTS:
        return np.stack([decode(one) for one in item.objects]) if item.objects else nothing
    stem = Path(proposals) / Path(item.image).stem
    for place in (stem.with_name(f"{stem.name}.npz"), stem.with_name(f"{stem.name}.npy"), stem):
        if place.exists():
            return read_masks(place)
    return nothing
