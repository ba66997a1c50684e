"""Drawn scenes, the sentences about them, and the splits that ship: what is said must be true."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from refdiff.evaluation import Scene, read_scenes, write_scenes
from refdiff.evaluation.report import halved
from refdiff.stickers import DATA, SPLITS
from refdiff.stickers.nouns import NOUNS
from refdiff.stickers.training.language import LANGUAGE
from refdiff.stickers.training.looks import COLOURS
from refdiff.stickers.training.scenes import SIZE, Drawing, draw_scene, paste
from refdiff.stickers.training.sentences import MAKERS, Sentence, caption, plural_of, sentences_for
from refdiff.stickers.training.splits import SENTENCES, draw_scenes, scene_of
from refdiff.stickers.training.sprites import HELD_OUT_STYLE, Sprites

KINDS = {"plain", "colour", "place", "size", "order", "relation", "plural", "absent"}
SHADES = {noun: 30 + 12 * i for i, noun in enumerate(("dog", "cat", "fish", "bus", "butterfly"))}


def sprites(lift: int = 0, style: str = HELD_OUT_STYLE) -> Sprites:
    """Five shapes in a flat shade each; `lift` makes all of them lighter by as much."""
    found = {}
    for corners, (noun, shade) in enumerate(SHADES.items(), 3):
        picture = Image.new("RGBA", (120, 90 + 10 * corners))
        ink = (shade + lift, 120 + lift, 140 - shade + lift, 255)
        circle = (60, picture.height // 2, 45)
        ImageDraw.Draw(picture).regular_polygon(circle, corners, fill=ink)
        found[noun] = [picture.crop(picture.getbbox())]
    return {style: found}


def scenes(count: int, lift: int = 0, augment: bool = False) -> list[Drawing]:
    cast = sprites(lift) | sprites(lift, "another")
    return [draw_scene(cast, np.random.default_rng(seed), augment) for seed in range(count)]


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return scenes(250)


# ---- scenes ----------------------------------------------------------------------------------


def test_scenes_of_things_alike_differ_in_their_noun_alone() -> None:
    one_style = sprites()
    both = one_style | {"other": sprites(style="other")["other"]}
    for seed in range(20):
        drawing = draw_scene(both, np.random.default_rng(seed), augment=True, alike=True)
        nouns = [thing.noun for thing in drawing.things]
        assert 2 <= len(nouns) == len(set(nouns))
        assert len({thing.colour for thing in drawing.things}) == 1 and drawing.things[0].colour
        sizes = [thing.size for thing in drawing.things]
        assert max(sizes) < 1.5 * min(sizes)


def test_a_whole_caption_names_every_thing(drawings: list[Drawing]) -> None:
    rng = np.random.default_rng(0)
    for drawing in drawings:
        if drawing.things:
            said = caption(scene_of(drawing), rng, whole=True)
            assert set(said.things) == set(range(len(drawing.things)))


def test_the_labels_are_exactly_what_is_seen(drawings: list[Drawing]) -> None:
    """The same scene with all stickers lighter differs where a sticker covers the picture."""
    lift, checked = 100, Counter[str]()
    for dark, light in zip(drawings, scenes(60, lift), strict=False):
        assert np.array_equal(dark.labels, light.labels)
        if any(thing.colour for thing in dark.things):
            continue
        pictures = [drawing.picture.astype(float) for drawing in (dark, light)]
        covered = (pictures[1] - pictures[0]).mean(-1) / lift
        assert covered[dark.labels > 0].min() > 0.48
        assert bool((dark.labels[covered > 0.9] > 0).all())
        for index, thing in enumerate(dark.things, 1):
            ink = np.array([SHADES[thing.noun], 120, 140 - SHADES[thing.noun]])
            plain = (np.abs(pictures[0] - ink).max(-1) < 3) & (covered > 0.98)
            same = [i for i, other in enumerate(dark.things, 1) if other.noun == thing.noun]
            assert bool(np.isin(dark.labels[plain], same).all())
            assert float(plain[dark.labels == index].mean()) > 0.7
            checked[thing.noun] += 1
    assert set(checked) == set(SHADES)


def test_the_later_sticker_is_on_top_and_cut_at_the_border() -> None:
    canvas, labels = np.zeros((SIZE, SIZE, 3), np.float32), np.zeros((SIZE, SIZE), np.uint8)
    square = np.ones((40, 40, 4), np.float32)
    for label, (place, value) in enumerate(
        (((10, 10), 0.5), ((30, 20), 1.0), ((240, 250), 0.7)), 1
    ):
        square[..., :3] = value
        paste(canvas, labels, square, place, label)
    assert [int((labels == label).sum()) for label in (1, 2, 3)] == [1600 - 20 * 30, 1600, 16 * 6]
    assert bool((labels[30:70, 20:60] == 2).all())
    for label, value in ((0, 0.0), (1, 0.5), (2, 1.0), (3, 0.7)):
        assert np.allclose(canvas[labels == label], value)


@pytest.mark.parametrize("augment", [False, True])
def test_the_same_seed_is_the_same_scene(augment: bool) -> None:
    first, again = scenes(8, augment=augment), scenes(8, augment=augment)
    for one, other in zip(first, again, strict=True):
        assert one.things == other.things
        assert np.array_equal(one.picture, other.picture)
        assert np.array_equal(one.labels, other.labels)
    assert len({one.picture.tobytes() for one in first}) == 8


def test_things_are_visible_inside_their_place_and_hardly_hidden(drawings: list[Drawing]) -> None:
    colours, counts, nouns = Counter[str | None](), Counter[int](), 0
    for drawing in [*drawings, *scenes(20, augment=True)]:
        assert drawing.picture.shape == (SIZE, SIZE, 3) and drawing.picture.dtype == np.uint8
        assert int(drawing.labels.max()) <= len(drawing.things)
        for index, thing in enumerate(drawing.things, 1):
            rows, columns = np.nonzero(drawing.labels == index)
            assert len(rows) > 60
            for centre, place in zip(thing.centre, (rows, columns), strict=True):
                assert centre * SIZE - thing.size / 2 - 1 <= place.min()
                assert place.max() <= centre * SIZE + thing.size / 2 + 1
            colours[thing.colour] += 1
        counts[len(drawing.things)] += 1
        nouns += len({thing.noun for thing in drawing.things}) < len(drawing.things)
    assert set(colours) == {None, *COLOURS} and set(counts) == {1, 2, 3, 4, 5}
    assert nouns > len(drawings) / 3  # repeated nouns are common


# ---- sentences -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What the masks alone tell of a thing: share of the picture, and its middle in 0..1."""

    noun: str
    colour: str | None
    area: float
    y: float
    x: float


