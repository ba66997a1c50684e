"""Whether one run is better than another: the paired bootstrap over pictures.

Sentences of one picture rise and fall together, so pictures are drawn, with all their sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .referring_metrics import Score

DRAWS = 2000
SEED = 0
COMPARED = ("oiou", "miou", "pr50", "giou", "ciou")


@dataclass(frozen=True)
class Difference:
    """B minus A, as shares of 1. low, high: the middle 95 % of the draws. n: sentences."""

    n: int
    a: float
    b: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.b - self.a

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def compare_scores(
    a: Sequence[Score], b: Sequence[Score], draws: int = DRAWS, seed: int = SEED
) -> dict[str, dict[str, Difference]]:
    """Differences by kind ("all" first) and figure, over the sentences that both have.

    Raises ValueError when they have none in common, or one whose truth differs.
    """
    other = {one.id: one for one in b}
    pairs = [(one, other[one.id]) for one in a if one.id in other]
    if not pairs:
        raise ValueError("The two runs have no sentence in common; compare runs of one split.")
    for one, two in pairs:
        if (one.truth, one.targets, one.image) != (two.truth, two.targets, two.image):
            raise ValueError(
                f"Sentence {one.id} means {one.truth} pixels in the one run and {two.truth} in "
                "the other; compare runs over the same data set."
            )
    kinds = ["all", *dict.fromkeys(kind for one, _ in pairs for kind in one.kinds)]
    return {
        kind: _differences(
            [pair for pair in pairs if kind == "all" or kind in pair[0].kinds], draws, seed
        )
        for kind in kinds
    }


def _differences(
    pairs: Sequence[tuple[Score, Score]], draws: int, seed: int
) -> dict[str, Difference]:
    found = {}
    for name in COMPARED:
        terms = [(_TERMS[name](one), _TERMS[name](two)) for one, two in pairs]
        kept = [(pair[0].image, *both) for pair, both in zip(pairs, terms, strict=True) if both[0]]
        if kept:
            found[name] = _difference(kept, draws, seed)
    return found


def _difference(
    terms: Sequence[tuple[str, tuple[float, float] | None, tuple[float, float] | None]],
    draws: int,
    seed: int,
) -> Difference:
    """Both figures are sums of parts over sums of wholes, added up per picture and redrawn."""
    rows = {image: row for row, image in enumerate(dict.fromkeys(term[0] for term in terms))}
    sums = np.zeros((len(rows), 4))
    for image, one, two in terms:
        sums[rows[image]] += (*(one or ()), *(two or ()))
    generator = np.random.default_rng(seed)
    drawn = [
        sums[generator.integers(0, len(rows), len(rows))].sum(0) if len(rows) > 1 else sums[0]
        for _ in range(draws)
    ]
    gaps = [_share(total[2], total[3]) - _share(total[0], total[1]) for total in drawn]
    low, high = np.percentile(gaps, [2.5, 97.5])
    total = sums.sum(0)
    a, b = _share(total[0], total[1]), _share(total[2], total[3])
    return Difference(len(terms), a, b, float(low), float(high))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _targeted(one: Score) -> bool:
    return bool(one.targets and one.truth)


def _usable(one: Score) -> bool:
    return bool(one.truth or not one.targets)


_TERMS: Mapping[str, Callable[[Score], tuple[float, float] | None]] = {
    "oiou": lambda one: (one.intersection, one.union) if _targeted(one) else None,
    "miou": lambda one: (one.iou, 1.0) if _targeted(one) else None,
    "pr50": lambda one: (float(one.iou >= 0.5), 1.0) if _targeted(one) else None,
    "giou": lambda one: (one.iou, 1.0) if _usable(one) else None,
    "ciou": lambda one: (one.intersection, one.union) if _usable(one) else None,
}
"""Each figure's part and whole of one sentence; None where it does not count."""
