"""Two batteries of what people type, each expression with the readings that are right.

tests/data/expressions_shared.jsonl holds forms met in referring expressions, lists and requests;
expressions_second.jsonl was written after the rules stood. A reading fits when every field that a
line names is as it says, and no place, order, size or geometric relation is there that it does not
name. A line may name several readings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refdiff.expression import Expression, Noun, Relation, parse
from refdiff.language import parser
from refdiff.language.grammar import Token
from refdiff.scoring.relations import RELATIONS

FOLDER = Path(__file__).parent / "data"
LEAST = {"shared": 0.93, "second": 0.88}


def battery(name: str) -> list[dict[str, Any]]:
    lines = (FOLDER / f"expressions_{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(params=["spacy", "own"])
def tagged_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "own":
        monkeypatch.setattr(parser, "PARSERS", ())
    parser.tagger_model.cache_clear()
    yield request.param
    monkeypatch.undo()
    parser.tagger_model.cache_clear()


@pytest.mark.parametrize("name", LEAST)
def test_the_battery_is_read(name: str, tagged_by: str) -> None:
    wrong = []
    for line in battery(name):
        found = parse(line["text"])
        if not any(fits(found, want) for want in line["want"]):
            wrong.append((line["text"], found.summary()))
    share = 1 - len(wrong) / len(battery(name))
    assert share >= LEAST[name], wrong
    assert (parse("cat").parser == "own rules") == (tagged_by == "own")


@pytest.mark.parametrize("name", LEAST)
def test_no_word_is_lost(name: str, tagged_by: str) -> None:
    lost = {line["text"]: gone for line in battery(name) if (gone := lost_words(line["text"]))}
    assert not lost


def lost_words(text: str) -> list[str]:
    """Content words of a text that are neither used nor listed as not used."""
    found = parse(text)
    kept = [*found.ignored, *found.words()]
    return [
        token.text
        for token in parser.tokenise(text)
        if token.content
        and token.role not in ("number", "all", "measure")
        and not any(word.start <= token.start and token.end <= word.end for word in kept)
        and not counted(found, token)
    ]


def counted(found: Expression, token: Token) -> bool:
    """Words that stand in another's meaning: "counting from the left", "top right corner"."""
    ordered = token.role in ("side", "size") or token.text == "counting"
    return (ordered and found.order is not None) or (token.role == "null" and bool(found.places))


def fits(found: Expression, want: dict[str, Any]) -> bool:
    return all(check(found, want) for check in CHECKS)


def right_root(found: Expression, want: dict[str, Any]) -> bool:
    root = found.root
    names = {root.word.text.lower(), root.lemma.lower(), root.phrase.lower()}
    denied = [name[1:] for name in want["root"] if name.startswith("!")]
    if denied:
        return root.word.text.lower() not in denied
    return "*" in want["root"] or not names.isdisjoint(map(str.lower, want["root"]))


def right_targets(found: Expression, want: dict[str, Any]) -> bool:
    named = sorted(noun.word.text.lower() for noun in found.also)
    if named != sorted(want.get("also", [])):
        return False
    sides = [[place.side for place in one.places] for one in found.targets()]
    if "target_places" in want:
        return sides == [[side] for side in want["target_places"]]
    return sorted(set(sides[0])) == sorted(want.get("places", []))


def right_number(found: Expression, want: dict[str, Any]) -> bool:
    if "target_numbers" in want:
        return [one.number for one in found.targets()] == want["target_numbers"]
    return (found.number or "all") in want.get("number", [1])


def right_order(found: Expression, want: dict[str, Any]) -> bool:
    order = None if found.order is None else [found.order.rank, found.order.side]
    size = None if found.size is None else found.size.kind
    return order in want.get("order", [None]) and size in want.get("size", [None])


def right_relations(found: Expression, want: dict[str, Any]) -> bool:
    """Those asked for are there and weigh something; no other one that weighs is."""
    left = list(found.relations)
    for asked in want.get("relations", []):
        fit = next((one for one in left if answers(one, asked)), None)
        if fit is not None and (fit.kind != "other" or asked["optional"]):
            left.remove(fit)
        elif not asked["optional"]:
            return False
    return not [one for one in left if one.kind in RELATIONS and one.kind != "with"]


def answers(relation: Relation, asked: dict[str, Any]) -> bool:
    names = {word.lower() for noun in relation.anchors for word in (noun.word.text, noun.lemma)}
    kind = relation.kind in asked["kinds"] or "any" in asked["kinds"]
    return kind and (set(asked["anchors"]) <= names if asked["anchors"] else not names)


def right_looks(found: Expression, want: dict[str, Any]) -> bool:
    return {word.lower() for word in want.get("modifiers", [])} <= spoken(found.root)


def right_exclusion(found: Expression, want: dict[str, Any]) -> bool:
    """What is denied is in its field and nowhere in what is wanted."""
    asked = set(want.get("excluded", []))
    wanted = spoken(found.root) | {noun.word.text for noun in found.also}
    far = [one for one in found.relations if one.kind == "far from"]
    denied = " ".join(word.text for one in found.excluded for word in one.words())
    said = {*re.findall(r"[\w-]+", denied.lower())} | {n.lemma for r in far for n in r.anchors}
    return asked <= said and not asked & wanted


def right_part(found: Expression, want: dict[str, Any]) -> bool:
    sides = () if found.part is None else found.part.sides
    return sides == ((want["part"],) if "part" in want else ())


CHECKS = (right_root, right_targets, right_number, right_order, right_relations, right_looks,
          right_exclusion, right_part)  # fmt: skip


def spoken(noun: Noun) -> set[str]:
    said = " ".join([noun.phrase, noun.word.text, *(word.text for word in noun.modifiers)])
    return set(re.findall(r"[\w-]+", said.lower()))
