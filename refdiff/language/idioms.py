"""Neighbouring words that mean something together, put into one token or into another role.

"Right behind" is no side, "second to last" is one rank, "tank top" is a thing, "long sleeved" is
an adjective. Each rule takes the tokens and a position and gives the tokens that stand there now
with the number of those used, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .grammar import PHRASES, ROLES, Token, spanning
from .words import COMPOUNDS, ED_NOUNS, PEOPLE

Put = tuple[list[Token], int]
_SIDEWAYS = ("near", "in front of", "behind", "above", "below", "between", "left of", "right of")
_TO_LAST = ("to", "from", "before")
_EXTREMES = {
    "closest": "front", "nearest": "front", "farthest": "back", "furthest": "back",
}  # fmt: skip
_RANKED = ("from", "in", "counting", "counted")


def joined(tokens: Sequence[Token]) -> list[Token]:
    """The tokens with every idiom put in its role."""
    done: list[Token] = []
    i = 0
    while i < len(tokens):
        puts = (rule(tokens, i, done[-1] if done else None) for rule in _RULES)
        put, used = next((found for found in puts if found), ([tokens[i]], 1))
        done += put
        i += used
    return done


def keys(tokens: Sequence[Token], i: int, count: int) -> tuple[str, ...]:
    return tuple(token.key for token in tokens[i : i + count])


def _to_last(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Second to last", "next to last", "penultimate", "last but one"."""
    if tokens[i].key == "penultimate":
        return [tokens[i].meaning("order", "-2", "JJ")], 1
    three = keys(tokens, i, 3)
    if three == ("last", "but", "one"):
        return [spanning(list(tokens[i : i + 3]), "order", "-2", "JJ")], 3
    if len(three) < 3 or three[1] not in _TO_LAST or three[2] not in ("last", "end"):
        return None
    if three[0] != "next" and tokens[i].role != "order":
        return None
    rank = "2" if three[0] == "next" else tokens[i].value
    return [spanning(list(tokens[i : i + 3]), "order", f"-{rank}", "JJ")], 3


