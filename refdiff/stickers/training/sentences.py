"""Sentences about a drawn scene, as people write them, with what each noun stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..nouns import NOUNS
from .looks import COLOURS
from .scenes import Thing

PLURALS = {"fish": "fish", "butterfly": "butterflies", "strawberry": "strawberries", "bus": "buses"}
SIDES = {"left": (1, 1), "right": (1, -1), "top": (0, 1), "bottom": (0, -1)}
"""Side to (axis of the centre, sign that makes the extreme on that side the smallest)."""


@dataclass(frozen=True)
class Mention:
    """Characters [start, end) of a sentence name these things, as far as is known by then."""

    start: int
    end: int
    things: tuple[int, ...]


@dataclass(frozen=True)
class Sentence:
    """things: the indices meant by the whole sentence; none for a thing that is not there."""

    text: str
    kind: str
    things: tuple[int, ...]
    mentions: tuple[Mention, ...]


class Writer:
    """Builds a sentence piece by piece and remembers where its nouns stand."""

    def __init__(self) -> None:
        self.text = ""
        self.mentions: list[Mention] = []

    def add(self, words: str) -> Writer:
        self.text = f"{self.text} {words}".strip()
        return self

    def noun(self, word: str, things: Sequence[int]) -> Writer:
        self.add(word)
        self.mentions.append(Mention(len(self.text) - len(word), len(self.text), tuple(things)))
        return self

    def sentence(self, kind: str, things: Sequence[int]) -> Sentence:
        return Sentence(self.text, kind, tuple(things), tuple(self.mentions))


@dataclass(frozen=True)
class Scene:
    """What the sentence makers look at. areas: visible share of the picture, by thing."""

    things: tuple[Thing, ...]
    areas: tuple[float, ...]

    def same(self, index: int) -> list[int]:
        noun = self.things[index].noun
        return [i for i, thing in enumerate(self.things) if thing.noun == noun]

    def like(self, index: int) -> list[int]:
        """The things of this noun and colour."""
        colour = self.things[index].colour
        return [i for i in self.same(index) if colour is None or self.things[i].colour == colour]


Maker = Callable[[Scene, int, np.random.Generator], Sentence | None]


def plural_of(noun: str) -> str:
    return PLURALS.get(noun, noun + "s")


def plain(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    if len(scene.same(index)) != 1:
        return None
    article = _one_of(rng, "the", "the", "a", "")
    return Writer().add(article).noun(scene.things[index].noun, [index]).sentence("plain", [index])


def colour(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    thing = scene.things[index]
    if thing.colour is None or len(scene.like(index)) != 1:
        return None
    if any(scene.things[i].colour is None for i in scene.same(index)):
        return None
    writer = Writer().add(_one_of(rng, "the", "the", "a", "")).add(thing.colour)
    return writer.noun(thing.noun, [index]).sentence("colour", [index])


def place(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    rivals = scene.same(index)
    sides = [side for side in SIDES if len(rivals) > 1 and _is_extreme(scene, index, rivals, side)]
    if not sides:
        return None
    side, thing = _one_of(rng, *sides), scene.things[index]
    tone = _tone(scene, index, rng)
    if rng.random() < 0.35:
        words = _one_of(rng, side, side, {"left": "leftmost", "right": "rightmost"}.get(side, side))
        writer = Writer().add(_one_of(rng, "the", "")).add(words).add(tone)
        return writer.noun(thing.noun, [index]).sentence("place", [index])
    known = scene.like(index) if tone else rivals
    writer = Writer().add(_one_of(rng, "the", "the", "")).add(tone).noun(thing.noun, known)
    return writer.add(f"{'on' if side in ('left', 'right') else 'at'} the {side}").sentence(
        "place", [index]
    )


def size(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    areas = [scene.areas[i] for i in scene.same(index) if i != index]
    if not areas:
        return None
    if scene.areas[index] > 1.6 * max(areas):
        word = _one_of(rng, "big", "bigger", "biggest", "large", "largest")
    elif scene.areas[index] < min(areas) / 1.6:
        word = _one_of(rng, "small", "smaller", "smallest")
    else:
        return None
    writer = Writer().add(_one_of(rng, "the", "the", "")).add(word)
    return writer.noun(scene.things[index].noun, [index]).sentence("size", [index])


def order(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    rivals = scene.same(index)
    if len(rivals) < 3:
        return None
    side = _one_of(rng, "left", "left", "right", "top")
    axis, sign = SIDES[side]
    row = sorted(rivals, key=lambda i: sign * scene.things[i].centre[axis])
    steps = np.abs(np.diff([scene.things[i].centre[axis] for i in row]))
    rank = row.index(index)
    if steps.min() < 0.08 or rank > 2:
        return None
    word = ("first", "second", "third")[rank]
    writer = Writer().add(_one_of(rng, "the", "")).add(word).noun(scene.things[index].noun, rivals)
    return writer.add(f"from the {side}").sentence("order", [index])


def relation(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    rivals = scene.same(index)
    anchors = [i for i in range(len(scene.things)) if len(scene.same(i)) == 1 and i != index]
    if len(rivals) < 2 or not anchors:
        return None
    anchor = int(rng.choice(anchors))
    words = [
        words for words, holds in RELATIONS.items() if _only(scene, index, rivals, anchor, holds)
    ]
    if _nearest(scene, index, rivals, anchor):
        words += ["next to", "near", "beside"]
    if not words:
        return None
    writer = Writer().add(_one_of(rng, "the", "the", "")).noun(scene.things[index].noun, rivals)
    writer.add(_one_of(rng, *words)).add("the").noun(scene.things[anchor].noun, [anchor])
    return writer.sentence("relation", [index])


def plural(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    meant, thing = scene.same(index), scene.things[index]
    tone = ""
    if thing.colour and len(scene.like(index)) > 1 and rng.random() < 0.5:
        meant, tone = scene.like(index), thing.colour
        if any(scene.things[i].colour is None for i in scene.same(index)):
            return None
    if len(meant) < 2:
        return None
    amount = _one_of(
        rng, "all", "all the", "the", *(["both", "both", "two"] if len(meant) == 2 else ["all"])
    )
    many = plural_of(thing.noun)
    amount = "all the" if amount == "the" and many == thing.noun else amount  # "the fish" is one
    return Writer().add(amount).add(tone).noun(many, meant).sentence("plural", meant)


def absent(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    there = {thing.noun for thing in scene.things}
    noun = _one_of(rng, *(noun for noun in NOUNS if noun not in there))
    tone = _one_of(rng, *COLOURS) if rng.random() < 0.3 else ""
    side = _one_of(rng, "on the left", "on the right", "at the top") if rng.random() < 0.2 else ""
    return Writer().add("the").add(tone).noun(noun, []).add(side).sentence("absent", [])


MAKERS: dict[str, Maker] = {
    "plain": plain, "colour": colour, "place": place, "size": size,
    "order": order, "relation": relation, "plural": plural, "absent": absent,
}  # fmt: skip


def caption(scene: Scene, rng: np.random.Generator, whole: bool = False) -> Sentence:
    """A caption, of a part of the scene at times: "a red cat, two dogs and a small boat"."""
    groups: list[list[int]] = []
    for index in rng.permutation(len(scene.things)):
        named = {i for group in groups for i in group}
        if index not in named:
            kin = scene.like(int(index)) if rng.random() < 0.7 else scene.same(int(index))
            groups.append([i for i in kin if i not in named])
    if not whole and rng.random() < 0.4:
        groups = groups[: int(rng.integers(1, len(groups) + 1))]
    writer = Writer().add(_one_of(rng, "", "", "", "a picture of", "a photo of", "stickers of"))
    for number, group in enumerate(groups):
        if number:
            last = number == len(groups) - 1
            writer.add("and") if last else _comma(writer)
        _name_group(writer, scene, group, rng)
    return writer.sentence("caption", [index for group in groups for index in group])


def sentences_for(
    scene: Scene, rng: np.random.Generator, makers: Mapping[str, Maker]
) -> list[Sentence]:
    """Every sentence that the makers find for some thing of the scene, in random order."""
    made = [
        make(scene, int(index), rng)
        for make in makers.values()
        for index in rng.permutation(len(scene.things))
    ]
    unique = {sentence.text: sentence for sentence in made if sentence is not None}
    return [list(unique.values())[i] for i in rng.permutation(len(unique))]


RELATIONS: dict[str, Callable[[Thing, Thing], bool]] = {
    "to the left of": lambda a, b: a.centre[1] < b.centre[1] - 0.08,
    "left of": lambda a, b: a.centre[1] < b.centre[1] - 0.08,
    "to the right of": lambda a, b: a.centre[1] > b.centre[1] + 0.08,
    "above": lambda a, b: a.centre[0] < b.centre[0] - 0.08,
    "below": lambda a, b: a.centre[0] > b.centre[0] + 0.08,
}


def _only(
    scene: Scene, index: int, rivals: list[int], anchor: int, holds: Callable[[Thing, Thing], bool]
) -> bool:
    """The relation holds for this thing and its opposite clearly holds for every rival."""
    there = scene.things[anchor]
    others = [scene.things[i] for i in rivals if i != index]
    return holds(scene.things[index], there) and all(holds(there, other) for other in others)


def _nearest(scene: Scene, index: int, rivals: list[int], anchor: int) -> bool:
    def distance(i: int) -> float:
        a, b = scene.things[i].centre, scene.things[anchor].centre
        return float(np.hypot(a[0] - b[0], a[1] - b[1]))

    return all(distance(index) < 0.7 * distance(i) for i in rivals if i != index)


def _is_extreme(scene: Scene, index: int, rivals: list[int], side: str) -> bool:
    axis, sign = SIDES[side]
    own = sign * scene.things[index].centre[axis]
    return all(own < sign * scene.things[i].centre[axis] - 0.12 for i in rivals if i != index)


def _tone(scene: Scene, index: int, rng: np.random.Generator) -> str:
    colour = scene.things[index].colour
    return colour if colour and rng.random() < 0.3 else ""


def _name_group(writer: Writer, scene: Scene, group: list[int], rng: np.random.Generator) -> None:
    thing = scene.things[group[0]]
    colours = Counter(scene.things[i].colour for i in group)
    tone = thing.colour if len(colours) == 1 and thing.colour else ""
    if len(group) > 1:
        amount = ("two", "three", "four", "five")[len(group) - 2] if rng.random() < 0.7 else "some"
        writer.add(amount).add(tone).noun(plural_of(thing.noun), group)
        return
    large = "small " if thing.size < 60 else "big " if thing.size > 105 else ""
    writer.add(_one_of(rng, "a", "a", "the")).add((large if rng.random() < 0.3 else "") + tone)
    writer.noun(thing.noun, group)


def _comma(writer: Writer) -> None:
    writer.text += ","


def _one_of(rng: np.random.Generator, *options: str) -> str:
    return str(options[rng.integers(len(options))])
