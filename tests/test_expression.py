"""What people type, and what it should be taken to mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from refdiff.errors import WordError
from refdiff.expression import Expression, Noun, Word, parse, with_root


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
    "1girl, red hat": W("1girl", others="hat"),
    "2girls": W("2girls", number=2),
    "猫 on the left": W("猫", "left"),
    "🐱 on the left": W("🐱", "left"),
    "café": W("café"),
    # places
    "the red cat on the left": W("cat", "left", modifiers="red"),
    "left cat": W("cat", "left"),
    "left": W("left", "left"),
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
    "left side of the house": W("house", "left"),
    "the right half of the pizza": W("pizza", "right"),
    "on the left the cat": W("cat", "left"),
    "the cat is on the left": W("cat", "left"),
    "the dog that is on the left": W("dog", "left"),
    "cat (left)": W("cat", "left"),
    "the red cat on the left!!!": W("cat", "left", modifiers="red"),
    "person in the back on the left": W("person", "left", relations=near("behind", "")),
    "his left hand": W("hand", "left"),
    "man in a red top": W("man", relations=near("with", "top")),
    "bird on top": W("bird", "top"),
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
    # relations
    "a man wearing a hat": W("man", relations=near("with", "hat")),
    "man not wearing a hat": W("man", relations=near("other", "hat")),
    "the man's hat": W("hat", relations=near("with", "man")),
    "the man\u2019s hat": W("hat", relations=near("with", "man")),
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
    # sentences, commands, captions
    "cat that is sleeping": W("cat"),
    "the dog is chasing a ball": W("dog", relations=near("other", "ball")),
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
    wanted, found = PHRASES[text], parse(text)
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


NOUNS = (
    "dog cat apple car tree fish bird frog pizza banana house guitar flower mushroom pig cow bear "
    "rabbit turtle elephant bicycle rocket umbrella balloon cake cup strawberry carrot snowman "
    "butterfly penguin chicken bus train boat airplane clock book hat shoe"
).split()
COLOURS = "red green blue yellow purple white black".split()
PLURALS = {
    "fish": "fish",
    "strawberry": "strawberries",
    "butterfly": "butterflies",
    "bus": "buses",
    "snowman": "snowmen",
}
TEMPLATES = {
    "the {colour} {noun}": 1,
    "a small {colour} {noun} at the top": 1,
    "{noun} on the left": 1,
    "the {noun} next to the {other}": 1,
    "second {noun} from the right": 1,
    "the {noun} to the left of the {other}": 1,
    "the {noun} above the {other}": 1,
    "biggest {noun}": 1,
    "{colour} {noun} {side}": 1,
    "all {plural}": None,
    "both {plural}": 2,
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_noun_in_every_template(template: str) -> None:
    wrong = []
    for index, noun in enumerate(NOUNS):
        plural, other = PLURALS.get(noun, f"{noun}s"), NOUNS[(index + 7) % len(NOUNS)]
        for colour in COLOURS if "{colour}" in template else COLOURS[:1]:
            words = {"colour": colour, "noun": noun, "plural": plural, "other": other}
            text = template.format(**words, side="left")
            found = parse(text)
            root = plural if "{plural}" in template else noun
            colours = [colour] if "{colour}" in template else []
            others = [other] if "{other}" in template else []
            if (
                (found.root.word.text, found.root.lemma) != (root, noun)
                or [word.text for word in found.root.modifiers] != colours
                or [noun.word.text for noun in found.others] != others
                or found.number != TEMPLATES[template]
                or found.ignored
            ):
                wrong.append((text, found.summary()))
    assert not wrong


@pytest.mark.parametrize("text", [*PHRASES, "  the   cat\n on\tthe left  ", "İ cat", "x" * 400])
def test_words_stand_where_they_say(text: str) -> None:
    for word in every_word(parse(text)):
        assert text[word.start : word.end] == word.text != ""


def every_word(found: Expression) -> list[Word]:
    nouns: list[Noun] = [found.root, *found.also, *found.others]
    nouns += [noun for relation in found.relations for noun in relation.anchors]
    words = [word for noun in nouns for word in (noun.word, *noun.modifiers)]
    words += [place.word for place in found.places]
    words += [relation.word for relation in found.relations]
    return [*words, *found.ignored, *([found.size.word] if found.size else [])]


FUNCTION = set(
    "the a an of on in at to from is are that this there and please me i you can where it his one "
    "two three both all every first second third last group pair everything hand side row half "
    "corner picture photo with who for far rd most camera".split()
)


@pytest.mark.parametrize("text", PHRASES)
def test_no_content_word_is_dropped_silently(text: str) -> None:
    found = parse(text)
    if found.order:
        text = text.replace(f"from the {found.order.side}", "").replace("biggest", "")
        text = text.replace(f"from {found.order.side}", "")
    kept = " ".join(word.text.lower() for word in every_word(found))
    for word in re.findall(r"[^\W\d_]{2,}", text.lower()):
        assert word in kept or word in FUNCTION, f"{word!r} of {text!r} is nowhere"


def test_what_is_understood_and_not_used_is_listed() -> None:
    assert [word.text for word in parse("cat that is sleeping").ignored] == ["sleeping"]
    assert [word.text for word in parse("dog not on the left").ignored] == ["not"]
    assert [word.text for word in parse("cat left of the small dog").ignored] == ["small"]
    assert parse("the red cat on the left").ignored == ()


def test_the_phrase_says_what_it_is_and_nothing_else() -> None:
    assert parse("the two small red cats on the left").root.phrase == "red cats"
    assert parse("The Second RED Cup").root.phrase == "RED Cup"
    assert parse("cat next to the big blue car").others[0].phrase == "blue car"


def test_superlatives() -> None:
    small, smaller = parse("small dog").size, parse("smaller dog").size
    assert small is not None and not small.superlative
    assert smaller is not None and smaller.superlative


@pytest.mark.parametrize("text", ["", "   ", "\n", "?!", "..."])
def test_empty_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write what to look for, such as"):
        parse(text)


@pytest.mark.parametrize("text", ["very quickly", "of the", "next to"])
def test_several_words_without_a_noun_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no thing; write a noun"):
        parse(text)


def test_a_long_text_is_read_to_its_end() -> None:
    text = "the red cat " + "next to the blue car " * 19 + "on the left"
    found = parse(text)
    assert len(text.split()) > 100 - 6
    assert found.root.word == Word("cat", 8, 11)
    assert [place.side for place in found.places] == ["left"]
    assert len(found.relations) == 19


def test_summary_and_dict() -> None:
    found = parse("the red cat on the left next to two sleeping dogs")
    line = found.summary()
    assert "Looks for: cat (modifiers: red)." in line and "Place: left." in line
    assert "Other nouns: dogs" in line and "Not used: two." in line
    again = json.loads(json.dumps(found.to_dict()))
    assert again["root"]["word"] == {"text": "cat", "start": 8, "end": 11}
    assert again["places"][0]["side"] == "left" and again["summary"] == line
    assert "How many: all." in parse("all cats").summary()


def test_with_root_looks_at_another_noun_of_the_text() -> None:
    found = with_root(parse("the red cat next to the blue Car"), "car")
    assert found.root.word.text == "Car" and found.root.phrase == "blue Car"
    assert [noun.word.text for noun in found.others] == ["cat"]
    assert found.relations == ()


def test_with_root_takes_any_word_or_phrase() -> None:
    found = with_root(parse("a photo of sks dog, red hat"), "SKS dog")
    assert found.root.word == Word("sks dog", 11, 18)
    assert [noun.word.text for noun in found.others] == ["hat"]
    plain = parse("the red cat")
    assert with_root(plain, "cat") == plain


@pytest.mark.parametrize("word", ["ca", "dog", "", " "])
def test_with_root_refuses_what_the_text_lacks(word: str) -> None:
    with pytest.raises(WordError, match="name a word that stands in it"):
        with_root(parse("the red cat"), word)
