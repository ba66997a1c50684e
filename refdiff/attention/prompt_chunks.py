"""Which characters of a text each token of a CLIP tokenizer covers, window by window.

A text encoder reads windows of 77 tokens: begin, 75 of the text, end. A longer text fills several,
each with its own begin and end; token p of window c is column 77 * c + p. The text is divided as
ComfyUI divides it, so that both sides give the same columns.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from ..errors import ModelError
from .maps import Span

Item = TypeVar("Item")
Piece = tuple[int, str, Span]  # id, spelling, characters

_UNBROKEN = 8  # a group of fewer tokens than this is not cut in two at the end of a window


@dataclass(frozen=True)
class PromptChunks:
    """A text as the text encoder reads it: begin, end and padding included.

    ids: the token ids of each window. tokens, spans: as in TokenMaps, all windows in a row.
    """

    ids: tuple[tuple[int, ...], ...]
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]


def prompt_chunks(tokenizer: Any, text: str) -> PromptChunks:
    """The text in as many windows as it needs, at least one.

    A learned word (textual inversion) of several vectors becomes as many tokens, each covering
    the whole word.
    """
    begin, *pieces, end = _pieces(tokenizer, text)
    size = window_of(tokenizer)
    padding = tokenizer.pad_token or end[1]
    pad: Piece = (tokenizer.convert_tokens_to_ids(padding), padding, None)
    rows = [
        [begin, *row, end, *[pad] * (size - 2 - len(row))]
        for row in pack(_groups(tokenizer, pieces), size - 2)
    ]
    return PromptChunks(
        ids=tuple(tuple(piece[0] for piece in row) for row in rows),
        tokens=tuple(piece[1] for row in rows for piece in row),
        spans=tuple(piece[2] for row in rows for piece in row),
    )


def window_of(tokenizer: Any) -> int:
    """How many tokens the text encoder takes; 77 where the tokenizer does not say.

    ModelError when no word fits between the begin and the end.
    """
    most = tokenizer.model_max_length
    if not isinstance(most, int | float) or not most >= 3:
        raise ModelError(
            f"The tokenizer says that its model takes {most!r} pieces of words (model_max_length), "
            "begin and end among them; set it to 77."
        )
    return int(min(most, 77))


def pack(groups: Sequence[Sequence[Item]], room: int) -> list[list[Item]]:
    """Lay groups of tokens into rows of at most `room`, as ComfyUI does.

    A group that no longer fits goes whole into the next row, one of 8 tokens or more is cut.
    ValueError when there is no room at all.
    """
    if room < 1:
        raise ValueError(f"There is room for {room} tokens in a row, wanted at least 1.")
    rows: list[list[Item]] = [[]]
    for group in groups:
        rest = list(group)
        cut = len(rest) >= _UNBROKEN or len(rest) > room
        while len(rest) > room - len(rows[-1]):
            free = room - len(rows[-1]) if cut else 0
            rows[-1] += rest[:free]
            rest = rest[free:]
            rows.append([])
        rows[-1] += rest
    return rows


def _pieces(tokenizer: Any, text: str) -> list[Piece]:
    """Every token of the text, however long it is.

    A fast tokenizer is asked for its offsets; a slow one has none, so its pieces are laid along
    the text.
    """
    fast = getattr(tokenizer, "is_fast", False)
    encoded = tokenizer(text, return_offsets_mapping=fast, verbose=False)
    ids: list[int] = encoded["input_ids"]
    spelled = tokenizer.convert_ids_to_tokens(ids)
    if not fast:
        walked = piece_spans(text, spelled, tokenizer.all_special_tokens)
        return list(zip(ids, spelled, walked, strict=True))
    spans = [(int(a), int(b)) if a < b else None for a, b in encoded["offset_mapping"]]
    return list(zip(ids, spelled, spans, strict=True))


def _groups(tokenizer: Any, pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The text between learned words, and each learned word by itself with all its vectors."""
    learned = set(tokenizer.added_tokens_encoder) - set(tokenizer.all_special_tokens)
    groups: list[list[Piece]] = [[]]
    for piece in pieces:
        if piece[1] not in learned:
            groups[-1].append(piece)
            continue
        word = [piece]
        while (name := f"{piece[1]}_{len(word)}") in learned:
            word.append((tokenizer.convert_tokens_to_ids(name), name, piece[2]))
        groups += [word, []]
    return groups


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
