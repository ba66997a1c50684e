"""Draws the two evaluation splits in the style that training never sees.

`validation` is for every choice, `test` for every reported figure; they differ by seed alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluation.scenes import SceneObject, write_scenes
from ..evaluation.scenes import Sentence as Asked
from .scenes import Drawing, draw_scene
from .sentences import MAKERS, Scene, Sentence, sentences_for
from .sprites import HELD_OUT_STYLE, Sprites, load_sprites

SEEDS = {"validation": 1, "test": 2}
PICTURES = 320
SENTENCES = 2
"""Sentences per picture, the kinds that have the fewest so far first."""

Entry = tuple[Image.Image, list[SceneObject], list[Asked]]


def draw_split(folder: Path, packages: Path, split: str) -> Path:
    """Writes one split as `scenes.json` with its pictures; returns the path of the former."""
    sprites = load_sprites(packages, (HELD_OUT_STYLE,))
    return write_scenes(folder, _entries(sprites, np.random.default_rng(SEEDS[split])), "jpg")


def _entries(sprites: Sprites, rng: np.random.Generator) -> Iterator[Entry]:
    counts: Counter[str] = Counter()
    made = 0
    while made < PICTURES:
        drawing = draw_scene(sprites, rng, augment=False)
        asked = _balanced(sentences_for(scene_of(drawing), rng, list(MAKERS)), counts)
        if len(asked) < SENTENCES:
            continue
        counts.update(sentence.kind for sentence in asked)
        objects = [
            SceneObject.from_mask(thing.noun, thing.colour, drawing.labels == index + 1)
            for index, thing in enumerate(drawing.things)
        ]
        sentences = [Asked(said.text, said.things, said.kind) for said in asked]
        made += 1
        yield Image.fromarray(drawing.picture), objects, sentences


def scene_of(drawing: Drawing) -> Scene:
    """The drawing as the sentence makers see it."""
    shares = [float((drawing.labels == index + 1).mean()) for index, _ in enumerate(drawing.things)]
    return Scene(drawing.things, tuple(shares))


def _balanced(sentences: list[Sentence], counts: Counter[str]) -> list[Sentence]:
    chosen: list[Sentence] = []
    for sentence in sorted(sentences, key=lambda one: counts[one.kind]):
        if all(sentence.kind != other.kind for other in chosen):
            chosen.append(sentence)
    return chosen[:SENTENCES]
