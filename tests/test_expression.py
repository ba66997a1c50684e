"""Sentences made of parts, several targets, what is left over, and another root."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from refdiff.errors import WordError
from refdiff.expression import Expression, Order, Word, parse, with_root
from refdiff.language import parser
from refdiff.language.meaning import denied
from refdiff.language.spelling import clip_words, suggestion

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
    "{noun} running": 1,
    "{noun} swimming on the left": 1,
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
            colours += [word for word in template.split() if word.endswith("ing")]
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


def test_what_is_understood_and_not_used_is_listed() -> None:
    assert ignored("the only cat") == ["only"]
    assert ignored("cat next to two dogs") == ["two"]
    assert ignored("a girl, solo, red sky") == ["solo", "red sky"]
    assert ignored("replace the sky with clouds") == ["replace", "with", "clouds"]
    assert ignored("masterpiece, 8k, a dog") == ["masterpiece", "8k"]
    assert ignored("the red cat on the left") == []


DENIED = {
    "everything except the dog": "dog",
    "everything but the dog and the cat": "dog; cat",
    "all but the left one": "thing (left)",
    "all the sheep apart from the black one": "black sheep",
    "the bananas, not the apples": "apples",
    "the red car, not the blue one": "blue car",
    "not red cat": "red cat",
    "the cat that is not big and red": "red cat (big)",
    "dog not on the left": "dog (left)",
    "the cat, not red, on the left": "red cat",
    "man not wearing a hat": "man wearing hat (with hat)",
    "horse w/o rider": "horse (with rider)",
    "no hat guy": "guy (with hat)",
    "the dog that isn't sleeping": "dog sleeping",
    "neither red nor blue cat": "red cat; blue cat",
    "dog not near the tree": "dog (near tree)",
    "the dog": "",
}


@pytest.mark.parametrize("text", DENIED)
def test_what_is_not_wanted_is_a_field_of_its_own(text: str) -> None:
    found = parse(text)
    assert "; ".join(denied(one) for one in found.excluded) == DENIED[text]
    assert not found.ignored and not found.relations


def test_everything_but_something_is_a_complement() -> None:
    assert parse("everything except the dog").complement
    assert not parse("all but the left one").complement  # things, less one of them
    assert not parse("all the sheep apart from the black one").complement


PARTS = {
    "top half of the sandwich": ("sandwich", ("top",), 0.5),
    "bottom part of the screen": ("screen", ("bottom",), 0.5),
    "right side of the pizza": ("pizza", ("right",), 0.5),
    "bottom left corner of the table": ("table", ("bottom", "left"), 0.4),
    "the dog's left half": ("dog", ("left",), 0.5),
}


@pytest.mark.parametrize("text", PARTS)
def test_a_region_of_a_thing_is_a_part(text: str) -> None:
    found = parse(text)
    assert found.part is not None and not found.places
    assert (found.root.word.text, found.part.sides, found.part.share) == PARTS[text]


def test_a_side_that_may_be_a_place_says_so() -> None:
    assert "pizza on the right" in parse("right side of the pizza").notes[0]
    assert not parse("left side of the picture").part
    assert parse("left half of the pizza").notes == ()


LISTS = {
    "face, hair, neck": "face hair neck",
    "cat. dog. bird.": "cat dog bird",
    "cat / dog": "cat dog",
    "[cat|dog]": "cat dog",
    "dogs on the left and right": "dogs dogs",
    "guy, white shirt": "guy",
    "man, left": "man",
    "masterpiece, best quality, a girl with red hair": "girl",
    "a dog, sitting on a bench, park": "dog",
}


@pytest.mark.parametrize("text", LISTS)
def test_lists_are_told_from_captions(text: str) -> None:
    found = parse(text)
    assert " ".join(one.root.word.text for one in found.targets()) == LISTS[text]


def test_the_reading_of_commas_is_said() -> None:
    assert parse("person, bicycle").notes == ("read as a list: each of its things is looked for",)
    assert "caption" in parse("a dog, sitting on a bench, park").notes[0]


@pytest.mark.parametrize("text", ["second from left", "bottom left", "on the table", "closest one"])
def test_a_text_without_a_noun_looks_for_any_thing(text: str) -> None:
    assert parse(text).root.anything and not parse(text).ignored


def test_what_clip_reads() -> None:
    phrases = {
        "dog jumping on the left": "dog jumping",
        "guy in blue": "guy in blue",
        "woman wearing a red hat": "woman wearing red hat",
        "bear climbing tree": "bear climbing tree",
        "the dark one": "dark one",
        "the cat next to the tree": "cat",
        "bus 42": "bus 42",
        "long sleeved shirt": "long sleeved shirt",
    }
    assert {text: parse(text).root.phrase for text in phrases} == phrases


def test_an_anchor_keeps_what_is_said_of_it() -> None:
    (near,) = parse("small plate next to the big plate").relations
    assert near.anchors[0].size is not None and near.anchors[0].size.kind == "big"
    (near,) = parse("cat next to the left dog").relations
    assert [place.side for place in near.anchors[0].places] == ["left"]
    (near,) = parse("woman next to the man in a hat").relations
    assert near.anchors[0].relations[0].anchors[0].word.text == "hat"


@pytest.mark.parametrize(
    "text",
    ["(red cat:1.2)", "red cat++", "<lora:fur:0.8> red cat", "[red cat]", "red_cat", "red cat 🐱",
     "red cat, ", "((red cat))", "\\(red cat\\)", "(red cat:1.2), masterpiece, best quality"],
)  # fmt: skip
def test_the_notation_of_prompts_changes_nothing(text: str) -> None:
    root = parse(text).root
    assert (root.word.text, root.phrase) == ("cat", "red cat")
    assert text[root.word.start : root.word.end] == "cat"


@pytest.mark.parametrize(
    "text", ["кошка слева", "der rote Hund links", "el gato rojo", "两只猫", "la femme en rouge"]
)
def test_a_text_in_another_language_is_read_and_says_so(text: str) -> None:
    found = parse(text)
    assert "only English is read" in found.notes[-1] and found.root.word.text


def test_a_misspelt_word_gets_a_suggestion() -> None:
    words = clip_words()
    assert suggestion("umberella", words) == (
        "'umberella' is not a word the model knows; umbrella?"
    )
    known = "umbrella hydrant skateboarder giraffe dogs sks 1girl batter".split()
    assert not [word for word in known if suggestion(word, words)]


def test_the_report_names_who_tagged_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "spaCy" in parse("cat").parser
    monkeypatch.setattr(parser, "PARSERS", ())
    parser.tagger_model.cache_clear()
    try:
        assert parse("the red cat on the left").parser == "own rules"
        assert parse("the red cat on the left").root.phrase == "red cat"
    finally:
        monkeypatch.undo()
        parser.tagger_model.cache_clear()


def ignored(text: str) -> list[str]:
    return [word.text for word in parse(text).ignored]


Told = tuple[str, str, str]  # a target's noun, places and size, and the anchors of its relations
TARGETS: dict[str, list[Told]] = {
    "cat on the left and dog on the right": [("cat", "left", ""), ("dog", "right", "")],
    "the cat and the dog on the left": [("cat", "left", ""), ("dog", "left", "")],
    "on the left the cat and the dog": [("cat", "left", ""), ("dog", "left", "")],
    "the cat on the left and the dog": [("cat", "left", ""), ("dog", "", "")],
    "the small cat and the big dog": [("cat", "small", ""), ("dog", "big", "")],
    "the small cat and the dog on the right": [("cat", "small", ""), ("dog", "right", "")],
    "a dog, a cat and a bird at the top": [(noun, "top", "") for noun in ("dog", "cat", "bird")],
    "the cat next to the tree and the dog next to the car": [
        ("cat", "", "tree"),
        ("dog", "", "car"),
    ],
    "man with a hat and a woman with an umbrella": [("man", "", "hat"), ("woman", "", "umbrella")],
    "the man with a hat and an umbrella": [("man", "", "hat umbrella")],
    "the man's hat and the woman's dog": [("hat", "", "man"), ("dog", "", "woman")],
    "the dog between the cat and the bird": [("dog", "", "cat bird")],
    "the red cat": [("cat", "", "")],
}


@pytest.mark.parametrize("text", TARGETS)
def test_each_target_keeps_what_is_said_of_it(text: str) -> None:
    found = parse(text)
    assert [told(target) for target in found.targets()] == TARGETS[text]
    assert [target.root for target in found.targets()] == [found.root, *found.also]
    assert {target.text for target in found.targets()} == {text}
    assert not any(target.also or target.further for target in found.targets())
    assert found.ignored == ()


def told(target: Expression) -> Told:
    where = [place.side for place in target.places] + ([target.size.kind] if target.size else [])
    anchors = [noun.word.text for relation in target.relations for noun in relation.anchors]
    return target.root.word.text, " ".join(where), " ".join(anchors)


def test_each_target_has_its_own_number_and_order() -> None:
    cats, dog = parse("two cats and a dog on the left").targets()
    assert (cats.number, dog.number) == (2, 1)
    cup, hat = parse("second cup from the right and the first hat").targets()
    assert (cup.order, hat.order) == (Order(2, "right"), Order(1, "left"))


def test_targets_made_by_hand_share_what_is_said_of_the_root() -> None:
    left = parse("the cat on the left")
    dog = parse("dog").root
    cat, other = replace(left, also=(dog,)).targets()
    assert cat == left and other == replace(left, root=dog)


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


def test_the_summary_tells_targets_apart_only_where_they_differ() -> None:
    shared = parse("the cat and the dog on the left").summary()
    assert shared == "Looks for: cat and dog. Place: left."
    apart = parse("the cat on the left and two dogs on the right").summary()
    assert apart == "Looks for: cat. Place: left. And for: dogs. How many: 2. Place: right."


def test_with_root_looks_at_another_noun_of_the_text() -> None:
    found = with_root(parse("the red cat next to the blue Car"), "car")
    assert found.root.word.text == "Car" and found.root.phrase == "blue Car"
    assert [noun.word.text for noun in found.others] == ["cat"]
    assert found.relations == ()


def test_with_root_keeps_what_is_said_of_another_target() -> None:
    found = with_root(parse("the cat on the left and two dogs on the right"), "dogs")
    assert found.root.word.text == "dogs" and found.number == 2
    assert [place.side for place in found.places] == ["right"]
    assert found.also == () == found.further
    assert [noun.word.text for noun in found.others] == ["cat"]


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
