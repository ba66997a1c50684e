"""Place, size, order and relation words as weights on masks (in the place of the paper's P).

The paper darkens one side of the picture (section 3.3). Here the words are read off the masks
themselves: which thing each mask stands for, where that thing is, how large, and how it stands to
the other nouns. Every weight is 0..1 and 1 means no objection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..expression import Expression, Noun, Order
from ..masks.instances import PLAUSIBLE, STEEP, Things, check, instances, things_of
from .exclude import exclude
from .relations import RELATIONS, related

__all__ = ["PLACES", "RELATIONS", "SIZES", "Weighted", "instances", "weights"]

FAINT = 0.1  # weight of what hardly fits the noun, and of masks that cover several things
LEVEL = 1e-4  # things no farther apart on the line that is counted stand level


@dataclass(frozen=True)
class Weighted:
    """weights: [N] in 0..1, one per mask; notes: sentences on words that could not be obeyed."""

    weights: Tensor
    notes: tuple[str, ...] = ()


def ruled(expression: Expression) -> bool:
    """Whether a sentence has words that the masks are weighed by."""
    said = (expression.places, expression.size, expression.order, expression.relations)
    return any(said) or bool(expression.excluded)


def weights(
    masks: Tensor,
    expression: Expression,
    evidence: Tensor,
    anchors: Mapping[Noun, Tensor] | None = None,
) -> Weighted:
    """How well each mask obeys the place, size, order and relation words of `expression`.

    masks: bool [N, H, W]. evidence: [N] in 0..1, how well each mask fits the noun by itself; only
    things with at least half the best evidence are ranked and counted, the others weigh little.
    anchors: heat [H, W] of other nouns; a relation to a noun without heat is left out and noted.
    Without such words every weight is 1. Raises ValueError for masks or evidence of a wrong shape.
    """
    check(masks, evidence)
    plain = Weighted(torch.ones(len(masks), device=masks.device))
    if len(masks) == 0 or (not ruled(expression) and expression.number in (1, None)):
        return plain
    things, labels = things_of(masks, evidence)
    count, notes = int(things.likely.sum()), []
    if expression.number is not None and expression.number > count:
        notes.append(f"asked for {expression.number}, found {count}")
    if not ruled(expression):
        return Weighted(plain.weights, tuple(notes))
    found = _product(things, expression, anchors or {}, notes)
    found = torch.where(things.likely, found, FAINT * found)
    spread = torch.where(labels >= 0, found[labels.clamp(min=0)], FAINT * found.min())
    return Weighted(spread.clamp(0, 1), tuple(notes))


def _product(
    things: Things, expression: Expression, anchors: Mapping[Noun, Tensor], notes: list[str]
) -> Tensor:
    """The weights of all words multiplied: [G]."""
    weight = torch.ones_like(things.areas)
    for one in expression.excluded:
        same = one.noun.anything or one.noun.lemma == expression.root.lemma
        own = _product(things, one.expression(expression.text), anchors, notes)
        weight = weight * exclude(things, one, same, own, anchors)
    for place in expression.places:
        weight = weight * PLACES[place.side](things, expression.number == 1)
    if expression.size:
        ranked = things.relative(SIZES[expression.size.kind](things), 0.25)
        weight = weight * (ranked if expression.size.superlative else 0.4 + 0.6 * ranked)
    if expression.order:
        counted = things.likely & (weight >= PLAUSIBLE * weight[things.likely].max())
        line = _line(things, expression.order.side)
        line = _nearness(things, expression, anchors, line)
        weight = weight * _in_order(line, counted, expression.order, expression.number, notes)
    for relation in expression.relations:
        weight = weight * related(things, relation, anchors, notes)
    return weight


def _at_side(axis: int, sign: int) -> Callable[[Things, bool], Tensor]:
    """Weight of a side: half the position in the picture, half that among the things."""

    def weigh(things: Things, one: bool) -> Tensor:
        position = sign * (things.centroids[:, axis] - 0.5)
        absolute = torch.sigmoid(STEEP * position)
        return (absolute + things.relative(position, 0.1)) / 2 if one else absolute

    return weigh


def _in_middle(things: Things, one: bool) -> Tensor:
    """Weight of "middle": the distance to the picture's centre and, from three things on, that
    to the median one along the axis on which they spread."""
    absolute = torch.exp(-((things.centroids - 0.5) * 2).square().sum(1))
    likely = things.centroids[things.likely]
    if not one or len(likely) < 3:
        return absolute
    axis = int((likely * things.span).var(0).argmax())
    line, sorted_line = things.centroids[:, axis], likely[:, axis].sort().values
    median = (sorted_line[(len(likely) - 1) // 2] + sorted_line[len(likely) // 2]) / 2
    return (absolute + things.relative(-(line - median).abs(), 0.1)) / 2


PLACES: dict[str, Callable[[Things, bool], Tensor]] = {
    "left": _at_side(1, -1),
    "right": _at_side(1, 1),
    "top": _at_side(0, -1),
    "bottom": _at_side(0, 1),
    "middle": _in_middle,
}


def _extent(things: Things) -> Tensor:
    """Height and width of each thing's box, in shares of the longer side: [G, 2]."""
    return ((things.boxes[:, 2:] - things.boxes[:, :2]) * things.span).clamp(min=1e-4)


SIZES: dict[str, Callable[[Things], Tensor]] = {
    "big": lambda things: things.areas.clamp(min=1e-6).log() / 2,
    "small": lambda things: -things.areas.clamp(min=1e-6).log() / 2,
    "tall": lambda things: _extent(things)[:, 0].log(),
    "short": lambda things: -_extent(things)[:, 0].log(),
    "wide": lambda things: _extent(things)[:, 1].log(),
    "narrow": lambda things: -_extent(things)[:, 1].log(),
    "long": lambda things: _extent(things).amax(1).log(),
}


def _line(things: Things, side: str) -> Tensor:
    """Where each thing stands when counting from `side`: the first has the least value."""
    if side in SIZES:
        return -SIZES[side](things)
    if side in ("front", "back"):
        return (-1 if side == "front" else 1) * things.boxes[:, 2]
    axis, sign = {"left": (1, 1), "right": (1, -1), "top": (0, 1), "bottom": (0, -1)}[side]
    return sign * things.centroids[:, axis]


def _nearness(
    things: Things, expression: Expression, anchors: Mapping[Noun, Tensor], line: Tensor
) -> Tensor:
    """ "Third nearest to the tree" counts by the relation to the tree."""
    near = [r for r in expression.relations if r.kind in ("near", "far from") and r.anchors]
    sided = expression.order is not None and expression.order.side in ("front", "back")
    return -related(things, near[0], anchors, []) if sided and near else line


def _in_order(
    line: Tensor, counted: Tensor, order: Order, number: int | None, notes: list[str]
) -> Tensor:
    """Weight of a rank: 1 for it, and 0.3 for each step that a thing stands away from it.

    Rank -1 is the last and -2 the one before it.
    """
    many = int(counted.sum())
    rank = (line[None, counted] < line[:, None] - LEVEL).sum(1) + 1
    first = max(1, many + 1 + order.rank) if order.rank < 0 else min(order.rank, many)
    if abs(order.rank) > many:
        notes.append(f"asked for number {abs(order.rank)} from the {order.side}, found {many}")
    more = (number or 1) - 1  # the first two, the last two
    low, high = (first - more, first) if order.rank < 0 else (first, first + more)
    away = (low - rank).clamp(min=0) + (rank - high).clamp(min=0)
    return torch.where(counted, 0.3 ** away.float(), FAINT)
