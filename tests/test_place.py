"""Geometry: invariants on random things in pictures that are not square, and plain cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from refdiff.expression import Expression, Noun, Order, Place, Relation, Size, Word
from refdiff.scoring.place import PLACES, RELATIONS, SIZES, weights

HEIGHT, WIDTH = 40, 64
HERE = Word("x", 0, 1)
CAT = Noun(HERE, "cat", "cat")
DOG = Noun(Word("dog", 4, 7), "dog", "dog")
COW = Noun(Word("cow", 8, 11), "cow", "cow")
ONE = Expression("x dog cow", CAT)
MIRRORED = {"left": "right", "right": "left", "left of": "right of", "right of": "left of"}
FLIPPED = {"top": "bottom", "bottom": "top", "above": "below", "below": "above"}


def box(top: int, left: int, bottom: int, right: int) -> Tensor:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def row_of_three() -> Tensor:
    """Left, middle and right thing; the middle one is the largest, the right one the smallest."""
    return torch.stack([box(14, 4, 24, 14), box(10, 24, 28, 40), box(16, 52, 22, 58)])


def random_things(seed: int, count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Masks, evidence and the heat of one other noun."""
    dice = torch.Generator().manual_seed(seed)
    masks = []
    for _ in range(count):
        top, left = (int(torch.randint(0, n - 12, (1,), generator=dice)) for n in (HEIGHT, WIDTH))
        high, wide = (int(torch.randint(3, 12, (1,), generator=dice)) for _ in range(2))
        masks.append(box(top, left, top + high, left + wide))
    evidence = torch.rand(count, generator=dice)
    return torch.stack(masks), evidence, torch.rand(HEIGHT, WIDTH, generator=dice)


def asked() -> list[Expression]:
    """One expression for every word that the geometry knows."""
    found = [replace(ONE, places=(Place(side, HERE),)) for side in PLACES]
    found += [replace(ONE, places=(Place("left", HERE),), number=None)]
    found += [replace(ONE, places=(Place("top", HERE), Place("right", HERE)))]
    found += [replace(ONE, size=Size(kind, HERE, True)) for kind in SIZES]
    found += [replace(ONE, order=Order(2, side)) for side in ("left", "right", "top", "bottom")]
    found += [replace(ONE, order=Order(-1, "left")), replace(ONE, order=Order(2, "big"))]
    found += [replace(ONE, relations=(Relation(kind, HERE, (DOG,)),)) for kind in RELATIONS]
    found += [replace(ONE, relations=(Relation("behind", HERE),))]
    return [*found, replace(ONE, relations=(Relation("between", HERE, (DOG, COW)),))]


def turned(expression: Expression, names: dict[str, str]) -> Expression:
    """The expression for the mirrored picture."""

    def name(word: str) -> str:
        return names.get(word, word)

    order = expression.order and Order(expression.order.rank, name(expression.order.side))
    return replace(
        expression,
        places=tuple(replace(p, side=name(p.side)) for p in expression.places),
        order=order,
        relations=tuple(replace(r, kind=name(r.kind)) for r in expression.relations),
    )


def best(masks: Tensor, expression: Expression, heat: dict[Noun, Tensor] | None = None) -> int:
    return int(weights(masks, expression, torch.ones(len(masks)), heat or {}).weights.argmax())


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_masks_does_not_matter(seed: int) -> None:
    masks, evidence, heat = random_things(seed)
    turn = torch.randperm(len(masks), generator=torch.Generator().manual_seed(seed))
    known = {DOG: heat, COW: heat.square()}
    for expression in asked():
        plain = weights(masks, expression, evidence, known)
        moved = weights(masks[turn], expression, evidence[turn], known)
        assert torch.allclose(plain.weights[turn], moved.weights, atol=1e-5), expression
        assert plain.notes == moved.notes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("axis", "names"), [(2, MIRRORED), (1, FLIPPED)])
def test_mirrored_picture_and_mirrored_word_give_the_same_weights(
    seed: int, axis: int, names: dict[str, str]
) -> None:
    masks, evidence, heat = random_things(seed)
    known = {DOG: heat, COW: heat.square()}
    mirror = {noun: other.flip(axis - 1) for noun, other in known.items()}
    for expression in asked():
        kinds = {relation.kind for relation in expression.relations}
        if axis == 1 and kinds & {"on", "in front of", "behind"}:
            continue  # gravity has no mirror image
        if expression.order and expression.order.rank == -1:
            continue
        plain = weights(masks, expression, evidence, known).weights
        again = weights(masks.flip(axis), turned(expression, names), evidence, mirror).weights
        assert torch.allclose(plain, again, atol=1e-4), expression


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_finite_and_between_0_and_1(seed: int) -> None:
    masks, evidence, heat = random_things(seed)
    masks[0] = False
    for expression in asked():
        found = weights(masks, expression, evidence, {DOG: heat, COW: heat * 0}).weights
        assert found.shape == (len(masks),)
        assert bool(((found >= 0) & (found <= 1)).all()), expression
        assert float(found.max()) > 0


