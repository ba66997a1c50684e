"""Draws the evaluation splits in the style that training never sees.

`validation` is for every choice, `test` for every reported figure; they differ by seed alone.
`language` is for figures too, on kinds of sentences that the first two lack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ...evaluation.scenes import SceneObject, write_scenes
from ...evaluation.scenes import Sentence as Asked
from .language import LANGUAGE
from .scenes import Drawing, draw_scene
from .sentences import MAKERS, Maker, Scene, Sentence, sentences_for
from .sprites import HELD_OUT_STYLE, Sprites, load_sprites

SEEDS = {"validation": 1, "test": 2, "language": 3}
PICTURES = {"validation": 320, "test": 320, "language": 100}
SENTENCES = 2
"""Sentences per picture, the kinds that have the fewest so far first."""

Entry = tuple[Image.Image, list[SceneObject], list[Asked]]


def draw_split(folder: Path, packages: Path, split: str) -> Path:
    """Writes one split as `scenes.json` with its pictures; returns the path of the former."""
    sprites = load_sprites(packages, (HELD_OUT_STYLE,))
    makers = LANGUAGE if split == "language" else MAKERS
    rng = np.random.default_rng(SEEDS[split])
    return write_scenes(folder, draw_scenes(sprites, rng, makers, PICTURES[split]), "jpg")


def draw_scenes(
    sprites: Sprites,
    rng: np.random.Generator,
    makers: Mapping[str, Maker] = MAKERS,
    pictures: int = PICTURES["validation"],
) -> Iterator[Entry]:
    """Pictures with objects and sentences, the kinds of sentences in equal shares."""
    counts: Counter[str] = Counter()
    made = 0
    while made < pictures:
        drawing = draw_scene(sprites, rng, augment=False)
        asked = _balanced(sentences_for(scene_of(drawing), rng, makers), counts)
        if len(asked) < SENTENCES:
            continue
        counts.update(_kind(sentence) for sentence in asked)
        objects = [
            SceneObject.from_mask(thing.noun, thing.colour, drawing.labels == index + 1)
            for index, thing in enumerate(drawing.things)
        ]
        sentences = [_asked(said) for said in asked]
        made += 1
        yield Image.fromarray(drawing.picture), objects, sentences


def _kind(said: Sentence) -> str:
    return said.kind.removesuffix(f" {_half(said)}")


def _half(said: Sentence) -> str:
    """The half that a "part" asks for; "" for any other sentence."""
    kind, _, side = said.kind.partition(" ")
    return side if kind == "part" else ""


def _asked(said: Sentence) -> Asked:
    return Asked(said.text, said.things, _kind(said), _half(said))


def scene_of(drawing: Drawing) -> Scene:
    """The drawing as the sentence makers see it."""
    shares = [float((drawing.labels == index + 1).mean()) for index, _ in enumerate(drawing.things)]
    return Scene(drawing.things, tuple(shares))


def _balanced(sentences: list[Sentence], counts: Counter[str]) -> list[Sentence]:
    chosen: list[Sentence] = []
    for sentence in sorted(sentences, key=lambda one: counts[_kind(one)]):
        if all(_kind(sentence) != _kind(other) for other in chosen):
            chosen.append(sentence)
    return chosen[:SENTENCES]
