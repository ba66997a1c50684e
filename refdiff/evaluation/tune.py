"""Settings searched on one half of the pictures and judged on the other.

One field after another is varied, all others staying. The best of its values is taken when the
gain is more than twice its standard error over the pictures, so that noise does not choose. What
is raised is gIoU: the mean IoU, an empty mask being right where nothing is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..settings import Settings
from .referring_metrics import Score, score
from .remembered import Studied
from .search_space import FLOOR, FLOORS, SPACE, Choice, present, variations, with_floor

ROUNDS = 2
CAUTION = 2.0
"""How many standard errors a gain must have; the best of several values looks better than it is."""
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Step:
    """A value that was taken, and what it gained on the half searched, in shares of 1."""

    field: str
    value: object
    gain: float
    error: float


@dataclass(frozen=True)
class Tuned:
    """The settings found, the steps that led there, and how many settings were tried."""

    settings: Settings
    steps: tuple[Step, ...]
    tried: int


@dataclass(frozen=True)
class _Answered:
    """A sentence's IoU as it is answered, its presence, and its IoU if it were answered empty."""

    iou: float
    presence: float
    if_empty: float

    def under(self, floor: float) -> float:
        """Its IoU when what is less present than the floor is nothing."""
        return self.iou if self.presence >= floor else self.if_empty


class Search:
    """Looks at the pictures under one setting after another, each setting once."""

    def __init__(self, pictures: Sequence[Studied], clip: bool) -> None:
        if not pictures:
            raise ValueError("There is no picture to search on; give more sentences.")
        self._pictures = pictures
        self._clip = clip
        self._seen: dict[str, list[list[_Answered]]] = {}

    def run(self, settings: Settings, progress: Progress | None = None) -> Tuned:
        """Vary every field in turn, `ROUNDS` times or until nothing is better."""
        steps: list[Step] = []
        choices = [one for one in SPACE if self._clip or not one.needs_clip]
        for number in range(ROUNDS):
            before = len(steps)
            for done, choice in enumerate(choices):
                settings = self._choose(settings, variations(settings, choice), choice, steps)
                settings = self._raise_floor(settings, steps)
                if progress:
                    progress(number * len(choices) + done + 1, ROUNDS * len(choices))
            if len(steps) == before:
                break
        return Tuned(settings, tuple(steps), len(self._seen))

    def _choose(
        self, now: Settings, others: Sequence[Settings], choice: Choice, steps: list[Step]
    ) -> Settings:
        ranked = []
        for other in others:
            try:
                ranked.append((self._gain(now, other), other))
            except ValueError:  # what this model cannot keep, such as a layer that it lacks
                continue
        if not ranked:
            return now
        (gain, error), best = max(ranked, key=lambda one: one[0][0])
        if gain <= CAUTION * error:
            return now
        steps.append(Step(choice.field, present(best, choice.field), gain, error))
        return best

    def _raise_floor(self, now: Settings, steps: list[Step]) -> Settings:
        others = [with_floor(now, floor) for floor in FLOORS if floor != present(now, FLOOR)]
        return self._choose(now, others, Choice(FLOOR, lambda _: ()), steps)

    def _gain(self, now: Settings, other: Settings) -> tuple[float, float]:
        """Mean gain per sentence, and its standard error with the pictures as the draws."""
        gaps = [
            [two - one for one, two in zip(a, b, strict=True)]
            for a, b in zip(self._ious(now), self._ious(other), strict=True)
        ]
        count = sum(map(len, gaps))
        mean = sum(map(sum, gaps)) / count
        spread = sum((sum(rows) - mean * len(rows)) ** 2 for rows in gaps)
        return mean, math.sqrt(spread) / count

    def _ious(self, settings: Settings) -> list[list[float]]:
        floor = settings.empty_below
        asked = with_floor(settings, 0.0)
        key = repr(asked)
        if key not in self._seen:
            self._seen[key] = [_answered(picture, asked) for picture in self._pictures]
        return [[one.under(floor) for one in rows] for rows in self._seen[key]]


def _answered(picture: Studied, settings: Settings) -> list[_Answered]:
    return [
        _Answered(score(item, one).iou, float(one.presence or 0.0), float(not item.targets))
        for item, one in zip(picture.items, picture.answers(settings), strict=True)
    ]


def halves_of(pictures: Sequence[Studied]) -> tuple[list[Studied], list[Studied]]:
    """The pictures to search on and those to judge by: every other one."""
    return list(pictures[::2]), list(pictures[1::2])


def scores_of(pictures: Sequence[Studied], settings: Settings) -> list[Score]:
    """Every sentence's score under some settings, answered in full."""
    from .kinds import kinds_of

    return [
        score(item, one, kinds_of(item.text))
        for picture in pictures
        for item, one in zip(picture.items, picture.answers(settings), strict=True)
    ]


def giou(scores: Sequence[Score]) -> float:
    """The figure that is raised."""
    return float(np.mean([one.iou for one in scores])) if scores else 0.0