def seen(noun: str, colour: str | None, mask: np.ndarray) -> Seen:
    rows, columns = np.nonzero(mask)
    middle = ((rows + 0.5).mean() / mask.shape[0], (columns + 0.5).mean() / mask.shape[1])
    return Seen(noun, colour, float(mask.mean()), float(middle[0]), float(middle[1]))


def read(scene: Scene) -> list[Seen]:
    masks = zip(scene.objects, scene.masks(), strict=True)
    return [seen(one.noun, one.colour, mask) for one, mask in masks]


ONE = {plural_of(noun): noun for noun in NOUNS} | {noun: noun for noun in NOUNS}
NAMED = r"\b(" + "|".join(sorted(ONE, key=len, reverse=True)) + r")\b"
AWAY: dict[str, Callable[[Seen], float]] = {
    "left": lambda one: one.x,
    "right": lambda one: -one.x,
    "top": lambda one: one.y,
    "bottom": lambda one: -one.y,
}
STANDS: dict[str, Callable[[Seen, Seen], bool]] = {
    "left of": lambda one, other: one.x < other.x,
    "to the left of": lambda one, other: one.x < other.x,
    "to the right of": lambda one, other: one.x > other.x,
    "above": lambda one, other: one.y < other.y,
    "below": lambda one, other: one.y > other.y,
}


