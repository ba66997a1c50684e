"""Scores of masks and the choice among them (the paper's sections 3.2 and 3.3).

Frame: heat is [H, W] float in 0..1, masks are bool [N, H, W] of the same size, scores are [N].
Nothing here depends on the order in which the masks come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import HeatError
from .proposals import checked_heat

RULED_OUT = 1000.0  # taken off a mask whose place weight is 0: it comes after all others
SPREAD = 0.6  # difference of CLIP similarity that makes a thing e times less likely the one meant
LEAST_VARIANCE = 1e-8  # below it the heat is constant


def _means(heat: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean heat inside and outside each mask, and each mask's share of the picture: three [N].

    Where a mask has no inside or no outside, the mean of the whole picture stands in.
    """
    heat = checked_heat(heat)
    if masks.ndim != 3 or masks.shape[1:] != heat.shape:
        raise ValueError(
            f"masks have shape {tuple(masks.shape)}, heat has {tuple(heat.shape)}; "
            "wanted [N, H, W] masks of the heat's size, so resize one to the other."
        )
    flat, inside = heat.flatten(), masks.flatten(1).float()
    area, total = inside.sum(1), flat.sum()
    heat_inside = inside @ flat
    rest = flat.numel() - area
    whole = total / flat.numel()
    mean_in = torch.where(area > 0, heat_inside / area.clamp(min=1), whole)
    mean_out = torch.where(rest > 0, (total - heat_inside) / rest.clamp(min=1), whole)
    return mean_in, mean_out, area / flat.numel()


def contrast(heat: Tensor, masks: Tensor) -> Tensor:
    """Mean heat inside each mask minus mean heat outside (the paper's generative score): [N].

    Between -1 and 1. A mask that is empty or covers the whole picture scores 0.
    """
    mean_in, mean_out, _ = _means(heat, masks)
    return mean_in - mean_out


def otsu(heat: Tensor, masks: Tensor) -> Tensor:
    """Share of the heat's variance that each mask explains, with the contrast's sign: [N].

    w (1 - w) contrast^2 / variance, w the mask's share of the picture: Otsu's criterion, which
    unlike the plain contrast does not reward shrinking the mask. Between -1 and 1; 1 means that
    the heat is the mask; 0 for a constant heat.
    """
    mean_in, mean_out, share = _means(heat, masks)
    gap = mean_in - mean_out
    variance = heat.float().var(correction=0)
    if float(variance) < LEAST_VARIANCE:
        return torch.zeros_like(gap)
    return share * (1 - share) * gap * gap.abs() / variance


def weighted_contrast(heat: Tensor, masks: Tensor, b: float = 1.8) -> Tensor:
    """(2 - b) mean inside - b mean outside (HybridGL): [N].

    b above 1 punishes heat left outside, so the masks grow; b = 1 is the plain contrast.
    HybridGL takes 1.8, 1.95 for words like "big" and 1.5 for words like "small".
    """
    if not 0 <= b <= 2:
        raise ValueError(f"b is {b}, wanted 0 to 2; 1 is the plain contrast.")
    mean_in, mean_out, _ = _means(heat, masks)
    return (2 - b) * mean_in - b * mean_out


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "contrast": contrast,
    "otsu": otsu,
    "weighted": weighted_contrast,
}


def evidence(heat: Tensor, masks: Tensor, clip: Tensor | None) -> Tensor:
    """How well each mask fits the noun by itself, whatever its size: [N] in 0..1, the best near 1.

    The square root of the mean heat inside, relative to the best, times how close CLIP's
    similarity comes to its best (e-fold per `SPREAD`).
    """
    hot, _, _ = _means(heat, masks)
    found = (hot / hot.max().clamp(min=1e-6)).clamp(min=0).sqrt()
    return found if clip is None else found * ((clip - clip.max()) / SPREAD).exp()


def combine(
    generative: Tensor, clip: Tensor | None, place: Tensor, alpha: float, strength: float = 0.2
) -> Tensor:
    """s = alpha * generative + (1 - alpha) * clip, then + strength * ln(place): [N].

    Without CLIP, s is the generative score. place: weights [N] >= 0, 1 = no opinion. Adding the
    logarithm multiplies exp(s / strength) by the weight, so a better place always helps, whatever
    the sign of s. A weight of 0 puts a mask behind all others but never drops it.
    Raises ValueError for lengths that differ or arguments out of range, HeatError for NaN scores.
    """
    parts = [generative, place] if clip is None else [generative, clip, place]
    if len({tuple(part.shape) for part in parts}) != 1 or place.ndim != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise ValueError(f"scores have shapes {shapes}, wanted one [N] for all; score all masks.")
    if not 0 <= alpha <= 1 or strength < 0:
        raise ValueError(
            f"alpha is {alpha} and strength {strength}, wanted alpha from 0 to 1 and strength "
            "from 0 up; correct the settings."
        )
    if not bool((place >= 0).all()):
        raise ValueError(f"place weights are {place.tolist()}, wanted 0 or more; correct them.")
    place = place.float()
    score = generative.float()
    if clip is not None:
        score = alpha * score + (1 - alpha) * clip.float()
    moved = score + strength * place.clamp(min=1e-9).log()
    return _checked_scores(torch.where(place > 0, moved, score - RULED_OUT))


