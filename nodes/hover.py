"""What a front end needs to show the heat of a word where one points at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..refdiff.errors import RefDiffError
from ..refdiff.io.overlay import heat_image
from ..refdiff.settings import Settings
from .expression import asked_words
from .heat import word_heat
from .pictures import data_url
from .types import Attention

SIDE = 192
"""Long side in pixels of the pictures that are sent."""
MOST_WORDS = 40


@dataclass(frozen=True, eq=False)
class Looked:
    """A sentence over a picture, and where each of its words was seen.

    words: (word, first character, heat over the picture); both kinds of picture are small.
    """

    text: str
    words: tuple[tuple[str, int, Image.Image], ...]

    def told(self) -> dict[str, Any]:
        """As plain data for JSON; pictures are data URLs."""
        words = [
            {"word": word, "start": start, "heat": data_url(heat, "jpeg")}
            for word, start, heat in self.words
        ]
        return {"text": self.text, "words": words}


def looked(attention: Attention, method: Settings) -> Looked:
    """The heat of every word of the attention's text over its small picture."""
    picture = attention.picture
    assert picture is not None
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    found = []
    for word in asked_words(attention.expression, "*")[:MOST_WORDS]:
        try:
            heat = word_heat(attention, word, method)
        except RefDiffError:  # the encoder never saw it, or its heat is no number
            continue
        found.append((word.text, word.start, _over(small, heat.numpy())))
    return Looked(attention.expression.text, tuple(found))


def _over(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    small = heat_image(heat).resize(picture.size, Image.Resampling.BILINEAR)
    share = Image.fromarray((heat.clip(0, 1) * 178 + 38).astype(np.uint8)).resize(picture.size)
    return Image.composite(small, picture, share)
