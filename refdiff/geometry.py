"""Place, size, order and relation words as weights on masks (in the place of the paper's P).

The paper darkens one side of the picture (section 3.3). Here the words are read off the masks
themselves: which thing each mask stands for, where that thing is, how large, and how it stands to
the other nouns. Every weight is 0..1 and 1 means no objection.

Frame: masks are bool [N, H, W]; positions are (y, x) in 0..1 from the top left; lengths between
two points are in shares of the picture's longer side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, max_pool2d

from .expression import Expression, Noun, Order, Relation

FAINT = 0.1  # weight of what hardly fits the noun, and of masks that cover several things
PLAUSIBLE = 0.5  # share of the best evidence that a thing needs for order and size to count it
MOSTLY = 0.75  # share of a mask inside another from which it lies in it
SPECK = 0.05  # a part smaller than this share of the largest part is no rival to it
GRID = 48  # overlaps and distances are taken on at most this many cells a side
STEEP = 8.0  # of the logistic curve over 0..1: 0.98 at one end, 0.02 at the other


@dataclass(frozen=True)
class Weighted:
    """weights: [N] in 0..1, one per mask; notes: sentences on words that could not be obeyed."""

    weights: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Things:
    """What the masks stand for, one row per thing, shown by the mask with the best evidence.

    grids: float [G, h, w], the masks on the coarse grid; likely: bool [G], whether the thing fits
    the noun well enough to be counted; span: (height, width), the longer being 1.
    """

    centroids: Tensor
    areas: Tensor
    boxes: Tensor
    grids: Tensor
    likely: Tensor
    span: tuple[float, float]


def centroids(masks: Tensor) -> Tensor:
    """Mean (y, x) of each mask: [N, 2] in 0..1; the picture's middle for an empty mask."""
    return _mean_points(masks.float(), 0.5)


def areas(masks: Tensor) -> Tensor:
    """Share of the picture that each mask covers: [N] in 0..1."""
    return masks.float().flatten(1).mean(1)


def boxes(masks: Tensor) -> Tensor:
    """(top, left, bottom, right) of each mask: [N, 4] in 0..1; zeros for an empty mask."""
    sides = []
    for used in (masks.any(2), masks.any(1)):
        size = used.shape[1]
        place = torch.arange(size, device=masks.device)
        first = torch.where(used, place, size).amin(1)
        last = torch.where(used, place + 1, 0).amax(1)
        sides.append(torch.stack([torch.minimum(first, last), last]).float() / size)
    (top, bottom), (left, right) = sides
    return torch.stack([top, left, bottom, right], 1)


def instances(masks: Tensor, evidence: Tensor, overlap: float = 0.5) -> Tensor:
    """Which thing each mask stands for: long [N], 0 for the thing with the best evidence.

    Masks are the same thing when their IoU exceeds `overlap` or when one lies mostly in the
    other. A mask that covers several things which it does not connect, or which fit the noun
    better than it does, stands for none of them: -1. The order of the masks does not matter.
    Raises ValueError for masks or evidence of a wrong shape.
    """
    _check(masks, evidence)
    grids = _coarse(masks)
    flat = grids.flatten(1)
    both, size = flat @ flat.T, flat.sum(1).clamp(min=1e-6)
    same = both / (size[:, None] + size - both) > overlap
    inside = both / size[:, None] > MOSTLY
    things: list[list[int]] = []
    for index in size.argsort(stable=True).tolist():
        like = (same[index] | inside[:, index]).tolist()
        held = [thing for thing in things if any(like[member] for member in thing)]
        joined = _joined(index, held, grids, evidence) if len(held) > 1 else held
        if joined is not None:
            things = [t for t in things if t not in joined]
            things.append([*(member for thing in joined for member in thing), index])
    return _numbered(things, evidence)


def weights(
    masks: Tensor,
    expression: Expression,
    evidence: Tensor,
    anchors: Mapping[Noun, Tensor] | None = None,
) -> Weighted:
    """How well each mask obeys the place, size, order and relation words of `expression`.

    evidence: [N] in 0..1, how well each mask fits the noun by itself; only things with at least
    half the best evidence are ranked and counted, the others weigh little. anchors: heat [H, W]
    of other nouns; a relation to a noun without heat is left out and noted. Without such words
    every weight is 1. Raises ValueError for masks or evidence of a wrong shape.
    """
    _check(masks, evidence)
    ruled = (expression.places, expression.size, expression.order, expression.relations)
    plain = Weighted(torch.ones(len(masks), device=masks.device))
    if len(masks) == 0 or (not any(ruled) and expression.number in (1, None)):
        return plain
    labels = instances(masks, evidence)
    things = _things(masks, labels, evidence)
    count, notes = int(things.likely.sum()), []
    if expression.number is not None and expression.number > count:
        notes.append(f"asked for {expression.number}, found {count}")
    if not any(ruled):
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
    for place in expression.places:
        weight = weight * PLACES[place.side](things, expression.number == 1)
    if expression.size:
        ranked = _relative(SIZES[expression.size.kind](things), things.likely, 0.25)
        weight = weight * (ranked if expression.size.superlative else 0.4 + 0.6 * ranked)
    if expression.order:
        counted = things.likely & (weight >= PLAUSIBLE * weight[things.likely].max())
        weight = weight * _in_order(things, counted, expression.order, expression.number, notes)
    for relation in expression.relations:
        weight = weight * _related(things, relation, anchors, notes)
    return weight


