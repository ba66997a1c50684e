"""Sentences of the kinds that the first splits lack: exclusions, lists, counts, parts, no noun."""

from __future__ import annotations

import numpy as np

from .scenes import Thing
from .sentences import SIDES, Maker, Scene, Sentence, Writer, plural_of

NUMBERS = ("", "one", "two", "three", "four", "five")
ENOUGH = 0.08  # share of the picture that things in a row are apart at least
LARGE = 0.02  # share of the picture from which a thing has halves worth asking for


def exclusion(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    """ "All cats except the red one", "the cat that is not red", "cat not on the left"."""
    kin = scene.same(index)
    rest = [i for i in kin if i != index]
    if not rest:
        return None
    thing, writer = scene.things[index], Writer()
    only = thing.colour is not None and all(
        scene.things[i].colour not in (None, thing.colour) for i in rest
    )
    sided = _first(scene, index, rest)
    if len(rest) > 1 and (only or sided):
        mark = _one_of(rng, "except", "but", "apart from", "other than")
        told = f"{mark} the {thing.colour if only else sided} one"
        return writer.add("all").noun(plural_of(thing.noun), rest).add(told).sentence(
            "exclusion", rest
        )  # fmt: skip
    if len(rest) == 1 and only:
        told = _one_of(rng, "that is not", "which isn't")
        writer.add("the").noun(thing.noun, rest).add(f"{told} {thing.colour}")
        return writer.sentence("exclusion", rest)
    if len(rest) == 1 and sided in ("left", "right"):
        return writer.noun(thing.noun, rest).add(f"not on the {sided}").sentence("exclusion", rest)
    return None


def listing(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    """ "Cat, dog", "cat. dog.", "cat; dog; cup"."""
    single = [i for i in range(len(scene.things)) if len(scene.same(i)) == 1 and i != index]
    if len(scene.same(index)) != 1 or not single:
        return None
    count = min(len(single), int(rng.integers(1, 3)))
    meant = [index, *map(int, rng.permutation(single)[:count])]
    mark = _one_of(rng, ",", ".", ";", " /", " |", " &")
    writer = Writer()
    for place, i in enumerate(meant):
        writer.text += mark if place else ""
        writer.noun(scene.things[i].noun, [i])
    writer.text += "." if mark == "." else ""
    return writer.sentence("list", meant)


def count(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    """ "Three cats" (also where there are two), "the first two cats from the left"."""
    kin = scene.same(index)
    name = plural_of(scene.things[index].noun)
    side = _one_of(rng, "left", "right")
    row = _row(scene, kin, side)
    if len(kin) > 2 and row and rng.random() < 0.6:
        ends = _one_of(rng, "first", "last")
        meant = row[:2] if ends == "first" else row[-2:]
        writer = Writer().add(f"the {ends} two").noun(name, kin).add(f"from the {side}")
        return writer.sentence("count", meant)
    if len(kin) < 2:
        return None
    said = len(kin) + (1 if rng.random() < 0.3 else 0)
    return Writer().add(NUMBERS[min(said, 5)]).noun(name, kin).sentence("count", kin)


def part(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    """ "The top half of the cat"; the sentence's part says which half is meant."""
    if len(scene.same(index)) != 1 or scene.areas[index] < LARGE:
        return None
    side = _one_of(rng, *SIDES)
    writer = Writer().add(_one_of(rng, "the", "")).add(f"{side} half of the")
    return writer.noun(scene.things[index].noun, [index]).sentence(f"part {side}", [index])


def without_noun(scene: Scene, index: int, rng: np.random.Generator) -> Sentence | None:
    """ "Second from left", "the biggest one", "the red one", "bottom right"."""
    everything = list(range(len(scene.things)))
    if len(everything) < 3:
        return None
    makers = [_ranked, _extreme_size, _only_colour, _corner]
    for maker in rng.permutation(np.array(makers, dtype=object)):
        if text := maker(scene, index, everything, rng):
            return Writer().add(text).sentence("no noun", [index])
    return None


LANGUAGE: dict[str, Maker] = {
    "exclusion": exclusion, "list": listing, "count": count, "part": part, "no noun": without_noun,
}  # fmt: skip


def _ranked(scene: Scene, index: int, all_of: list[int], rng: np.random.Generator) -> str:
    side = _one_of(rng, "left", "right", "top")
    row = _row(scene, all_of, side)
    rank = row.index(index) if row else 3
    return f"{('first', 'second', 'third')[rank]} from {side}" if rank < 3 else ""


def _extreme_size(scene: Scene, index: int, all_of: list[int], rng: np.random.Generator) -> str:
    areas = [scene.areas[i] for i in all_of if i != index]
    if scene.areas[index] > 1.6 * max(areas):
        return _one_of(rng, "the biggest one", "the largest", "biggest thing")
    if scene.areas[index] < min(areas) / 1.6:
        return _one_of(rng, "the smallest one", "smallest", "the smallest thing")
    return ""


def _only_colour(scene: Scene, index: int, all_of: list[int], rng: np.random.Generator) -> str:
    colours = [scene.things[i].colour for i in all_of]
    own = scene.things[index].colour
    alone = own is not None and None not in colours and colours.count(own) == 1
    return _one_of(rng, f"the {own} one", f"the {own} thing") if alone else ""


def _corner(scene: Scene, index: int, all_of: list[int], rng: np.random.Generator) -> str:
    """A corner whose thing is nearest to it by far."""

    def away(i: int, corner: tuple[int, int]) -> float:
        return float(np.hypot(*np.subtract(scene.things[i].centre, corner)))

    for words, corner in {
        "top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1),
    }.items():  # fmt: skip
        others = [away(i, corner) for i in all_of if i != index]
        if away(index, corner) < 0.4 and away(index, corner) < 0.6 * min(others):
            return words
    return ""


def _row(scene: Scene, kin: list[int], side: str) -> list[int]:
    """The things as counted from a side; none where two stand level."""
    axis, sign = SIDES[side]
    row = sorted(kin, key=lambda i: sign * scene.things[i].centre[axis])
    places = [scene.things[i].centre[axis] for i in row]
    return row if len(row) > 1 and np.abs(np.diff(places)).min() >= ENOUGH else []


def _first(scene: Scene, index: int, rest: list[int]) -> str:
    """The side at which a thing comes before all others, clearly; "" for none."""

    def place(thing: Thing, side: str) -> float:
        axis, sign = SIDES[side]
        return sign * thing.centre[axis]

    own = scene.things[index]
    for side in ("left", "right"):
        if all(place(own, side) < place(scene.things[i], side) - 0.12 for i in rest):
            return side
    return ""


def _one_of(rng: np.random.Generator, *options: str) -> str:
    return str(options[rng.integers(len(options))])
