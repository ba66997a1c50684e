"""What refdiff raises when the input is fine but the answer cannot be had."""

from __future__ import annotations


class RefDiffError(Exception):
    """Base of refdiff's own errors; every message ends with what to do about it."""


class ModelError(RefDiffError):
    """The model cannot be read, or has no cross-attention to read words from."""


class WordError(RefDiffError):
    """A word cannot be looked at: the text lacks it or the text encoder never saw it."""


class HeatError(RefDiffError):
    """The heat map is not finite, so no mask can be read from it."""