def _at_side(axis: int, sign: int) -> Callable[[Things, bool], Tensor]:
    """Weight of a side: half the position in the picture, half that among the things."""

    def weigh(things: Things, one: bool) -> Tensor:
        position = sign * (things.centroids[:, axis] - 0.5)
        absolute = torch.sigmoid(STEEP * position)
        return (absolute + _relative(position, things.likely, 0.1)) / 2 if one else absolute

    return weigh


def _in_middle(things: Things, one: bool) -> Tensor:
    """Weight of "middle": the distance to the picture's centre and, from three things on, that
    to the median one along the axis on which they spread."""
    absolute = torch.exp(-((things.centroids - 0.5) * 2).square().sum(1))
    likely = things.centroids[things.likely]
    if not one or len(likely) < 3:
        return absolute
    axis = int((likely * torch.tensor(things.span, device=likely.device)).var(0).argmax())
    line, sorted_line = things.centroids[:, axis], likely[:, axis].sort().values
    median = (sorted_line[(len(likely) - 1) // 2] + sorted_line[len(likely) // 2]) / 2
    return (absolute + _relative(-(line - median).abs(), things.likely, 0.1)) / 2


PLACES: dict[str, Callable[[Things, bool], Tensor]] = {
    "left": _at_side(1, -1),
    "right": _at_side(1, 1),
    "top": _at_side(0, -1),
    "bottom": _at_side(0, 1),
    "middle": _in_middle,
}


def _extent(things: Things) -> Tensor:
    """Height and width of each thing's box, in shares of the longer side: [G, 2]."""
    size = things.boxes[:, 2:] - things.boxes[:, :2]
    return (size * torch.tensor(things.span, device=size.device)).clamp(min=1e-4)


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
    axis, sign = {"left": (1, 1), "right": (1, -1), "top": (0, 1), "bottom": (0, -1)}[side]
    return sign * things.centroids[:, axis]


def _in_order(
    things: Things, counted: Tensor, order: Order, number: int | None, notes: list[str]
) -> Tensor:
    """Weight of a rank: 1 for it, and 0.3 for each step that a thing stands away from it."""
    line, many = _line(things, order.side), int(counted.sum())
    rank = (line[None, counted] < line[:, None]).sum(1) + 1
    first = many if order.rank < 0 else min(order.rank, many)
    if order.rank > many:
        notes.append(f"asked for number {order.rank} from the {order.side}, found {many}")
    more = (number or 1) - 1  # the first two, the last two
    low, high = (first - more, first) if order.rank < 0 else (first, first + more)
    away = (low - rank).clamp(min=0) + (rank - high).clamp(min=0)
    return torch.where(counted, 0.3 ** away.float(), FAINT)


def _related(
    things: Things, relation: Relation, anchors: Mapping[Noun, Tensor], notes: list[str]
) -> Tensor:
    """Weight of one relation, the best likely thing having 1."""
    if relation.kind not in RELATIONS or (not relation.anchors and relation.kind not in _DEPTHS):
        return torch.ones_like(things.areas)
    if not relation.anchors:
        return _relative(_DEPTHS[relation.kind] * things.boxes[:, 2], things.likely, 0.1)
    missing = [noun.word.text for noun in relation.anchors if noun not in anchors]
    if missing:
        notes.append(f"no heat for {', '.join(missing)}, so {relation.word.text!r} was left out")
        return torch.ones_like(things.areas)
    heats = [_mass(anchors[noun], things) for noun in relation.anchors]
    return _to_best(RELATIONS[relation.kind](things, heats), things.likely)


def _near(things: Things, heats: list[Tensor]) -> Tensor:
    """Near all anchors: heat that lies close to the thing counts, heat on it does not."""
    return torch.stack([_closeness(things, _outside(things, heat)) for heat in heats]).prod(0)


def _touching(things: Things, heats: list[Tensor]) -> Tensor:
    """Near or on some anchor; a belonging says little about where things are."""
    parts = [_closeness(things, heat.expand_as(things.grids)) for heat in heats]
    return 0.3 + 0.7 * torch.stack(parts).amax(0)


def _towards(axis: int, sign: int) -> Callable[[Things, list[Tensor]], Tensor]:
    """Weight of a direction, from the anchors to the thing; nearer things a little more."""

    def weigh(things: Things, heats: list[Tensor]) -> Tensor:
        weight = torch.ones_like(things.areas)
        for heat in heats:
            rest = _outside(things, heat)
            step = (things.centroids - _mean_points(rest, 0.5)) * _scale(things)
            length = step.norm(dim=1).clamp(min=1e-6)
            turned = torch.sigmoid(STEEP / 2 * sign * step[:, axis] / length)
            weight = weight * turned * (0.5 + 0.5 * torch.exp(-2 * length)) * _left_over(rest, heat)
        return weight

    return weigh


def _between(things: Things, heats: list[Tensor]) -> Tensor:
    """Close to the middle of the anchors, measured by how far they are apart."""
    spots = torch.stack([_mean_points(heat[None], 0.5)[0] for heat in heats]) * _scale(things)
    apart = (spots - spots.mean(0)).norm(dim=1).amax() if len(spots) > 1 else spots.new_tensor(0.2)
    away = (things.centroids * _scale(things) - spots.mean(0)).norm(dim=1)
    clear = torch.stack([_left_over(_outside(things, heat), heat) for heat in heats]).prod(0)
    return clear * torch.exp(-(away / (apart + 0.05)).square())


def _on(things: Things, heats: list[Tensor]) -> Tensor:
    """Touching the anchor, and rather above its middle."""
    above = RELATIONS["above"](things, heats)
    return _touching(things, heats) * (0.3 + 0.7 * _to_best(above, things.likely))


def _in(things: Things, heats: list[Tensor]) -> Tensor:
    """The anchor's heat all over the thing, which does not cover all of that heat itself."""
    size = things.grids.flatten(1).sum(1).clamp(min=1e-6)
    weight = torch.ones_like(things.areas)
    for heat in heats:
        over = (things.grids * (heat / heat.amax().clamp(min=1e-9))).flatten(1).sum(1) / size
        weight = weight * (0.2 + 0.8 * over) * _left_over(_outside(things, heat), heat)
    return weight


def _in_depth(sign: int) -> Callable[[Things, list[Tensor]], Tensor]:
    """In front of: the lower edge stands lower than the anchor's does, and near it."""

    def weigh(things: Things, heats: list[Tensor]) -> Tensor:
        weight = 0.5 + 0.5 * _near(things, heats)
        for heat in heats:
            reach = heat.sum(1).cumsum(0) < 0.95
            edge = reach.float().mean()
            weight = weight * torch.sigmoid(STEEP * sign * (things.boxes[:, 2] - edge))
        return weight

    return weigh


_DEPTHS = {"in front of": 1, "behind": -1}
RELATIONS: dict[str, Callable[[Things, list[Tensor]], Tensor]] = {
    "near": _near,
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


def _relative(value: Tensor, likely: Tensor, least: float) -> Tensor:
    """Logistic place of each value between the least and greatest likely one, the best having 1.

    Values closer together than `least` are told apart less.
    """
    low, high = value[likely].amin(), value[likely].amax()
    place = (value - (low + high) / 2) / (high - low).clamp(min=least)
    return _to_best(torch.sigmoid(STEEP * place.clamp(-0.5, 0.5)), likely)


def _to_best(weight: Tensor, likely: Tensor) -> Tensor:
    return (weight / weight[likely].amax().clamp(min=1e-9)).clamp(0, 1)


def _scale(things: Things) -> Tensor:
    return torch.tensor(things.span, device=things.areas.device)


def _mass(heat: Tensor, things: Things) -> Tensor:
    """The hotter half of a heat map on the coarse grid, with sum 1: [h, w]."""
    size = (things.grids.shape[1], things.grids.shape[2])
    small = adaptive_avg_pool2d(heat.float()[None].to(things.grids.device), size)[0]
    low, high = small.amin(), small.amax()
    peak = ((small - low) / (high - low).clamp(min=1e-6) - 0.5).clamp(min=0)
    return peak / peak.sum() if float(peak.sum()) > 0 else torch.full_like(peak, 1 / peak.numel())


def _outside(things: Things, heat: Tensor) -> Tensor:
    """The anchor's heat that no part of the thing covers: [G, h, w]."""
    return heat * (1 - things.grids)


def _left_over(rest: Tensor, heat: Tensor) -> Tensor:
    """Small for a thing that covers the anchor, being most likely the anchor itself: [G]."""
    return FAINT + (1 - FAINT) * (rest.flatten(1).sum(1) / heat.sum().clamp(min=1e-9))


def _closeness(things: Things, heat: Tensor) -> Tensor:
    """Sum of heat [G, h, w], each cell counting less the farther it is from the thing: [G]."""
    height, width = things.grids.shape[1:]
    y = (torch.arange(height, device=heat.device) + 0.5) / height * things.span[0]
    x = (torch.arange(width, device=heat.device) + 0.5) / width * things.span[1]
    cells = torch.cartesian_prod(y, x)
    far = torch.cdist(cells, cells)
    weight = [
        (row * torch.exp(-far[:, used].amin(1) / 0.15)).sum() if bool(used.any()) else row.sum() * 0
        for row, used in zip(heat.flatten(1), things.grids.flatten(1) > 0, strict=True)
    ]
    return torch.stack(weight)


def _mean_points(mass: Tensor, empty: float) -> Tensor:
    """Centre (y, x) of each map of mass [N, H, W]: [N, 2] in 0..1."""
    total = mass.flatten(1).sum(1)
    points = []
    for axis in (2, 1):
        profile = mass.sum(axis)
        place = (torch.arange(profile.shape[1], device=mass.device) + 0.5) / profile.shape[1]
        points.append(torch.where(total > 0, profile @ place / total.clamp(min=1e-9), empty))
    return torch.stack(points, 1)


def _coarse(masks: Tensor) -> Tensor:
    """Masks on a grid of at most GRID cells a side, float 0 or 1; none vanishes: [N, h, w]."""
    height, width = masks.shape[1:]
    size = (min(height, GRID), min(width, GRID))
    if 0 in masks.shape:
        return masks.float()
    pictures = masks.float()[:, None]
    kept = (adaptive_avg_pool2d(pictures, size) >= 0.5).float()
    lost = kept.flatten(1).sum(1) == 0
    if bool(lost.any()):
        kept[lost] = adaptive_max_pool2d(pictures[lost], size)
    return kept[:, 0]


def _things(masks: Tensor, labels: Tensor, evidence: Tensor) -> Things:
    """The best mask of each thing, and which things are likely enough to be counted."""
    shown = [
        int(torch.where(labels == k, evidence, -torch.inf).argmax())
        for k in range(int(labels.max()) + 1)
    ]
    best, (height, width) = masks[shown], masks.shape[1:]
    longer = max(height, width)
    return Things(
        centroids=centroids(best),
        areas=areas(best),
        boxes=boxes(best),
        grids=_coarse(best),
        likely=evidence[shown] >= PLAUSIBLE * evidence[shown].max(),
        span=(height / longer, width / longer),
    )


def _joined(
    index: int, held: list[list[int]], grids: Tensor, evidence: Tensor
) -> list[list[int]] | None:
    """The things `held` in mask `index` that it shows to be one; None when it covers several.

    The parts must touch within the mask, and the mask must fit the noun better than any part of
    more than a speck; specks that do not touch stay things of their own.
    """
    parts = [grids[thing].amax(0) * grids[index] for thing in held]
    sizes = [float(part.sum()) for part in parts]
    reached, before = parts[sizes.index(max(sizes))], -1.0
    while float(reached.sum()) > before:
        before = float(reached.sum())
        reached = max_pool2d(reached[None], 3, 1, 1)[0] * grids[index]
    touching = [bool((reached * part).any()) for part in parts]
    grown = [size >= SPECK * max(sizes) for size in sizes]
    if any(big and not touched for big, touched in zip(grown, touching, strict=True)):
        return None
    rivals = [float(evidence[t].amax()) for t, big in zip(held, grown, strict=True) if big]
    if len(rivals) > 1 and float(evidence[index]) <= max(rivals):
        return None
    return [thing for thing, touched in zip(held, touching, strict=True) if touched]


def _numbered(things: list[list[int]], evidence: Tensor) -> Tensor:
    labels = torch.full((len(evidence),), -1, dtype=torch.long, device=evidence.device)
    ranked = sorted(things, key=lambda thing: -float(evidence[thing].amax()))
    for number, thing in enumerate(ranked):
        labels[thing] = number
    return labels


def _check(masks: Tensor, evidence: Tensor) -> None:
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"masks have shape {tuple(masks.shape)} and type {masks.dtype}, "
            "wanted bool [N, H, W]; compare the map with a threshold first."
        )
    if evidence.shape != masks.shape[:1]:
        raise ValueError(
            f"evidence has shape {tuple(evidence.shape)} for {len(masks)} masks, "
            "wanted one number per mask; score every mask first."
        )
