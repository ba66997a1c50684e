"""Which things are the answer: one, some or all of them, and how sure that is.

Scores are [T], one per thing; see `instances.same_object` for what counts as one thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..masks.instances import best_of_each, same_object

LEAST_GAP = 0.4  # difference of log evidence that parts what is meant from what is not
FAINT = 0.2  # share of the best evidence below which nothing is meant
LIKELY = 0.5  # the same where no gap is wide enough
HOLDS = 0.5  # share of the best place weight from which a word of place holds
LEVELLED = 0.25  # share of a difference in evidence that remains where words of place decide
CLOSE = 0.5  # ambiguity from which the runner-up is worth a look


def set_by_gap(evidence: Tensor) -> Tensor:
    """Which of the things are meant by "all dogs": bool [T], by the widest gap in the evidence.

    evidence: [T] above 0, how well each fits the noun. The widest gap of the logarithms parts
    those that are meant from the rest; without a gap of `LEAST_GAP` everything is meant that has
    half of the best evidence. Nothing below `FAINT` of the best is meant.
    """
    value = evidence.clamp(min=1e-9) / evidence.amax().clamp(min=1e-9)
    order = value.argsort(descending=True, stable=True)
    ranked = value[order]
    within = int((ranked >= FAINT).sum())
    logs = torch.cat([ranked[:within], ranked.new_tensor([FAINT])]).log()
    gaps = logs[:-1] - logs[1:]
    if within < len(value):
        gaps[-1] = max(float(gaps[-1]), math.log(float(ranked[within - 1] / ranked[within])))
    inner = gaps[:-1] if within == len(value) else gaps
    wide = len(inner) > 0 and float(inner.amax()) >= LEAST_GAP
    count = int(inner.argmax()) + 1 if wide else int((ranked >= LIKELY).sum())
    meant = torch.zeros_like(value, dtype=torch.bool)
    meant[order[:count]] = True
    return meant


def chosen_things(
    scores: Tensor, evidence: Tensor, place: Tensor, number: int | None
) -> tuple[list[int], tuple[str, ...]]:
    """The things that answer a sentence, best first, and notes.

    scores: fused [T]. evidence: how well each fits the noun, place: how well it obeys the words of
    place, [T] in 0..1 each. number: that many, never filled up with what is not likely; None: all
    that are meant. At least one comes back where there are any.
    """
    if len(scores) == 0:
        return [], ()
    order = scores.argsort(descending=True, stable=True).tolist()
    if number == 1:
        return order[:1], ()
    holds = place >= HOLDS * place.amax()
    kept = holds.clone()
    kept[holds] = set_by_gap(evidence[holds])
    if number is None:
        return [i for i in order if kept[i]] or order[:1], ()
    meant = [i for i in order if evidence[i] >= LIKELY * evidence.amax()]
    note = (f"asked for {number}, found {len(meant)}",) if len(meant) < number else ()
    return meant[:number] or order[:1], note


def levelled(scores: Tensor, evidence: Tensor, labels: list[int], ruled: bool) -> Tensor:
    """Scores [N] in which things that all fit the noun differ little, so that place decides.

    A hotter or larger cat is not more of a cat. labels: which thing each mask shows; all masks of
    a thing move together, so that its best cut stays the best. ruled: whether the sentence has
    words of place, order, size or relation; without them the scores stay as they are. A thing with
    at least half the best evidence keeps `LEVELLED` of its distance to the best of those.
    """
    if not ruled or len(scores) == 0:
        return scores
    marks = torch.tensor(labels, device=scores.device)
    likely = evidence >= LIKELY * evidence.amax()
    best = scores[likely].amax()
    moved = scores.clone()
    for thing in set(marks[likely].tolist()):
        own = marks == thing
        top = scores[own & likely].amax()
        moved[own] += (1 - LEVELLED) * (best - top)
    return moved


def next_choice(scores: Tensor, masks: Tensor, choice: int = 1) -> int:
    """Index of the answer: the best mask, or with `choice` k the best one of the k-th object.

    Raises ValueError when there are fewer objects than `choice`; see `instances.same_object`.
    """
    ranked = best_of_each(scores, same_object(masks, scores))
    if not 1 <= choice <= len(ranked):
        raise ValueError(
            f"choice is {choice}, but there are {len(ranked)} different candidates; "
            f"take one from 1 to {len(ranked)}."
        )
    return ranked[choice - 1]


@dataclass(frozen=True)
class Doubt:
    """How close the next best thing comes: ambiguity in 0..1, 1 for a tie.

    runner_up: its index, None where there is no other. choice: the `next_choice` that takes it.
    """

    ambiguity: float
    runner_up: int | None
    choice: int = 2

    @property
    def note(self) -> str:
        close = self.runner_up is not None and self.ambiguity >= CLOSE
        return f"two candidates are close: choice {self.choice} takes the other" if close else ""


def doubt(scores: Tensor, chosen: int, labels: Tensor | list[int], scale: float = 1.0) -> Doubt:
    """The doubt that a choice leaves: exp of minus the margin to the best mask of the next thing.

    scores: [N]. labels: which thing each mask shows, negative for none. scale: what difference of
    scores makes one e times likelier than the other; 1 for log-probabilities. After the second
    choice the next thing is the third.
    """
    ranked = best_of_each(scores, [int(label) for label in labels])
    own = next((k for k, i in enumerate(ranked) if labels[i] == labels[chosen]), len(ranked))
    if own + 1 >= len(ranked):
        return Doubt(0.0, None)
    margin = float(scores[chosen]) - float(scores[ranked[own + 1]])
    return Doubt(math.exp(-max(0.0, margin) / scale), ranked[own + 1], own + 2)
