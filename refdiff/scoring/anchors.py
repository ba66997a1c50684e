"""The heat of a noun narrowed to the one of its things that is meant: "the big plate"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..expression import Expression, Noun
from ..masks.peaks import cut_zones, split_peaks

Weigh = Callable[[Tensor, Expression, Tensor, Mapping[Noun, Tensor]], Tensor]
LEFT_OVER = 0.05  # share of its heat that a thing keeps which is not the one described


def narrowed(noun: Noun, heats: Mapping[Noun, Tensor], weigh: Weigh) -> Tensor:
    """The heat [H, W] of `noun`, cooled where its place, size and relations do not hold.

    heats: heat of the noun and of the nouns that it is related to. weigh: how well masks obey an
    expression, such as `place.weights`. A noun of which nothing is said keeps its heat.
    """
    heat = heats[noun]
    if not noun.described():
        return heat
    zones = split_peaks(heat)
    masks = cut_zones(heat, zones)
    if len(masks) < 2:
        return heat
    expression = Expression(
        "", noun, places=noun.places, size=noun.size, relations=noun.relations, number=1
    )
    evidence = torch.stack([heat[mask].amax() for mask in masks])
    weight = weigh(masks, expression, evidence / evidence.amax().clamp(min=1e-9), heats)
    return cooled(heat, masks, weight)


def cooled(heat: Tensor, masks: Tensor, weight: Tensor) -> Tensor:
    """The heat kept in the mask of the greatest weight, nearly taken off the other masks."""
    best = masks[int(weight.argmax())]
    others = (masks & ~best).any(0)
    return torch.where(others, LEFT_OVER * heat, heat)
