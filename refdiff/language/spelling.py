"""A suggestion for a word that the text encoder does not know as one: "umberella", umbrella?"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path

END = "</w>"  # what a whole word ends with in CLIP's vocabulary
ALIKE = 0.9  # share of letters that a suggestion has in common with the word


def suggestion(word: str, vocabulary: Iterable[str]) -> str:
    """One sentence where `word` stands in no list of whole words but one like it does, else "".

    vocabulary: the words, or the pieces of a tokenizer, of which those ending in "</w>" are words.
    """
    spoken = word.lower()
    known = _whole_words(vocabulary)
    bare = spoken.removesuffix("s")
    if not spoken.isalpha() or len(spoken) < 5 or spoken in known or bare in known:
        return ""
    near = [one for one in known if one[0] == spoken[0] and abs(len(one) - len(spoken)) <= 2]
    found = get_close_matches(spoken, near, 1, ALIKE)
    grown = bool(found) and spoken.startswith(found[0][:-1])  # skateboard, skateboarder
    return f"{word!r} is not a word the model knows; {found[0]}?" if found and not grown else ""


def _whole_words(vocabulary: Iterable[str]) -> frozenset[str]:
    pieces = vocabulary if isinstance(vocabulary, frozenset) else frozenset(vocabulary)
    return _words_of(pieces)


@cache
def _words_of(pieces: frozenset[str]) -> frozenset[str]:
    ended = {piece.removesuffix(END) for piece in pieces if piece.endswith(END)}
    return frozenset(one for one in (ended or pieces) if one.isalpha() and len(one) > 2)


@cache
def clip_words() -> frozenset[str]:
    """The pieces of CLIP's vocabulary, which comes with the package."""
    import json

    path = Path(__file__).resolve().parents[1] / "configs" / "tokenizer" / "vocab.json"
    return frozenset(json.loads(path.read_text("utf-8"))) if path.exists() else frozenset()
