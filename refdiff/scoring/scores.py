"""Scores of masks and the choice among them (the paper's sections 3.2 and 3.3).

Frame: heat is [H, W] float in 0..1, masks are bool [N, H, W] of the same size, scores are [N].
Nothing here depends on the order in which the masks come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import HeatError
from ..masks.proposals import checked_heat

RULED_OUT = 1000.0  # taken off a mask whose place weight is 0: it comes after all others
TEMPERATURE = 4.0  # nats of CLIP that make a thing e times less likely one of the noun's kind
COLD = 0.5  # what counts as heat on a thing that has none, where CLIP may know it all the same
LEAST_SHARE = 0.01  # of the best generative score: masks below it are equally unlikely
LEAST_AREA = 1 / 256**2  # share of the picture, a pixel of the working size
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


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"contrast": contrast, "otsu": otsu}


def noun_fit(heat: Tensor, masks: Tensor, logits: Tensor | None) -> Tensor:
    """How well each mask fits the noun by itself, whatever its size: [N] in 0..1, the best near 1.

    The square root of the mean heat inside, relative to the best, times
    exp((logits - best logits) / TEMPERATURE). logits: CLIP's [N], similarity times its own scale.
    Attention often settles on one of several cats, so that little heat rules nothing out that CLIP
    takes for a cat: heat then counts from `COLD` to 1.
    """
    hot, _, _ = _means(heat, masks)
    share = (hot / hot.max().clamp(min=1e-6)).clamp(min=0)
    if logits is None:
        return share.sqrt()
    near = ((logits - logits.max()) / TEMPERATURE).exp()
    return (COLD + (1 - COLD) * share).sqrt() * near


def log_shares(generative: Tensor, logits: Tensor | None, alpha: float) -> Tensor:
    """alpha ln(g / max g) + (1 - alpha) ln softmax(logits): [N].

    The product fusion: a product of experts, free of the scale of any of them. g / max g does not
    depend on how far the heat spreads, and the softmax over the candidates not on the spread of
    CLIP's similarities, which differ tenfold among CLIPs, once each is multiplied by its own logit
    scale. Without CLIP the first term has all the weight. g: the generative score [N], floored at
    LEAST_SHARE of its best; logits: [N].
    Raises ValueError for lengths that differ or arguments out of range, HeatError for NaN scores.
    """
    _check_parts(generative, logits, alpha)
    score = _log_share(generative)
    if logits is not None:
        score = alpha * score + (1 - alpha) * logits.float().log_softmax(0)
    return _checked_scores(score)


def _log_share(generative: Tensor) -> Tensor:
    best = _checked_scores(generative).max().clamp(min=1e-6)
    return (generative.float() / best).clamp(min=LEAST_SHARE).log()


def log_ranks(generative: Tensor, clip: Tensor | None, alpha: float) -> Tensor:
    """-alpha ln(rank of g) - (1 - alpha) ln(rank of clip): [N].

    `log_shares` with 1 / rank for each half's share, the best having rank 1 and ties the mean of
    theirs: nothing that keeps a half's order matters, nor does by how much it prefers a mask, so
    that how sure the choice is cannot be told. Without CLIP the first term has all the weight.
    Errors: as in `log_shares`.
    """
    _check_parts(generative, clip, alpha)
    score = -_ranks(generative).log()
    if clip is not None:
        score = alpha * score - (1 - alpha) * _ranks(clip).log()
    return score


def _ranks(scores: Tensor) -> Tensor:
    value = _checked_scores(scores)
    above, same = value[None] > value[:, None], value[None] == value[:, None]
    return above.sum(1) + (same.sum(1) + 1) / 2


def log_evidence(generative: Tensor, logits: Tensor, areas: Tensor) -> Tensor:
    """What `calibrated` weighs, [N, 3]: ln(g / max g), ln softmax(logits), ln areas.

    areas: shares of the picture [N], counted from a pixel of the working size up.
    """
    size = areas.float().clamp(min=LEAST_AREA).log()
    return torch.stack([_log_share(generative), logits.float().log_softmax(0), size], 1)


def calibrated(
    generative: Tensor, logits: Tensor | None, areas: Tensor, weights: Sequence[float]
) -> Tensor:
    """The sum of `log_evidence`, weighed: [N], a conditional logit model of which mask is right.

    weights: three, fitted on sentences whose answer is known (`families.CALIBRATED`). Without CLIP
    the first term alone counts. Errors: as in `log_shares`.
    """
    if logits is None:
        return log_shares(generative, None, 1.0)
    _check_parts(generative, logits, 1.0)
    return _checked_scores(log_evidence(generative, logits, areas) @ torch.tensor([*weights]))


def weighted_sum(generative: Tensor, clip: Tensor | None, alpha: float) -> Tensor:
    """s = alpha * generative + (1 - alpha) * clip (section 3.3): [N].

    The paper's sum of raw scores, so alpha depends on the CLIP. Without CLIP, s is the generative
    score. Errors: as in `log_shares`.
    """
    _check_parts(generative, clip, alpha)
    score = generative.float()
    if clip is not None:
        score = alpha * score + (1 - alpha) * clip.float()
    return _checked_scores(score)


def _check_parts(generative: Tensor, clip: Tensor | None, alpha: float) -> None:
    parts = [generative] if clip is None else [generative, clip]
    if len({tuple(part.shape) for part in parts}) != 1 or generative.ndim != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise ValueError(f"scores have shapes {shapes}, wanted one [N] for all; score all masks.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, wanted 0 to 1; correct the settings.")


def placed(scores: Tensor, place: Tensor, weight: float) -> Tensor:
    """scores + weight * ln(place): [N]; a better place always helps, whatever the scores' sign.

    place: weights [N] >= 0, 1 = no opinion; 0 puts a mask behind all others but never drops it.
    Raises ValueError for weights of a wrong shape or below 0, HeatError for NaN scores.
    """
    if place.shape != scores.shape or not bool((place >= 0).all()) or weight < 0:
        raise ValueError(
            f"place weights are {place.tolist()} and their weight {weight}, wanted {len(scores)} "
            "of 0 or more and a weight from 0 up; correct them."
        )
    place = place.float()
    moved = scores + weight * place.clamp(min=1e-9).log()
    return _checked_scores(torch.where(place > 0, moved, scores - RULED_OUT))


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
