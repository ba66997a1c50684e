"""What refdiff raises when the input is fine but the answer cannot be had."""

from __future__ import annotations


def quoted(text: str, most: int = 60) -> str:
    """A text in quotes for a message, its middle left out where it is long."""
    return repr(text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}")


class RefDiffError(Exception):
    """Base of refdiff's own errors; every message ends with what to do about it."""


class ModelError(RefDiffError):
    """The model cannot be read, or has no cross-attention to read words from."""


class WordError(RefDiffError):
    """A word cannot be looked at: the text lacks it or the text encoder never saw it."""


class HeatError(RefDiffError):
    """A model's answer is not finite, so no mask can be read from it."""