def _checked_scores(scores: Tensor) -> Tensor:
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"scores have shape {tuple(scores.shape)}, wanted [N]; score the masks.")
    lost = int(torch.isnan(scores).sum())
    if lost:
        raise HeatError(
            f"{lost} of {len(scores)} scores are NaN, most likely because half precision "
            "overflowed; run the model in float32."
        )
    return scores


def _shared(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels that each two masks share [N, N], and each mask's area [N]."""
    flat = masks.flatten(1).float()
    return flat @ flat.T, flat.sum(1)


def overlaps(masks: Tensor) -> Tensor:
    """Intersection over union of every two masks: [N, N] in 0..1 (two empty masks: 0)."""
    both, area = _shared(masks)
    return both / (area[:, None] + area[None] - both).clamp(min=1)


def _order(scores: Tensor, masks: Tensor) -> list[int]:
    """Indices from best to worst."""
    if len(scores) != len(masks):
        raise ValueError(
            f"There are {len(scores)} scores and {len(masks)} masks, wanted as many; score each."
        )
    return _checked_scores(scores).argsort(descending=True, stable=True).tolist()


def ranking(scores: Tensor, masks: Tensor, overlap: float = 0.5) -> list[int]:
    """Indices of the masks that differ from each other, best first.

    A mask whose IoU with a better one exceeds `overlap` counts as the same and is passed over.
    Raises ValueError for lengths that differ, HeatError for NaN scores.
    """
    order, alike = _order(scores, masks), overlaps(masks) > overlap
    kept: list[int] = []
    for index in order:
        if not bool(alike[index, kept].any()):
            kept.append(index)
    return kept


def choose(scores: Tensor, masks: Tensor, choice: int = 1, overlap: float = 0.5) -> int:
    """Index of the answer: the best mask, or with `choice` k the k-th best different one.

    Raises ValueError when there are fewer different masks than `choice`; see `ranking`.
    """
    ranked = ranking(scores, masks, overlap)
    if not 1 <= choice <= len(ranked):
        raise ValueError(
            f"choice is {choice}, but there are {len(ranked)} different candidates; "
            f"take one from 1 to {len(ranked)}."
        )
    return ranked[choice - 1]


def group(masks: Tensor, scores: Tensor, overlap: float = 0.5) -> list[int]:
    """Which thing each mask shows: a number per mask, 0 for the best mask's, then rising.

    A mask belongs to the first better thing of which it shares more than `overlap` of the smaller
    of the two, so that a part and its whole are one thing.
    """
    order = _order(scores, masks)
    both, area = _shared(masks)
    same = both / torch.minimum(area[:, None], area[None]).clamp(min=1) > overlap
    seeds: list[int] = []
    numbers = [0] * len(order)
    for index in order:
        owner = next((n for n, seed in enumerate(seeds) if bool(same[index, seed])), len(seeds))
        if owner == len(seeds):
            seeds.append(index)
        numbers[index] = owner
    return numbers


def union(
    masks: Tensor,
    scores: Tensor,
    instances: Sequence[int] | Tensor | None,
    number: int | None,
    above: float = 0.7,
) -> list[int]:
    """Indices of the masks that together answer a plural ("both cats", "all apples"), best first.

    instances: which thing each mask shows [N], negative for none; None asks `group`. The best mask
    of each thing counts. number: that many things (or as many as there are); None: every thing
    whose score is at least `above` times the best one's (for a negative best, as far below it).
    Raises ValueError for bad arguments, HeatError for NaN scores.
    """
    if number is not None and number < 1:
        raise ValueError(f"number is {number}, wanted at least 1, or None for all of them.")
    order = _order(scores, masks)
    things = group(masks, scores) if instances is None else [int(thing) for thing in instances]
    if len(things) != len(order):
        raise ValueError(
            f"There are {len(things)} instances and {len(order)} masks, wanted one number per mask."
        )
    best: dict[int, int] = {}
    for index in order:
        if things[index] >= 0:
            best.setdefault(things[index], index)
    kept = list(best.values()) or order[:1]
    if number is not None:
        return kept[:number]
    top = float(scores[kept[0]])
    floor = top - (1 - above) * abs(top)
    return [index for index in kept if float(scores[index]) >= floor]