def test_every_relation_and_size_word_can_change_the_choice() -> None:
    masks, _, heat = random_things(1)
    for expression in asked():
        found = weights(masks, expression, torch.ones(len(masks)), {DOG: heat, COW: heat}).weights
        assert float(found.max() - found.min()) > 1e-3, expression


def test_without_such_words_every_weight_is_1() -> None:
    masks, evidence, _ = random_things(0)
    assert torch.equal(weights(masks, ONE, evidence, {}).weights, torch.ones(len(masks)))
    other = replace(ONE, relations=(Relation("other", HERE, (DOG,)),))
    likely = weights(masks, other, torch.ones(len(masks)), {DOG: torch.rand(HEIGHT, WIDTH)})
    assert float(likely.weights.max()) == 1.0 and likely.notes == ()


@pytest.mark.parametrize(
    ("side", "winner"), [("left", 0), ("middle", 1), ("right", 2), ("bottom", 1), ("top", 1)]
)
def test_a_place_chooses_the_thing_that_is_there(side: str, winner: int) -> None:
    column = torch.stack([box(4, 10, 12, 20), box(16, 28, 24, 38), box(30, 30, 38, 40)])
    masks = (
        row_of_three()
        if side in ("left", "middle", "right")
        else column[[1, 0 if side == "top" else 2]]
    )
    assert best(masks, replace(ONE, places=(Place(side, HERE),))) == winner


def test_a_side_is_meant_among_the_things_even_if_all_are_on_the_other() -> None:
    masks = torch.stack([box(10, 56, 20, 62), box(10, 44, 20, 50)])
    assert best(masks, replace(ONE, places=(Place("left", HERE),))) == 1


def test_a_corner_uses_both_axes() -> None:
    corners = [box(y, x, y + 8, x + 8) for y in (2, 30) for x in (2, 54)]
    words = replace(ONE, places=(Place("top", HERE), Place("right", HERE)))
    assert best(torch.stack(corners), words) == 1


def test_the_middle_of_three_is_the_median_one_wherever_it_is() -> None:
    masks = torch.stack([box(10, x, 16, x + 6) for x in (30, 44, 56)])
    assert best(masks, replace(ONE, places=(Place("middle", HERE),))) == 1


@pytest.mark.parametrize(
    ("kind", "winner"), [("big", 1), ("small", 2), ("tall", 1), ("short", 2), ("narrow", 2)]
)
def test_size_words_compare_the_things(kind: str, winner: int) -> None:
    assert best(row_of_three(), replace(ONE, size=Size(kind, HERE, True))) == winner


@pytest.mark.parametrize(
    ("rank", "side", "winner"),
    [
        (1, "left", 0),
        (2, "left", 1),
        (1, "right", 2),
        (3, "right", 0),
        (-1, "left", 2),
        (2, "big", 0),
    ],
)
def test_order_counts_from_its_side(rank: int, side: str, winner: int) -> None:
    assert best(row_of_three(), replace(ONE, order=Order(rank, side))) == winner


def test_too_few_things_are_said_and_the_nearest_is_taken() -> None:
    found = weights(row_of_three(), replace(ONE, order=Order(5, "left")), torch.ones(3), {})
    assert int(found.weights.argmax()) == 2
    assert found.notes == ("asked for number 5 from the left, found 3",)
    two = weights(row_of_three(), replace(ONE, number=4), torch.ones(3), {})
    assert two.notes == ("asked for 4, found 3",)


def test_things_that_hardly_fit_the_noun_are_not_counted() -> None:
    evidence = torch.tensor([0.1, 0.9, 0.8])
    found = weights(row_of_three(), replace(ONE, order=Order(1, "left")), evidence, {}).weights
    assert int(found.argmax()) == 1 and float(found[0]) <= 0.1
    placed = weights(row_of_three(), replace(ONE, places=(Place("left", HERE),)), evidence, {})
    assert int(placed.weights.argmax()) == 1


def test_things_that_stand_level_have_the_same_rank() -> None:
    masks = torch.stack([box(2, 10, 8, 16), box(20, 10, 26, 16), box(10, 40, 16, 46)])
    found = weights(masks, replace(ONE, order=Order(1, "left")), torch.ones(3)).weights
    assert float(found[0]) == float(found[1]) > float(found[2])


