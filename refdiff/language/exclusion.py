"""What a text does not want, cut out of its tokens: "except the dog", "not red", "without a hat".

The denied words are read like a text of their own; `reading` does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .grammar import PHRASES, Token
from .words import DENIALS, EXCEPT, WHOLE, WITHOUT

_EXCEPT = {tuple(phrase.split()) for phrase in EXCEPT.split(", ")}
_WITHOUT = {tuple(phrase.split()) for phrase in WITHOUT.split(", ")}
_AFTER_WHOLE = ({("but",), ("besides",)}, {("nothing", "but"), ("none", "but"), ("nobody", "but")})


@dataclass(frozen=True)
class Denied:
    """The words that deny and those denied; kind is "thing", "with" or "said".

    thing: "not the blue one", a noun of its own. with: "without a hat". said: "not sleeping",
    "not on the left", told of the thing that is looked for.
    """

    kind: str
    marks: list[Token]
    words: list[Token]


def without_denied(tokens: Sequence[Token]) -> tuple[list[Token], list[Denied]]:
    """The tokens that remain, and what is denied."""
    kept: list[Token] = []
    found: list[Denied] = []
    i = _only(tokens)
    while i < len(tokens):
        kind, size = _mark(tokens, i, kept)
        end = _end(tokens, i + size, kind, kept) if kind else i
        words = [t for t in tokens[i + size : end] if t.told is None or t.role != "intensity"]
        if kind and any(word.role not in ("det", "mark") for word in words):
            kind = "said" if kind == "prefix" else kind
            found += _split(Denied(kind, list(tokens[i : i + size]), words))
            i = end
        else:
            kept.append(tokens[i])
            i += 1
    return kept, found


def _only(tokens: Sequence[Token]) -> int:
    """ "Nothing but the dog" is the dog."""
    return 2 if _keys(tokens, 0, 2) in _AFTER_WHOLE[1] else 0


def _keys(tokens: Sequence[Token], i: int, size: int) -> tuple[str, ...]:
    return tuple(token.text for token in tokens[i : i + size])


def _mark(tokens: Sequence[Token], i: int, kept: list[Token]) -> tuple[str, int]:
    """The kind of denial that opens at token i and how many tokens say it; ("", 0) for none."""
    if tokens[i].told is not None:
        return "", 0
    for size in (3, 2, 1):
        said = _keys(tokens, i, size)
        if len(said) < size:
            continue
        whole = any(token.key in WHOLE for token in kept)
        if said in _EXCEPT and not (said == ("besides",) and not whole):
            return "thing", size
        if said in _AFTER_WHOLE[0] and whole:
            return "thing", size
        if said in _WITHOUT:
            return "with", size
    if tokens[i].key in DENIALS or (tokens[i].key == "nor" and kept is not None):
        return _denial(tokens, i, kept), 1
    if tokens[i].key == "no":
        return ("with" if _named(kept) else "prefix with"), 1
    return "", 0


def _denial(tokens: Sequence[Token], i: int, kept: list[Token]) -> str:
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    if after is None:
        return ""
    if after.tag in ("DT", "PRP$") and after.role == "det":
        return "thing"
    if after.role == "open" and after.noun and _named(kept):
        return "thing"
    return "said" if _named(kept) else "prefix"


def _named(kept: Sequence[Token]) -> bool:
    """True when something to look for was named before the denial."""
    return any((t.role == "open" and t.noun) or t.key in WHOLE or t.key == "one" for t in kept)


def _end(tokens: Sequence[Token], i: int, kind: str, kept: list[Token]) -> int:
    """Where the denied words end."""
    stop = next((j for j in range(i, len(tokens)) if _stops(tokens, j, i)), len(tokens))
    if kind == "prefix":
        return _adjectives(tokens, i, stop)
    if kind == "prefix with":
        return _first_noun(tokens, i, stop)
    holds = i < len(tokens) and PHRASES.get((tokens[i].key,)) == "with"
    if kind == "with" or (kind == "said" and holds):
        return _noun_phrase(tokens, i + holds, stop)
    if kind == "said" and i < stop and tokens[i].role in ("colour", "size"):
        return _described(tokens, i, stop)
    return stop


def _stops(tokens: Sequence[Token], j: int, i: int) -> bool:
    comma = PHRASES.get((tokens[j].key,)) == "," and tokens[j].role == "mark"
    again = j > i and _keys(tokens, j, 1)[0] in (*DENIALS, "nor", "except", "but", "without")
    return comma or again or (j > i and _keys(tokens, j, 2) in (("and", "not"), ("or", "not")))


def _adjectives(tokens: Sequence[Token], i: int, stop: int) -> int:
    """ "Not red cat" denies the colour alone."""
    j = i
    while j < stop and not (tokens[j].role == "open" and tokens[j].noun):
        j += 1
    return j if j < stop and j > i else stop


def _first_noun(tokens: Sequence[Token], i: int, stop: int) -> int:
    """ "No hat guy" denies the hat; "no hat" alone does, too."""
    nouns = [j for j in range(i, stop) if tokens[j].role == "open" and tokens[j].noun]
    return (
        nouns[-2] + 1
        if len(nouns) > 1 and nouns[-1] == nouns[-2] + 1
        else _noun_phrase(tokens, i, stop)
    )


def _noun_phrase(tokens: Sequence[Token], i: int, stop: int) -> int:
    """Up to the next link or place behind a noun; "a hat or gloves" goes on."""
    named = False
    for j in range(i, stop):
        token = tokens[j]
        kind = PHRASES.get((token.key,))
        if named and ((kind and kind not in ("and", "of")) or token.tag in ("VBG", "VBZ", "IN")):
            return j
        if named and token.role in ("side", "order"):
            return j
        named = named or (token.role == "open" and token.noun)
    return stop


def _described(tokens: Sequence[Token], i: int, stop: int) -> int:
    """The adjectives and what "and" adds to them: "not big and red | on the left"."""
    j = i
    while j < stop and (tokens[j].adjective or tokens[j].role in ("colour", "size", "intensity")
                        or tokens[j].key in ("and", "or")):  # fmt: skip
        j += 1
    return j


def _split(denied: Denied) -> list[Denied]:
    """ "Neither red nor blue" denies each by itself, as "nor" opens a denial of its own."""
    kind = "with" if denied.kind == "prefix with" else denied.kind
    return [Denied(kind, denied.marks, denied.words)]
