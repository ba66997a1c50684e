"""Which characters of a text each piece of a CLIP tokenizer covers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from .attention import Span


def token_spans(tokenizer: Any, text: str) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """The pieces of `text` in the tokenizer's window, padding included, and what each covers.

    A fast tokenizer is asked for its offsets; a slow one has none, so its pieces are laid along
    the text. Words beyond the window have no piece.
    """
    window = {"padding": "max_length", "truncation": True, "max_length": window_of(tokenizer)}
    fast = getattr(tokenizer, "is_fast", False)
    encoded = tokenizer(text, return_offsets_mapping=fast, **window)
    pieces = tuple(tokenizer.convert_ids_to_tokens(encoded["input_ids"]))
    if fast:
        offsets = encoded["offset_mapping"]
        return pieces, tuple((int(a), int(b)) if a < b else None for a, b in offsets)
    return pieces, piece_spans(text, pieces, tokenizer.all_special_tokens)


def window_of(tokenizer: Any) -> int:
    """How many tokens the text encoder takes; 77 where the tokenizer does not say."""
    return min(int(tokenizer.model_max_length), 77)


def piece_spans(
    text: str, pieces: Sequence[str], special: Sequence[str] = ("<|startoftext|>", "<|endoftext|>")
) -> tuple[Span, ...]:
    """The characters each BPE piece covers, found by walking along the text's bytes.

    CLIP's pieces spell the bytes of the lower-cased text without its white space, in order, with
    "</w>" after each word. Bytes that no piece spells were dropped by the tokenizer and are
    stepped over.
    """
    letters = list(_letters(text))
    spans: list[Span] = []
    at = 0
    for piece in pieces:
        start = end = None
        for byte in () if piece in special else _bytes(piece.removesuffix("</w>")):
            found = next((i for i in range(at, len(letters)) if letters[i][0] == byte), None)
            if found is None:
                break
            at = found + 1
            start, end = (letters[found][1] if start is None else start), letters[found][2]
        spans.append(None if start is None or end is None else (start, end))
    return tuple(spans)


def _letters(text: str) -> Iterator[tuple[int, int, int]]:
    """Each byte of the normalised text, with the characters [start, end) it came from."""
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        letter = unicodedata.normalize("NFC", text[start:end]).lower()
        for byte in "".join(letter.split()).encode():
            yield byte, start, end
        start = end


def _bytes(piece: str) -> list[int]:
    return [_byte_of()[letter] for letter in piece if letter in _byte_of()]


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable bytes stand for themselves, the rest from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(rest)
    }