def test_an_order_counts_only_things_at_the_place() -> None:
    masks = torch.stack([box(y, x, y + 6, x + 6) for y, x in [(2, 2), (2, 50), (32, 20), (32, 30)]])
    words = replace(ONE, order=Order(2, "left"), places=(Place("top", HERE),))
    assert best(masks, words) == 1


@pytest.mark.parametrize(
    ("kind", "winner"),
    [("left of", 0), ("right of", 1), ("above", 2), ("below", 3), ("near", 1), ("on", 2)],
)
def test_relations_look_from_the_anchor(kind: str, winner: int) -> None:
    anchor = box(16, 26, 24, 36).float()
    masks = torch.stack(
        [box(16, 2, 24, 10), box(16, 37, 24, 45), box(9, 28, 16, 34), box(33, 28, 39, 34)]
    )
    if kind == "near":
        masks = masks[[0, 1, 3]]
    words = replace(ONE, relations=(Relation(kind, HERE, (DOG,)),))
    assert best(masks, words, {DOG: anchor}) == winner


def test_the_anchor_itself_is_not_what_is_near_it() -> None:
    anchor = box(16, 26, 24, 36)
    masks = torch.stack([anchor, box(14, 40, 24, 50), box(2, 2, 8, 8)])
    for kind in ("near", "left of", "right of", "above", "below"):
        words = replace(ONE, relations=(Relation(kind, HERE, (DOG,)),))
        assert best(masks, words, {DOG: anchor.float()}) != 0, kind


def test_between_in_and_depth() -> None:
    masks = torch.stack([box(12, 4, 20, 10), box(16, 28, 24, 36), box(28, 54, 38, 62)])
    ends = {DOG: box(16, 12, 24, 20).float(), COW: box(16, 44, 24, 52).float()}
    assert best(masks, replace(ONE, relations=(Relation("between", HERE, (DOG, COW)),)), ends) == 1
    room = {DOG: box(24, 46, 40, 64).float()}
    assert best(masks, replace(ONE, relations=(Relation("in", HERE, (DOG,)),)), room) == 2
    assert best(masks, replace(ONE, relations=(Relation("in front of", HERE),))) == 2
    assert best(masks, replace(ONE, relations=(Relation("behind", HERE),))) == 0
    for kind, winner in (("in front of", 2), ("behind", 0)):
        words = replace(ONE, relations=(Relation(kind, HERE, (DOG,)),))
        assert best(masks[[0, 2]], words, {DOG: box(18, 24, 26, 40).float()}) == min(winner, 1)


def test_a_relation_without_heat_is_noted_and_changes_nothing() -> None:
    words = replace(ONE, relations=(Relation("near", HERE, (DOG,)),))
    found = weights(row_of_three(), words, torch.ones(3), {})
    assert torch.equal(found.weights, torch.ones(3))
    assert found.notes == ("no heat for dog, so 'x' was left out",)


def cuts(heat: Tensor) -> Tensor:
    return torch.stack([heat >= level for level in (0.2, 0.4, 0.6, 0.8)])


def hill(y: int, x: int, height: float = 1.0) -> Tensor:
    rows, columns = torch.arange(HEIGHT)[:, None] - y, torch.arange(WIDTH)[None] - x
    return height * torch.exp(-(rows.square() + columns.square()) / 60.0)


def test_cuts_over_two_hills_weigh_little() -> None:
    left, right = cuts(hill(20, 14)), cuts(hill(20, 48))
    masks = torch.cat([left, right, left | right])
    evidence = torch.cat([torch.full((4,), 0.7), torch.full((4,), 0.6), torch.full((4,), 0.9)])
    found = weights(masks, replace(ONE, order=Order(2, "left")), evidence, {}).weights
    assert len(set(found[4:8].tolist())) == 1 and float(found[4]) == float(found.max())
    assert float(found[8:].max()) <= 0.1


def test_nested_cuts_do_not_change_who_is_second() -> None:
    hills = [cuts(hill(20, x)) for x in (10, 32, 54)]
    masks = torch.cat(hills)
    found = weights(masks, replace(ONE, order=Order(2, "right")), torch.ones(12), {}).weights
    assert found.argmax().item() in range(4, 8)
    assert torch.equal(found[4:8], found[4].expand(4))


def test_no_masks_give_no_weights() -> None:
    empty = torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)
    words = replace(ONE, places=(Place("left", HERE),))
    assert weights(empty, words, torch.zeros(0), {}).weights.shape == (0,)


def test_wrong_shapes_are_refused_with_what_was_wanted() -> None:
    with pytest.raises(ValueError, match="wanted bool"):
        weights(torch.rand(2, 4, 4), ONE, torch.ones(2), {})
    with pytest.raises(ValueError, match="one number per mask"):
        weights(row_of_three(), ONE, torch.ones(2))
