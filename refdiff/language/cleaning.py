"""The notation of prompts taken off a text, every other character staying where it stands.

"(red cat:1.2)", "cat++", "[cat]", "<lora:name:0.8>", "BREAK" and "red_cat" name what they name
without their marks; what is taken off becomes blanks, so that words keep their places.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_QUOTES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4`"), "'") | {
    ord("\uff0c"): ",", ord("\u3001"): ",", ord("\u3002"): ".", ord("\uff08"): "(",
    ord("\uff09"): ")", ord("\u2010"): "-", ord("\u2011"): "-", ord("\u201c"): '"',
    ord("\u201d"): '"', 0x200B: " ", 0xFEFF: " ",
}  # fmt: skip
_NETWORK = re.compile(r"<[a-zA-Z_]+:[^<>]*>")  # <lora:name:0.8>
_BREAK = re.compile(r"\b(BREAK|AND)\b")
_WEIGHT = re.compile(r"(?<=[\w)\]]):\s*-?\d*\.?\d+(?=\s*[)\],]|\s*$|\s)")
_CURLY = re.compile(r"[\[\]{}]|\\(?=[()\[\]])")
_PLUSES = re.compile(r"(?<=[\w)])(\+{1,4}|-{2,4})(?=$|[\s,.)\]])")
_UNDERLINE = re.compile(r"(?<=[a-zA-Z0-9])_(?=[a-zA-Z(\\])")
_EMBEDDING = re.compile(r"embedding:[^\s,()]+")
_APART = re.compile(  # "top-left", "second-from-left" are several words, "dark-haired" is one
    r"(?<=top|per|wer|tom|ond|ird|eft|ght|rom|ast|ext)"
    r"-(?=left|right|middle|center|cent|from|most|hand\b|to-|\w+est\b|to\b|last)|(?<=to)-(?=last)"
)


def clean(text: str) -> str:
    """The text in plain signs, as long as it was; case is kept."""
    text = text.translate(_QUOTES)
    kept = {found.span(): found.group() for found in _EMBEDDING.finditer(text)}
    text = _NETWORK.sub(_blank, text)
    weighted = bool(_WEIGHT.search(text)) or "((" in text or "_" in text
    text = _BREAK.sub(lambda found: ",".ljust(len(found.group())), text)
    for notation in (_WEIGHT, _PLUSES, _CURLY, _APART):
        text = notation.sub(_blank, text)
    text = _without_brackets(text) if weighted else text
    text = _UNDERLINE.sub(" ", text)
    for (start, end), word in kept.items():
        text = text[:start] + word + text[end:]
    return text


def notation(text: str) -> list[tuple[int, int]]:
    """Where networks and weights stand: "<lora:fur:0.8>" and the "1.2" of "(cat:1.2)"."""
    marks = [found.span() for found in _NETWORK.finditer(text)]
    weights = [(found.start() + 1, found.end()) for found in _WEIGHT.finditer(text)]
    inside = [one for one in weights if not any(a <= one[0] < b for a, b in marks)]
    return sorted([*marks, *inside])


_blank: Callable[[re.Match[str]], str] = lambda found: " " * len(found.group())  # noqa: E731


def _without_brackets(text: str) -> str:
    return text.replace("(", " ").replace(")", " ")


def lowered(text: str) -> str:
    """The text in lower case where that changes no length: "İ" stays."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
