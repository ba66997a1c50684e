"""The built-in world of stickers: small models, scenes to measure with, and how they are made.

Weights, scenes and the sample picture are package data in this folder.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"
"""The built-in models: a diffusers folder, with an open_clip folder `clip` in it."""
PAINTER = WEIGHTS / "painter"
"""The UNet that paints, and its scheduler; all else is that of the other models."""
DATA = HERE / "data"
"""Scenes with known objects, in a folder for each split."""
SPLITS = ("validation", "test", "language")
"""To choose by; to report; and to report on exclusions, lists, counts, parts and no noun."""
SAMPLE = HERE / "sample.png"
"""The picture that the command knows as `sample`."""
SAMPLE_LABELS = HERE / "sample.labels.png"
"""Which of its pixels show which object: 0 for none, else 1 and up."""


def known(lemma: str) -> bool:
    """Whether a noun, in its singular, is one of those that the sticker models were trained on."""
    from .nouns import NOUNS

    return lemma.strip().lower() in NOUNS
