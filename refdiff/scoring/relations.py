"""How well things stand to the other nouns of a sentence: "next to the tree", "in the bowl".

Every weight is [G] in 0..1, one per thing; a relation is told by the heat of its anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..expression import Noun, Relation
from ..masks.instances import STEEP, Things
from .anchors import Weigh, narrowed

COVERED = 0.1  # weight left to a thing that covers the anchor wholly: it is the anchor itself


def related(
    things: Things, relation: Relation, anchors: Mapping[Noun, Tensor], notes: list[str]
) -> Tensor:
    """Weight of one relation, the best likely thing having 1.

    anchors: heat [H, W] of the other nouns; what lacks it is left out and said in `notes`.
    """
    alone = relation.kind in _DEPTHS or relation.kind in _ALONE
    if relation.kind not in RELATIONS or (not relation.anchors and not alone):
        return torch.ones_like(things.areas)
    if not relation.anchors and relation.kind in _ALONE:
        return things.relative(_ALONE[relation.kind] * _from_others(things), 0.05)
    if not relation.anchors:
        return things.relative(_DEPTHS[relation.kind] * things.boxes[:, 2], 0.1)
    missing = [noun.word.text for noun in relation.anchors if noun not in anchors]
    if missing:
        notes.append(f"no heat for {', '.join(missing)}, so {relation.word.text!r} was left out")
        return torch.ones_like(things.areas)
    weigh = _weigher()
    heats = [_peak(narrowed(noun, anchors, weigh), things) for noun in relation.anchors]
    return things.to_best(RELATIONS[relation.kind](things, heats))


def _weigher() -> Weigh:
    """How well masks obey what is said of an anchor itself."""
    from .place import weights

    return lambda masks, said, evidence, heats: weights(masks, said, evidence, heats).weights


def _near(things: Things, heats: list[Tensor]) -> Tensor:
    """Near all anchors: heat that lies close to the thing counts, heat on it does not."""
    return torch.stack([things.cells.closeness(heat, outside=True) for heat in heats]).prod(0)


def _far(things: Things, heats: list[Tensor]) -> Tensor:
    """Near turned round: the farther from all anchors, the better."""
    close = torch.stack([things.cells.closeness(heat, outside=False) for heat in heats]).amax(0)
    return things.relative(-close.clamp(min=1e-6).log(), 0.5)


def _from_others(things: Things) -> Tensor:
    """Distance from each thing's centre to the nearest likely other one: [G]."""
    spots = things.centroids * things.span
    apart = torch.cdist(spots, spots)
    apart = apart.masked_fill(torch.eye(len(spots), dtype=torch.bool, device=spots.device), 9.0)
    return apart.masked_fill(~things.likely[None], 9.0).amin(1).clamp(max=1.5)


def _touching(things: Things, heats: list[Tensor]) -> Tensor:
    """Near or on some anchor; a belonging says little about where things are."""
    parts = [things.cells.closeness(heat, outside=False) for heat in heats]
    return 0.3 + 0.7 * torch.stack(parts).amax(0)


def _towards(axis: int, sign: int) -> Callable[[Things, list[Tensor]], Tensor]:
    """Weight of a direction, from the anchors to the thing; nearer things a little more."""

    def weigh(things: Things, heats: list[Tensor]) -> Tensor:
        weight = torch.ones_like(things.areas)
        for heat in heats:
            rest = heat * ~things.cells.filled
            step = (things.centroids - things.cells.middles(rest)) * things.span
            length = step.norm(dim=1).clamp(min=1e-6)
            turned = torch.sigmoid(STEEP / 2 * sign * step[:, axis] / length)
            weight = weight * turned * (0.5 + 0.5 * torch.exp(-2 * length)) * _clear(things, heat)
        return weight

    return weigh


def _between(things: Things, heats: list[Tensor]) -> Tensor:
    """Close to the middle of the anchors, measured by how far they are apart."""
    spots = things.cells.middles(torch.stack(heats)) * things.span
    apart = (spots - spots.mean(0)).norm(dim=1).amax() if len(spots) > 1 else spots.new_tensor(0.2)
    away = (things.centroids * things.span - spots.mean(0)).norm(dim=1)
    clear = torch.stack([_clear(things, heat) for heat in heats]).prod(0)
    return clear * torch.exp(-(away / (apart + 0.05)).square())


def _on(things: Things, heats: list[Tensor]) -> Tensor:
    """Touching the anchor, and rather above its middle."""
    above = things.to_best(RELATIONS["above"](things, heats))
    return _touching(things, heats) * (0.3 + 0.7 * above)


def _in(things: Things, heats: list[Tensor]) -> Tensor:
    """The anchor's heat all over the thing, which does not cover all of that heat itself."""
    filled = things.cells.filled.flatten(1).float()
    size = filled.sum(1).clamp(min=1e-6)
    weight = torch.ones_like(things.areas)
    for heat in heats:
        over = filled @ (heat / heat.amax().clamp(min=1e-9)).flatten() / size
        weight = weight * (0.2 + 0.8 * over) * _clear(things, heat)
    return weight


def _in_depth(sign: int) -> Callable[[Things, list[Tensor]], Tensor]:
    """In front of: the lower edge stands lower than the anchor's does, and near it."""

    def weigh(things: Things, heats: list[Tensor]) -> Tensor:
        weight = 0.5 + 0.5 * _near(things, heats)
        for heat in heats:
            edge = (heat.sum(1).cumsum(0) < 0.95).float().mean()
            weight = weight * torch.sigmoid(STEEP * sign * (things.boxes[:, 2] - edge))
        return weight

    return weigh


_DEPTHS = {"in front of": 1, "behind": -1}
_ALONE = {"near": -1, "far from": 1}  # "away from the others"
RELATIONS: dict[str, Callable[[Things, list[Tensor]], Tensor]] = {
    "near": _near,
    "far from": _far,
    "left of": _towards(1, -1),
    "right of": _towards(1, 1),
    "above": _towards(0, -1),
    "below": _towards(0, 1),
    "on": _on,
    "in": _in,
    "between": _between,
    "with": _touching,
    "in front of": _in_depth(1),
    "behind": _in_depth(-1),
}


def _peak(heat: Tensor, things: Things) -> Tensor:
    """The hotter half of a heat map on the coarse grid, with sum 1: [h, w]."""
    size = (len(things.cells.rows), len(things.cells.columns))
    small = adaptive_avg_pool2d(heat.float()[None].to(things.areas.device), size)[0]
    low, high = small.amin(), small.amax()
    peak = ((small - low) / (high - low).clamp(min=1e-6) - 0.5).clamp(min=0)
    return peak / peak.sum() if float(peak.sum()) > 0 else torch.full_like(peak, 1 / peak.numel())


def _clear(things: Things, heat: Tensor) -> Tensor:
    """Small for a thing that covers the anchor, being most likely the anchor itself: [G]."""
    rest = 1 - things.cells.filled.flatten(1).float() @ heat.flatten() / heat.sum().clamp(min=1e-9)
    return COVERED + (1 - COVERED) * rest
