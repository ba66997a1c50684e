"""What people type, and what it should be taken to mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import pytest

from refdiff.expression import Expression, Word, parse

parsed = cache(parse)


@dataclass(frozen=True)
class Wanted:
    """What a phrase means; `relations` maps a kind to the anchors' words."""

    root: str
    places: str = ""
    order: tuple[int, str] | None = None
    size: str | None = None
    number: int | None = 1
    relations: tuple[tuple[str, str], ...] = ()
    modifiers: str = ""
    also: str = ""
    others: str | None = None  # None: the anchors


def near(kind: str, anchors: str) -> tuple[tuple[str, str], ...]:
    return ((kind, anchors),)


W = Wanted
PHRASES = {
    # plain nouns and modifiers
    "the red cat": W("cat", modifiers="red"),
    "bright red hat": W("hat", modifiers="bright red"),
    "copyright sign": W("sign", modifiers="copyright"),
    "black and white cat": W("cat", modifiers="black white"),
    "light blue car": W("car", modifiers="light blue"),
    "the orange": W("orange"),
    "orange cat": W("cat", modifiers="orange"),
    "the orange on the table": W("orange", relations=near("on", "table")),
    "stop sign": W("sign", modifiers="stop"),
    "fire hydrant": W("hydrant", modifiers="fire"),
    "the dark-haired woman": W("woman", modifiers="dark-haired"),
    "the running dog": W("dog", modifiers="running"),
    "man in red": W("man", modifiers="red"),
    "the cat is red": W("cat", modifiers="red"),
    "fish that is purple": W("fish", modifiers="purple"),
    "sks": W("sks"),
    "quickly": W("quickly"),
    "embedding:foo on the left": W("embedding:foo", "left"),
    "1girl, red hat": W("1girl", relations=near("with", "hat")),
    "2girls": W("2girls", number=2),
    "猫 on the left": W("猫", "left"),
    "🐱 on the left": W("🐱", "left"),
    "café": W("café"),
    # places
    "the red cat on the left": W("cat", "left", modifiers="red"),
    "left cat": W("cat", "left"),
    "left": W("", "left"),
    "second from left": W("", order=(2, "left")),
    "on the table": W("", relations=near("on", "table")),
    "wearing red": W("", modifiers="wearing red"),
    "the one on the left": W("one", "left"),
    "dog far right": W("dog", "right"),
    "red cup left": W("cup", "left", modifiers="red"),
    "LEFT CAT": W("CAT", "left"),
    "leftmost tree": W("tree", "left"),
    "the left-most tree": W("tree", "left"),
    "top-left cup": W("cup", "top left"),
    "middle apple": W("apple", "middle"),
    "apple in the center": W("apple", "middle"),
    "cup in the top right corner": W("cup", "top right"),
    "lower left fish": W("fish", "bottom left"),
    "small blue car at the top": W("car", "top", size="small", modifiers="blue"),
    "the dog on the left of the picture": W("dog", "left"),
    "dog on the left hand side": W("dog", "left"),
    "on the left the cat": W("cat", "left"),
    "the cat is on the left": W("cat", "left"),
    "the dog that is on the left": W("dog", "left"),
    "cat (left)": W("cat", "left"),
    "the red cat on the left!!!": W("cat", "left", modifiers="red"),
    "person in the back on the left": W("person", "left", relations=near("behind", "")),
    "his left hand": W("hand", "left"),
    "man in a red top": W("man", relations=near("with", "top")),
    "bird on top": W("bird", "top"),
    "the cat on the left, the dog on the right": W("cat", "left", also="dog"),
    # size
    "biggest cat": W("cat", size="big"),
    "the smaller dog": W("dog", size="small"),
    "tall man": W("man", size="tall"),
    "the cat is small and red": W("cat", size="small", modifiers="red"),
    "the shorter of the two men": W("men", size="short"),
    # order
    "second cup from the right": W("cup", order=(2, "right")),
    "third cup": W("cup", order=(3, "left")),
    "last cup on the right": W("cup", "right", order=(-1, "left")),
    "last one on the left": W("one", "left", order=(-1, "right")),
    "guy in red shirt second from left": W(
        "guy", order=(2, "left"), relations=near("with", "shirt")
    ),
    "3rd balloon from the bottom": W("balloon", order=(3, "bottom")),
    "second biggest dog": W("dog", order=(2, "big")),
    "second small red cat from the left": W(
        "cat", order=(2, "left"), size="small", modifiers="red"
    ),
    "second cup in the top row": W("cup", "top", order=(2, "left")),
    "first two cups": W("cups", order=(1, "left"), number=2),
    "the second of the cups": W("cups", order=(2, "left")),
    # number
    "two dogs": W("dogs", number=2),
    "3 dogs": W("dogs", number=3),
    "both cats": W("cats", number=2),
    "all apples": W("apples", number=None),
    "all of the cats": W("cats", number=None),
    "all the fish": W("fish", number=None),
    "every bus": W("bus", number=None),
    "dogs": W("dogs", number=None),
    "people on the right": W("people", "right", number=None),
    "two of the dogs": W("dogs", number=2),
    "one of the dogs": W("dogs", number=1),
    "a pair of shoes": W("shoes", number=2),
    "a group of people": W("people", number=None),
    "everything on the left": W("everything", "left", number=None),
    "the jeans": W("jeans"),
    "a bus": W("bus"),
    # several targets
    "the cat and the dog": W("cat", also="dog"),
    "cat & dog": W("cat", also="dog"),
    "a dog, a cat and a bird": W("dog", also="cat bird"),
    "the red cup and the blue one": W("cup", modifiers="red", also="one"),
    "the cat on the left and the dog on the right": W("cat", "left", also="dog"),
    "both the cat and the dog": W("cat", also="dog"),
    # relations
    "a man wearing a hat": W("man", relations=near("with", "hat")),
    "the man's hat": W("hat", relations=near("with", "man")),
    "the man\u2019s hat": W("hat", relations=near("with", "man")),
    "the cat's and the dog's bowls": W("bowls", number=None, relations=near("with", "cat dog")),
    "the man's hat on the left": W("hat", "left", relations=near("with", "man")),
    "frog next to the man's hat": W("frog", relations=near("near", "hat"), others="hat man"),
    "handle of the mug": W("handle", relations=near("with", "mug")),
    "the cat left of the dog": W("cat", relations=near("left of", "dog")),
    "cat to the left of the dog": W("cat", relations=near("left of", "dog")),
    "cat on the right side of the dog": W("cat", relations=near("right of", "dog")),
    "frog next to the pizza": W("frog", relations=near("near", "pizza")),
    "book between the cup and the hat": W("book", relations=near("between", "cup hat")),
    "the bird above the house": W("bird", relations=near("above", "house")),
    "shoe under the clock": W("shoe", relations=near("below", "clock")),
    "the cat in front of the house": W("cat", relations=near("in front of", "house")),
    "blue car behind the bus": W("car", modifiers="blue", relations=near("behind", "bus")),
    "the cup on top of the book": W("cup", relations=near("on", "book")),
    "bananas in the bowl": W("bananas", number=None, relations=near("in", "bowl")),
    "the front car": W("car", relations=near("in front of", "")),
    "dog closest to the camera": W("dog", relations=near("in front of", "")),
    "the dog closest to the tree": W("dog", relations=near("near", "tree")),
    "small dog left of big dog": W("dog", size="small", relations=near("left of", "dog")),
    "next to the car there is a dog": W("dog", relations=near("near", "car")),
    "woman on the left holding an umbrella": W("woman", "left", relations=near("with", "umbrella")),
    "what's next to the tree": W("what", relations=near("near", "tree")),
    # what is denied
    "not red cat": W("cat"),
    "the cat that is not red": W("cat"),
    "the cat that isn't small": W("cat"),
    "neither red nor blue cat": W("cat"),
    "dog not on the left": W("dog"),
    "the cat not next to the dog": W("cat"),
    "cat with no hat": W("cat"),
    "man not wearing a hat": W("man"),
    "the cat but not the dog": W("cat"),
    # sentences, commands, captions
    "cat that is sleeping": W("cat", modifiers="sleeping"),
    "the dog is chasing a ball": W("dog", relations=near("near", "ball")),
    "there is a dog near the car": W("dog", relations=near("near", "car")),
    "find the red car": W("car", modifiers="red"),
    "find red car": W("car", modifiers="red"),
    "select the dog on the right": W("dog", "right"),
    "segment the cup": W("cup"),
    "crop the dog": W("dog"),
    "please show me the dog on the left.": W("dog", "left"),
    "where is the small dog?": W("dog", size="small"),
    "i'm looking for the cat": W("cat"),
    "can you find the car next to the tree?": W("car", relations=near("near", "tree")),
    "a photo of a small bird": W("bird", size="small"),
    "mask on the left": W("mask", "left"),
    # words on the picture's quality
    "masterpiece, best quality, 1girl": W("1girl"),
    "(masterpiece:1.2), 8k, highres, a dog on the beach": W("dog", relations=near("on", "beach")),
    "a dog, best quality, absurdres": W("dog"),
    "high quality photo of a cat": W("cat"),
    "masterpiece on the left": W("masterpiece", "left"),
    # what something does
    "fish swimming": W("fish", modifiers="swimming"),
    "swimming fish": W("fish", modifiers="swimming"),
    "dog run": W("dog", modifiers="run"),
    "a dog running": W("dog", modifiers="running"),
    "dog barking at the cat": W("dog", modifiers="barking", relations=near("near", "cat")),
    "person swimming pool": W("pool", modifiers="person swimming"),
    "a brick building": W("building", modifiers="brick"),
    "diamond ring": W("ring", modifiers="diamond"),
    "cat lying down": W("cat", modifiers="lying down"),
    # nouns that a small tagger takes for verbs or adjectives
    "the fish": W("fish"),
    "red fish": W("fish", modifiers="red"),
    "the purple fish": W("fish", modifiers="purple"),
    "train on the left": W("train", "left"),
    "yellow train": W("train", modifiers="yellow"),
    "fish next to the boat": W("fish", relations=near("near", "boat")),
    "orange": W("orange"),
}