def true(text: str, kind: str, meant: Sequence[int], things: Sequence[Seen]) -> bool:
    """Whether the sentence, read by itself, means these things and no other."""
    before, name, after = re.split(NAMED, text, maxsplit=1)
    words, noun = before.split(), ONE[name]
    tone = next((word for word in words if word in COLOURS), None)
    same = [i for i, one in enumerate(things) if one.noun == noun]
    fit = [i for i in same if tone in (None, things[i].colour)]
    if kind == "absent":
        return not same and not meant
    if kind == "plural":
        exact = len(fit) == 2 or not {"both", "two"} & set(words)
        told = name != noun or "all" in words or "both" in words or "two" in words
        return len(fit) > 1 and sorted(meant) == fit and name == plural_of(noun) and exact and told
    if kind in ("plain", "colour"):
        unclear = tone and any(things[i].colour is None for i in same)
        return (
            list(meant) == fit
            and len(fit) == 1
            and bool(tone) == (kind == "colour")
            and not unclear
        )
    return len(same) > 1 and list(meant) == [picked(kind, words, after.split(), fit, things)]


def picked(
    kind: str, before: list[str], after: list[str], fit: list[int], things: Sequence[Seen]
) -> int:
    """The one that the words around the noun pick out."""
    if kind == "size":
        areas = sorted(fit, key=lambda i: things[i].area, reverse="small" not in before[-1])
        return areas[0]
    if kind == "relation":
        words, anchor = " ".join(after[:-2]), after[-1]
        (other,) = (one for one in things if one.noun == anchor)
        if words in STANDS:
            (only,) = (i for i in fit if STANDS[words](things[i], other))
            return only
        assert words in ("next to", "near", "beside")
        return min(fit, key=lambda i: np.hypot(things[i].x - other.x, things[i].y - other.y))
    side = next(word.removesuffix("most") for word in reversed(before + after) if word != "the")
    side = side if side in AWAY else next(w.removesuffix("most") for w in before if w[:3] != "the")
    row = sorted(fit, key=lambda i: AWAY[side](things[i]))
    return row[("first", "second", "third").index(before[-1])] if kind == "order" else row[0]


def things_of(drawing: Drawing) -> list[Seen]:
    return [
        seen(thing.noun, thing.colour, drawing.labels == index)
        for index, thing in enumerate(drawing.things, 1)
    ]


def test_every_sentence_is_true(drawings: list[Drawing]) -> None:
    kinds, rng = Counter[str](), np.random.default_rng(5)
    for drawing in drawings:
        things, scene = things_of(drawing), scene_of(drawing)
        for one in sentences_for(scene, rng, MAKERS):
            assert true(one.text, one.kind, one.things, things), (one, things)
            check_mentions(one, things)
            kinds[one.kind] += 1
    assert set(kinds) == KINDS == set(MAKERS) and min(kinds.values()) >= 20


def check_mentions(sentence: Sentence, things: Sequence[Seen]) -> None:
    """Every noun of the text is a mention, of things of this noun, which hold what is meant."""
    spans = [match.span() for match in re.finditer(NAMED, sentence.text)]
    assert [(mention.start, mention.end) for mention in sentence.mentions] == spans
    for mention in sentence.mentions:
        noun = ONE[sentence.text[mention.start : mention.end]]
        assert {things[i].noun for i in mention.things} <= {noun}
    assert set(sentence.things) <= {i for one in sentence.mentions for i in one.things}


def test_captions_name_everything_once(drawings: list[Drawing]) -> None:
    numbers, rng = {"a": 1, "the": 1, "two": 2, "three": 3, "four": 4}, np.random.default_rng(6)
    whole = 0
    for drawing in drawings:
        things, said = things_of(drawing), caption(scene_of(drawing), rng)
        check_mentions(said, things)
        assert len(set(said.things)) == len(said.things)
        assert sum(len(mention.things) for mention in said.mentions) == len(said.things)
        whole += len(said.things) == len(things)
        start = 0
        for mention in said.mentions:
            words = re.sub(
                r"^(a picture|a photo|stickers) of|,|\band\b", "", said.text[start : mention.start]
            )
            amount, *rest = words.split()
            assert len(mention.things) == numbers.get(amount, len(mention.things))
            tones = {things[i].colour for i in mention.things}
            assert not set(rest) & set(COLOURS) or tones == set(rest) & set(COLOURS)
            start = mention.end
    assert 0.4 * len(drawings) < whole < len(drawings)


def test_plurals() -> None:
    wanted = {"bus": "buses", "butterfly": "butterflies", "fish": "fish", "cat": "cats"}
    assert {noun: plural_of(noun) for noun in wanted} == wanted


# ---- splits ----------------------------------------------------------------------------------