def _numbered(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "#3", "no. 3 from the left": a rank before "from", else a name ("bus 42", "player #7")."""
    signs = ("#", "no", "nr", "number", "num", "nº", "№")
    j = i + 1 if tokens[i].key in signs else i
    j += j > i and keys(tokens, j, 1) == (".",)
    glued = re.fullmatch(r"(?:no|nr)(\d+)", tokens[i].key) if j == i else None
    if j >= len(tokens) or not (glued or tokens[j].key.isdigit() or tokens[j].role == "number"):
        return None
    value = glued[1] if glued else tokens[j].value or tokens[j].key
    ranked = any(key in _RANKED for key in keys(tokens, j + 1, 1)) and _counted_from(tokens, j + 1)
    own = list(tokens[i : j + 1])
    if ranked and (j > i or last is None or last.noun or last.role == "det"):
        return [spanning(own, "order", value, "JJ")], len(own)
    digits = tokens[j].key.isdigit() or glued
    named = last is not None and last.noun and last.role == "open" and not last.plural
    if (j > i and (digits or tokens[j].role == "number")) or (digits and named):
        return [spanning(own, "open", value, "JJ")], len(own)
    return None


def _counted_from(tokens: Sequence[Token], i: int) -> bool:
    """True before "from the left", "from top", "in from the right"."""
    rest = [t for t in tokens[i : i + 5] if t.role != "det"]
    return any(t.key == "from" for t in rest) and any(t.role == "side" for t in rest)


def _ranked_extreme(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Third nearest" counts from the front, "second most left" from the left."""
    if tokens[i].role != "order" or i + 1 >= len(tokens):
        return None
    after = tokens[i + 1]
    if after.key in _EXTREMES:
        return [tokens[i], after.meaning("depth", _EXTREMES[after.key])], 2
    return None


def _in_line(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Third horse in line": "in line" says nothing more."""
    for count in (3, 2):
        said = keys(tokens, i, count)
        if said[:1] == ("in",) and said[-1] in ("line", "row", "queue", "order", "sequence"):
            middle = said[1:-1]
            ended = i + count >= len(tokens) or tokens[i + count].role == "mark"
            if len(said) == count and middle in ((), ("the",), ("a",)) and ended:
                own = list(tokens[i : i + count])
                return [token.meaning("intensity", "", "RB") for token in own], count
    return None


def _compound(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Tank top", "side table", "left fielder": both words belong to the noun."""
    pair = keys(tokens, i, 2)
    if len(pair) < 2:
        return None
    whole, singular = " ".join(pair), f"{pair[0]} {tokens[i + 1].lemma}"
    plain = f"{pair[0]} {pair[1].removesuffix('s')}"
    if COMPOUNDS.isdisjoint((whole, singular, plain)):
        return None
    first, second = tokens[i : i + 2]
    tag = "NNS" if second.tag == "NNS" else "NN"
    return [first.meaning("open", "", "NN"), second.meaning("open", "", tag)], 2


def _looks(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Long sleeved", "left handed", "half eaten": one adjective, no size and no side."""
    if "-" in tokens[i].text:
        return _hyphened(tokens[i])
    pair = keys(tokens, i, 2)
    known = tokens[i].role in ("side", "size", "number", "colour", "null", "depth") or (
        tokens[i].role == "open" and tokens[i].tag == "JJ"
    )
    if len(pair) < 2 or not known or "-" in tokens[i + 1].text:
        return None
    half = pair[0] == "half" and pair[1].endswith(("ed", "en", "full", "empty"))
    if half or _of_noun(pair[1]):
        return [spanning(list(tokens[i : i + 2]), "open", "", "JJ")], 2
    return None


def _hyphened(token: Token) -> Put | None:
    """ "Long-sleeved", "three-legged", "left-handed" and "middle-aged"."""
    first, *_, last = token.text.split("-")
    if first in ROLES and (_of_noun(last) or last in ("aged", "size", "sized", "eaten")):
        return [token.meaning("open", "", "JJ")], 1
    return None


def _of_noun(word: str) -> bool:
    """True for "sleeved" and "handed", made of a noun, not for "parked"."""
    if not word.endswith("ed"):
        return False
    bare = word[:-2]
    return not ED_NOUNS.isdisjoint((bare, f"{bare}e", bare[:-1], word, f"{bare[:-1]}y"))


def _emphasis(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Right behind the batter", "just left of": "right" before another link is no side."""
    if tokens[i].key != "right" or (last is not None and last.key in ("the", "on", "to", "far")):
        return None
    for size in (4, 3, 2, 1):
        kind = PHRASES.get(keys(tokens, i + 1, size))
        anchored = i + 1 + size < len(tokens)
        if kind in _SIDEWAYS and anchored:
            return [tokens[i].meaning("intensity", "", "RB")], 1
    middle = tokens[i + 3 : i + 4] or tokens[i + 2 : i + 3]
    if keys(tokens, i + 1, 1) == ("in",) and middle and middle[0].role in ("depth", "side"):
        return [tokens[i].meaning("intensity", "", "RB")], 1
    return None


def _left_over(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Food left on the plate" is what remains there; "man left on the bench" is on the left."""
    after = [t for t in tokens[i + 2 : i + 4] if t.role != "det"]
    if tokens[i].key != "left" or last is None or last.role != "open" or last.lemma in PEOPLE:
        return None
    onto = keys(tokens, i + 1, 1) in (("on",), ("in",), ("over",), ("behind",))
    if onto and after and after[0].role == "open" and after[0].noun:
        return [tokens[i].meaning("open", "", "VBN")], 1
    return None


def _far(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Far boat" and "boat far away" are at the back; "far left" is not."""
    if tokens[i].key not in ("far", "away") or tokens[i].told:
        return None
    if (PHRASES.get(keys(tokens, i, 2)) or PHRASES.get(keys(tokens, i, 3))) == "far from":
        return None
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    if keys(tokens, i, 2) == ("far", "away"):
        return [spanning(list(tokens[i : i + 2]), "depth", "behind", "JJ")], 2
    ended = after is None or after.role == "mark"
    if tokens[i].key == "far" and (ended or (after is not None and after.role == "open")):
        return [tokens[i].meaning("depth", "behind", "JJ")], 1
    if tokens[i].key == "far" and after is not None and after.key in ("one", "side", "end"):
        return [tokens[i].meaning("depth", "behind", "JJ")], 1
    return None


def _garment_top(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "In the red top": worn; "in the top" is a place."""
    pair = keys(tokens, i, 2)
    ended = (
        i + 2 >= len(tokens) or tokens[i + 2].role in ("mark", "side") or tokens[i + 2].tag == "IN"
    )
    if len(pair) == 2 and pair[1] in ("top", "tops") and tokens[i].role == "colour" and ended:
        return [tokens[i], tokens[i + 1].meaning("open", "", "NN")], 2
    return None


def _turned_back(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "His back to us", "back turned": the back of a body is no depth."""
    own = last is not None and (last.tag == "PRP$" or last.tag == "POS")
    turned = keys(tokens, i + 1, 1) in (("turned",), ("facing",))
    if tokens[i].key == "back" and (own or turned):
        return [tokens[i].meaning("open", "", "NN")], 1
    return None


def _end_of(tokens: Sequence[Token], i: int, last: Token | None) -> Put | None:
    """ "Back of the bus" asks for a part that has no side."""
    if i > 1 or (last is not None and last.role != "det") or keys(tokens, i + 1, 1) != ("of",):
        return None
    if tokens[i].key not in ("back", "front", "rear", "inside", "outside", "end", "edge", "tip"):
        return None
    rest = [t for t in tokens[i + 2 : i + 4] if t.role != "det"]
    if not rest or rest[0].role in ("null", "measure", "all", "number", "aside") or rest[0].plural:
        return None
    return [tokens[i].meaning("open", "", "NN")], 1


_RULES: tuple[Callable[[Sequence[Token], int, Token | None], Put | None], ...] = (
    _to_last, _numbered, _ranked_extreme, _in_line, _turned_back, _end_of, _compound, _looks,
    _emphasis, _left_over, _far, _garment_top,
)  # fmt: skip
