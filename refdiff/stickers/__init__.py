"""The built-in world of stickers: small models, scenes to measure with, and how they are made.

Weights, scenes and the sample picture are package data in this folder.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"
"""The built-in models: a diffusers folder, with an open_clip folder `clip` in it."""
DATA = HERE / "data"
"""Scenes with known objects, in a folder for each split."""
SPLITS = ("validation", "test")
SAMPLE = HERE / "sample.png"
"""The picture that the command knows as `sample`."""
SAMPLE_LABELS = HERE / "sample.labels.png"
"""Which of its pixels show which object: 0 for none, else 1 and up."""

EMPTY_BELOW = 0.1
"""Presence below which the sticker models' answer is "nothing found"; set on `validation`.

There it notices 56 % of absent things and loses 0.2 % of the right answers; 0.2 would notice 78 %
and lose 1.3 %, and more of drawings in a style that makes the models less sure.
"""


def known(lemma: str) -> bool:
    """Whether a noun, in its singular, is one of those that the sticker models were trained on."""
    from .sprites import NOUNS

    return lemma.strip().lower() in NOUNS
