"""What is printed about the data sets: sentences in each split, and Ref-Diff's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .items import DataSplit

SENTENCES: dict[tuple[str, str], int] = {
    ("refcoco", "val"): 10834,
    ("refcoco", "testA"): 5657,
    ("refcoco", "testB"): 5095,
    ("refcoco+", "val"): 10758,
    ("refcoco+", "testA"): 5726,
    ("refcoco+", "testB"): 4889,
    ("refcocog-umd", "val"): 4896,
    ("refcocog-umd", "test"): 9602,
    ("refcocog-google", "val"): 9536,
    ("phrasecut", "test"): 14354,
}
"""Sentences per split, as the literature counts them."""

PAPER: dict[tuple[str, str], dict[str, float]] = {
    ("refcoco", "val"): {"oiou": 0.352, "miou": 0.3721},
    ("refcoco", "testA"): {"oiou": 0.374},
    ("refcoco", "testB"): {"oiou": 0.345},
    ("refcoco+", "val"): {"oiou": 0.356, "miou": 0.3729},
    ("refcoco+", "testA"): {"oiou": 0.387},
    ("refcoco+", "testB"): {"oiou": 0.314},
    ("refcocog-umd", "val"): {"oiou": 0.386, "miou": 0.4402},
    ("refcocog-umd", "test"): {"oiou": 0.375},
}
"""Ref-Diff with SAM's proposals and both halves (arXiv 2308.16777), shares of 1."""

ABLATION: dict[tuple[str, str], dict[tuple[str, str], float]] = {
    ("refcoco", "val"): {
        ("generative", "own"): 0.2153,
        ("generative", "given"): 0.2982,
        ("clip", "given"): 0.3527,
        ("both", "given"): 0.3721,
    },
    ("refcocog-umd", "val"): {("generative", "own"): 0.2703, ("both", "given"): 0.4402},
}
"""mIoU of the paper's ablation by halves and proposals; "given" are SAM's."""


def is_whole(split: DataSplit) -> bool:
    """Whether a split is the published one, all of it, so that printed figures may stand by it."""
    whole = split.selection.first is None and split.selection.every == 1
    return whole and SENTENCES.get((split.dataset, split.split)) == split.total


def count_warning(dataset: str, split: str, total: int) -> str | None:
    """A sentence when a split has another number of sentences than the literature counts."""
    printed = SENTENCES.get((dataset, split))
    if printed is None or printed == total:
        return None
    return (
        f"{dataset} {split} is published with {printed} sentences, this copy has {total}; figures "
        "of different sentences cannot be compared"
    )
