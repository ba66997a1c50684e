"""What is said to the program and not of the picture: "please find", "change the colour of".

The words of a request are taken off; what shall stand there afterwards ("with clouds") is not
looked for either.
"""

from __future__ import annotations

from collections.abc import Sequence

from .grammar import LEADING, PHRASES, Token
from .words import ADDITIONS, ASPECTS, CHANGES, LEAD_PAIRS, REQUESTS

_OUTCOMES = ("to", "into", "with", "for", "by", "as")
_AIMS = ("to", "on", "onto", "in", "into", "over", "behind", "under", "above", "next", "around")
_PARTICLES = ("out", "away", "up", "off", "rid", "of")
_ENDS = ("select", "find", "remove", "segment", "show", "please", "thanks", "delete", "highlight")


def without_request(tokens: Sequence[Token]) -> tuple[list[Token], list[Token]]:
    """The tokens that tell what to look for, and those that do not."""
    start = _lead(tokens)
    said, rest = list(tokens[:start]), list(tokens[start:])
    verb = _request(rest)
    if verb:
        said += rest[:verb]
        rest, outcome = _without_outcome(rest[verb:], said[-verb:])
        said += outcome
    rest, end = _without_end(rest)
    return (rest, said + end) if rest else (list(tokens), [])


def _lead(tokens: Sequence[Token]) -> int:
    """How many words only ask to look: "please find", "there is", "can you show me"."""
    i = 0
    while i + 1 < len(tokens):
        pair, after = f"{tokens[i].key} {tokens[i + 1].key}", (tokens[i + 1].key,)
        if pair in LEAD_PAIRS and i + 2 < len(tokens):
            i += 2
            i += pair == "get rid" and tokens[i].key == "of"
        elif tokens[i].text in LEADING and (
            after[0] in LEADING or after == ("that",) or PHRASES.get(after) in (None, ",", "other")
        ):
            i += 1
        elif tokens[i].text in ("who", "what", "which", "is", "'s") and i + 1 < len(tokens):
            i += 1  # who is | wearing the red hat
        else:
            break
    return i


def _request(tokens: Sequence[Token]) -> int:
    """How many tokens a request takes: "blur | the car", "change the colour of | her dress"."""
    if len(tokens) < 2 or tokens[0].key not in REQUESTS:
        return 0
    i = 1
    while i < len(tokens) - 1 and tokens[i].key in _PARTICLES:
        i += 1
    determined = tokens[i].role in ("det", "all", "number") or tokens[i].tag in ("PRP$", "DT")
    if not determined and not (i > 1):
        return 0
    if tokens[0].key in CHANGES and _aspect(tokens, i):
        return _aspect(tokens, i)
    if tokens[0].key in ADDITIONS:
        aims = [j for j in range(i + 1, len(tokens) - 1) if tokens[j].key in _AIMS]
        ends = [j + 2 if tokens[j].key == "next" else j + 1 for j in aims[:1]]
        return ends[0] if ends else i
    return i


def _aspect(tokens: Sequence[Token], i: int) -> int:
    """The end of "the colour of" from token i on; 0 where no aspect is named."""
    for j in range(i, min(i + 3, len(tokens) - 2)):
        if tokens[j].key in ASPECTS and tokens[j + 1].key == "of":
            return j + 2
    return 0


def _without_outcome(rest: list[Token], verb: list[Token]) -> tuple[list[Token], list[Token]]:
    """Without what shall be there afterwards: "the sky | with clouds", "the car | red"."""
    if verb[0].key not in CHANGES:
        return rest, []
    named = False
    for j, token in enumerate(rest):
        if named and token.key in _OUTCOMES:
            return rest[:j], rest[j:]
        named = named or (token.role == "open" and token.noun)
    j = len(rest)
    while j > 1 and (rest[j - 1].role in ("colour", "size") or rest[j - 1].tag[:2] == "JJ"):
        j -= 1
    return (rest[:j], rest[j:]) if rest[j - 1].role == "open" else (rest, [])


def _without_end(rest: list[Token]) -> tuple[list[Token], list[Token]]:
    """Without ", select it" and ", please remove it"."""
    for j in range(len(rest) - 1, 0, -1):
        opens = PHRASES.get((rest[j].key,)) in (",", "and") and j + 1 < len(rest)
        if opens and rest[j + 1].key in _ENDS and len(rest) - j <= 5:
            pronoun = rest[-1].key in ("it", "them", "please", "thanks", "him", "her", "that")
            if pronoun or rest[-1].key in _ENDS:
                return rest[:j], rest[j:]
    return rest, []