@pytest.mark.parametrize("text", PHRASES)
def test_phrase(text: str) -> None:
    wanted, found = PHRASES[text], parsed(text)
    anchors = " ".join(names for _, names in wanted.relations)
    others = anchors if wanted.others is None else wanted.others
    assert found.root.word.text == wanted.root
    assert said(place.side for place in found.places) == wanted.places
    assert (found.size.kind if found.size else None) == wanted.size
    assert ((found.order.rank, found.order.side) if found.order else None) == wanted.order
    assert found.number == wanted.number
    related = [(r.kind, said(noun.word.text for noun in r.anchors)) for r in found.relations]
    assert related == list(wanted.relations)
    assert said(word.text for word in found.root.modifiers) == wanted.modifiers
    assert said(noun.word.text for noun in found.also) == wanted.also
    assert said(noun.word.text for noun in found.others) == others.strip()


def said(words: Iterable[str]) -> str:
    return " ".join(words)


@pytest.mark.parametrize("text", [*PHRASES, "  the   cat\n on\tthe left  ", "İ cat", "x" * 400])
def test_words_stand_where_they_say(text: str) -> None:
    for word in every_word(parsed(text)):
        assert text[word.start : word.end] == word.text
        assert (
            word.text or word == parsed(text).root.word
        )  # a text without a noun looks for any thing


def every_word(found: Expression) -> list[Word]:
    return [*found.ignored, *found.words()]


FUNCTION = set(
    "the a an of on in at to from is are that this there and please me i you can where it his one "
    "two three both all every first second third last group pair everything hand side row half "
    "corner picture photo with who for far rd most camera what down but isn".split()
)


@pytest.mark.parametrize("text", PHRASES)
def test_no_content_word_is_dropped_silently(text: str) -> None:
    found = parsed(text)
    if found.order:
        text = text.replace(f"from the {found.order.side}", "")
        text = text.replace(f"from {found.order.side}", "")
    kept = " ".join(word.text.lower() for word in every_word(found))
    for word in re.findall(r"[^\W\d_]{2,}", text.lower()):
        assert word in kept or word in FUNCTION, f"{word!r} of {text!r} is nowhere"
