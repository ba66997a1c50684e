"""A rule for the noun of a short text, for where no parser is installed."""

from __future__ import annotations

import re

from .meaning import Expression, Noun, Word

_TURNS = re.compile(
    r"\b(?:on|in|at|of|off|from|to|with|without|near|next|beside|besides|behind|between|under|"
    r"below|above|over|by|against|around|inside|outside|that|which|who|whose|wearing|holding|"
    r"standing|sitting|lying|looking|is|are|was|were|closest|nearest)\b|[,;.:!?]",
    re.IGNORECASE,
)
_SPOKEN = re.compile(r"[^\W_](?:[\w'-]*[^\W_])?")


def parse_plainly(text: str) -> Expression:
    """The last word before the first preposition, verb or comma as the root, and nothing else.

    "the red cat on the left" gives cat; place, size and number words are not understood.
    ValueError for a text without a word.
    """
    turn = _TURNS.search(text, 1)
    words = list(_SPOKEN.finditer(text[: turn.start()] if turn else text))
    words = words or list(_SPOKEN.finditer(text))
    if not words:
        raise ValueError(f'the text is {text!r}; write what to look for, such as "the red cat"')
    return about(text, Word(words[-1].group(), *words[-1].span()))


def about(text: str, word: Word) -> Expression:
    """An expression that looks for one word of the text and says nothing else of it."""
    return Expression(text, Noun(word, word.text.lower(), word.text))
