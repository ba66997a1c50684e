"""What a sentence does not want, taken off: "except the dog", "not red", "all but the left one".

What is denied of the thing looked for ("not on the left") turns a weight round; a thing that is
left out ("the left one", "the bride") weighs next to nothing; and `without` takes it off a mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..expression import Exclusion, Noun
from ..masks.instances import PLAUSIBLE, Things

OUT = 0.01  # weight of what is excluded
INSIDE = 0.5  # share of a thing within what is excluded, from which it is excluded too


def turned_round(weight: Tensor, likely: Tensor) -> Tensor:
    """1 - weight, where the best likely thing has weight 1: [G] in `OUT`..1."""
    best = weight[likely].amax().clamp(min=1e-9)
    return (1 - weight / best).clamp(min=OUT, max=1)


def left_out(weight: Tensor, likely: Tensor, number: int | None) -> Tensor:
    """`OUT` for the things that are left out, 1 for the others: [G].

    weight: how well each is what is left out. number: how many are; None: all that come to half
    of the best.
    """
    value = torch.where(likely, weight, -torch.inf)
    if number is None:
        out = likely & (weight >= PLAUSIBLE * weight[likely].amax())
    else:
        out = torch.zeros_like(likely)
        out[value.topk(min(number, int(likely.sum()))).indices] = True
    return torch.where(out, OUT, 1.0)


def shown(things: Things, heat: Tensor) -> Tensor:
    """How much of a heat map [H, W] lies on each thing, the hottest thing having 1: [G]."""
    from torch.nn.functional import adaptive_avg_pool2d

    size = (len(things.cells.rows), len(things.cells.columns))
    small = adaptive_avg_pool2d(heat.float()[None].to(things.areas.device), size)[0].flatten()
    filled = things.cells.filled.flatten(1).float()
    mean = filled @ small / filled.sum(1).clamp(min=1e-6)
    return mean / mean.amax().clamp(min=1e-9)


def exclude(
    things: Things, one: Exclusion, same: bool, weight: Tensor, heats: Mapping[Noun, Tensor]
) -> Tensor:
    """The weight that an exclusion leaves each thing: [G] in `OUT`..1.

    same: whether it speaks of the kind of thing that is looked for. weight: how well each thing
    obeys the places, size, order and relations of what is excluded. heats: for `one.noun` the heat
    of the words that are denied ("red"), or of the other noun.
    """
    looks = heats.get(one.noun)
    seen = torch.ones_like(weight) if looks is None else shown(things, looks)
    if not same:
        return torch.where(seen >= INSIDE, OUT, 1.0) if looks is not None else seen
    ruled = bool(one.places or one.size or one.order or one.relations)
    if looks is None and not ruled:
        return torch.ones_like(weight)
    if one.told:
        return turned_round(weight * seen, things.likely)
    return left_out(weight * seen, things.likely, one.number)


def without(mask: Tensor, excluded: Tensor) -> Tensor:
    """A mask less what is excluded, both bool [H, W]."""
    if mask.shape != excluded.shape:
        raise ValueError(
            f"the mask is {tuple(mask.shape)} and what is excluded {tuple(excluded.shape)}; "
            "bring both to one size."
        )
    return mask & ~excluded


def complement(excluded: Tensor) -> Tensor:
    """All of the picture but the masks [K, H, W]: bool [H, W]."""
    return ~excluded.any(0)