def test_a_split_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    entries = list(islice(draw_scenes(sprites(), np.random.default_rng(3)), 12))
    write_scenes(tmp_path, iter(entries))
    found = read_scenes(tmp_path)
    assert len(found) == 12
    for (picture, objects, sentences), scene in zip(entries, found, strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(scene.picture()))
        assert list(scene.objects) == objects and list(scene.sentences) == sentences
        things = read(scene)
        assert all(true(one.text, one.kind, one.objects, things) for one in sentences)
        assert len({one.kind for one in sentences}) == SENTENCES
        assert int(scene.masks().sum(0).max()) == 1
    assert len({one.kind for scene in found for one in scene.sentences}) >= 6


@pytest.mark.parametrize("split", ("validation", "test"))
def test_the_shipped_splits_keep_their_promises(split: str) -> None:
    found = read_scenes(DATA / split)
    assert len(found) >= 300
    kinds = Counter[str]()
    for scene in found:
        masks = scene.masks()
        assert masks.shape[1:] == (SIZE, SIZE) and masks.any((1, 2)).all()
        assert int(masks.sum(0).max()) == 1
        things = read(scene)
        assert {one.noun for one in things} <= set(NOUNS)
        for one in scene.sentences:
            assert true(one.text, one.kind, one.objects, things), (scene.image, one, things)
            kinds[one.kind] += 1
    assert set(kinds) == KINDS and min(kinds.values()) >= 50


def test_the_shipped_splits_share_no_picture() -> None:
    digests = [
        hashlib.sha256(scene.image.read_bytes()).digest()
        for split in SPLITS
        for scene in read_scenes(DATA / split)
    ]
    assert len(set(digests)) == len(digests) == 740


CORNERS = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
RANKS = ("first", "second", "third")
COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}


def means(text: str, kind: str, things: Sequence[Seen]) -> set[int]:
    """What a sentence of the split "language" means, read off the masks."""
    named = [ONE[name] for name in re.findall(NAMED, text)]
    kin = [i for i, one in enumerate(things) if one.noun in named]
    if kind in ("list", "part"):
        return set(kin)
    words = text.replace(".", " ").split()
    tone = next((word for word in words if word in COLOURS), None)
    side = next((word for word in reversed(words) if word in AWAY), "left")
    if kind == "no noun":
        return {lone(text, words, things, tone, side)}
    row = sorted(kin, key=lambda i: AWAY[side](things[i]))
    if kind == "count":
        return set(row[:2] if "first" in words else row[-2:] if "last" in words else row)
    return {i for i in kin if things[i].colour != tone} if tone else set(row[1:])


def lone(text: str, words: list[str], things: Sequence[Seen], tone: str | None, side: str) -> int:
    everything = range(len(things))
    if tone:
        (only,) = (i for i in everything if things[i].colour == tone)
        return only
    if text in CORNERS:
        y, x = CORNERS[text]
        return min(everything, key=lambda i: np.hypot(things[i].y - y, things[i].x - x))
    if words[0] in RANKS:
        return sorted(everything, key=lambda i: AWAY[side](things[i]))[RANKS.index(words[0])]
    area = {"small": min, "big": max, "large": max}
    pick = next(area[size] for size in area if size in text)
    return pick(everything, key=lambda i: things[i].area)


def test_the_split_of_language_says_what_is_there() -> None:
    kinds = Counter[str]()
    for scene in read_scenes(DATA / "language"):
        things = read(scene)
        for one in scene.sentences:
            assert means(one.text, one.kind, things) == set(one.objects), (scene.image, one)
            assert bool(one.half) == (one.kind == "part") and one.half in one.text
            counted = next((COUNTS[word] for word in one.text.split() if word in COUNTS), None)
            assert counted is None or 2 <= len(one.objects) <= counted
            kinds[one.kind] += 1
    assert set(kinds) == set(LANGUAGE) and min(kinds.values()) == 40


def test_half_of_a_thing_is_what_its_part_means() -> None:
    scene = read_scenes(DATA / "language")[0]
    said = next(one for one in scene.sentences if one.half)
    whole, half = scene.masks(), halved(scene.masks(), said)
    (index,) = said.objects
    assert half[index].sum() < whole[index].sum() and not (half[index] & ~whole[index]).any()
    rest = [i for i in range(len(whole)) if i != index]
    assert np.array_equal(half[rest], whole[rest])
