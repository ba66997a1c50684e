"""A sentence through ComfyUI's CLIP: what the UNet is told, and which characters are where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

from torch import Tensor

from ..refdiff.attention.backend import Words
from ..refdiff.attention.maps import Span
from ..refdiff.attention.prompt_chunks import piece_spans
from ..refdiff.errors import ModelError

Windows = list[list[tuple[Any, ...]]]
LEARNED = re.compile(r"(?:^|(?<=[ \n]))embedding:[^\s,]+")
"""A learned word, where ComfyUI looks for one; it may stand for several vectors or for none."""
WEIGHTS = re.compile(r"\\(?=[()])|(?<!\\)\(|:\s*[+-]?[\d.]+\s*\)|(?<!\\)\)")
"""What a text with weights, (word:1.3), holds besides its words."""


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A text as the UNet is told it, and what each of its columns covers.

    cond: [1, T, C]. extra: what else a conditioning of ComfyUI holds: the pooled text, the hooks.
    """

    cond: Tensor
    extra: dict[str, Any]
    tokens: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()


class TextReader:
    """Encodes texts with a CLIP, which stays as it is.

    prompt_weights: read (word:1.3) as a weight; left out, brackets and numbers are text like any
    other. clip_skip: layers left out at the end of what the model's own encoder uses, whatever
    CLIP Set Last Layer chose; None: as it chose. Raises ValueError when there are not so many.
    """

    def __init__(self, clip: Any, prompt_weights: bool = False, clip_skip: int | None = 0) -> None:
        self.clip = clip
        self.prompt_weights = prompt_weights
        self._own_layer = clip_skip is None
        self._layer = None if clip_skip is None else _layer(clip, clip_skip)

    def __call__(self, text: str) -> EncodedText:
        """The text and its columns; each window of 77 tokens follows the one before it."""
        tokens, spans = self.words(text)
        cond, extra = self._encode(self._tokenize(text))
        if cond.shape[1] != len(tokens):
            raise ModelError(
                f"The text encoder answers with {cond.shape[1]} columns for {len(tokens)} tokens; "
                "connect the checkpoint's own CLIP."
            )
        return EncodedText(cond, extra, tokens, spans)

    def words(self, text: str) -> Words:
        """What each column of a text holds."""
        return self._columns(self._tokenize(text), text)

    def empty(self, columns: int) -> EncodedText:
        """The empty text; its window comes again until there are as many columns."""
        windows = self._tokenize("")
        times = max(1, columns // sum(map(len, next(iter(windows.values())))))
        return EncodedText(*self._encode({name: part * times for name, part in windows.items()}))

    def _tokenize(self, text: str) -> dict[str, Windows]:
        windows = self.clip.tokenize(text, disable_weights=not self.prompt_weights)
        if not isinstance(windows, dict) or not set(windows) <= {"l", "h", "g"}:
            kind = type(self.clip.cond_stage_model).__name__
            raise ModelError(
                f"Ref-Diff needs the CLIP of a Stable Diffusion 1, 2 or XL model; got {kind}."
            )
        return windows

    def _encode(self, windows: Mapping[str, Windows]) -> tuple[Tensor, dict[str, Any]]:
        told = self._encoder.encode_from_tokens(windows, return_pooled=True, return_dict=True)
        cond = told.pop("cond").float()
        return cond, {name: value for name, value in told.items() if value is not None}

    @cached_property
    def _encoder(self) -> Any:
        """A copy of the CLIP that stops at the layer asked for."""
        encoder = self.clip.clone()
        if not self._own_layer:
            encoder.clip_layer(self._layer)
        return encoder

    def _columns(self, windows: Mapping[str, Windows], text: str) -> Words:
        """The piece in each column and the characters it covers."""
        self._check_vectors(windows, text)
        name = "l" if "l" in windows else next(iter(windows))
        tokenizer = getattr(self.clip.tokenizer, f"clip_{name}")
        items = [item[0] for window in windows[name] for item in window]
        words = _words(windows[name], tokenizer.end_token)
        plain = [at for at in words if isinstance(items[at], Integral)]
        learned = self._learned(text)
        covered = [span for span, vectors in learned for _ in range(vectors)]
        pieces = [tokenizer.inv_vocab[i] if isinstance(i, Integral) else "" for i in items]
        spans: list[Span] = [None] * len(items)
        vectors = [at for at in words if at not in plain]
        for at, span in zip(vectors, covered, strict=True):
            spans[at], pieces[at] = span, text[slice(*span)]
        rest = self._plain_text(text, [span for span, _ in learned])
        for at, found in zip(plain, piece_spans(rest, [pieces[at] for at in plain]), strict=True):
            spans[at] = found
        return Words(tuple(pieces), tuple(spans))

    def _learned(self, text: str) -> list[tuple[tuple[int, int], int]]:
        """The learned words of a text that are not spelled out, and how many vectors each is."""
        found = []
        for match in LEARNED.finditer(text):
            name, windows = next(iter(self._tokenize(match.group()).items()))
            end = getattr(self.clip.tokenizer, f"clip_{name}").end_token
            items = [item[0] for window in windows for item in window]
            words = [items[at] for at in _words(windows, end)]
            if not any(isinstance(word, Integral) for word in words):
                found.append((match.span(), len(words)))
        return found

    def _plain_text(self, text: str, learned: list[tuple[int, int]]) -> str:
        """The text with blanks where it holds what no ordinary token spells."""
        gaps = learned + [m.span() for m in WEIGHTS.finditer(text) if self.prompt_weights]
        for start, end in gaps:
            text = text[:start] + " " * (end - start) + text[end:]
        return text

    def _check_vectors(self, windows: Mapping[str, Windows], text: str) -> None:
        """Raise ModelError for a learned word of another kind of model; ComfyUI only drops it."""
        for name, part in windows.items():
            encoder = getattr(self.clip.cond_stage_model, f"clip_{name}")
            width = encoder.transformer.get_input_embeddings().weight.shape[-1]
            for item in (item[0] for window in part for item in window):
                if not isinstance(item, Integral) and item.shape[-1] != width:
                    raise ModelError(
                        f"The learned word in {text!r} has vectors of {item.shape[-1]} numbers, "
                        f"and this model's have {width}; use one made for this model."
                    )


def _layer(clip: Any, skip: int) -> int | None:
    """How ComfyUI calls the layer `skip` before the model's own, None for that one."""
    parts = [
        part
        for name in ("clip_l", "clip_h", "clip_g")
        if (part := getattr(clip.cond_stage_model, name, None)) is not None
    ]
    if not skip or not parts:
        return None
    kind, layer, _ = parts[0].options_default
    own = layer if kind == "hidden" else -1
    most = min(part.num_layers for part in parts) + own
    if skip > most:
        raise ValueError(f"clip_skip is {skip}; this text encoder can leave out {most} at most.")
    return own - skip


def _words(windows: Windows, end: int) -> list[int]:
    """The columns between the begin and the end of each window."""
    places: list[int] = []
    first = 0
    for window in windows:
        items = [item[0] for item in window]
        stop = next((i for i, x in enumerate(items) if isinstance(x, Integral) and x == end), None)
        places += range(first + 1, first + (len(items) if stop is None else stop))
        first += len(items)
    return places
