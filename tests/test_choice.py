"""Which things answer, what is taken off, and how sure it is: pure functions of tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refdiff.expression import Part, Word
from refdiff.masks.instances import best_of_each, same_object
from refdiff.scoring.choice import chosen_things, doubt, levelled, next_choice, set_by_gap
from refdiff.scoring.exclude import complement, left_out, turned_round, without
from refdiff.scoring.parts import CRUMB, crop, wholes

HERE = Word("x", 0, 1)


def box(top: int, left: int, bottom: int, right: int) -> Tensor:
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


CAT, EAR, DOG = box(5, 2, 15, 10), box(5, 2, 8, 5), box(5, 18, 15, 28)


def test_a_part_and_its_whole_are_one_object_whatever_the_order() -> None:
    masks, scores = torch.stack([EAR, DOG, CAT]), torch.tensor([0.2, 0.5, 0.9])
    assert same_object(masks, scores) == [0, 1, 0]
    turn = [2, 0, 1]
    assert same_object(masks[turn], scores[turn]) == [0, 0, 1]
    assert best_of_each(scores, [0, 1, 0]) == [2, 1]
    with pytest.raises(ValueError, match="one number per mask"):
        same_object(masks, scores[:2])


def test_the_next_choice_is_another_object() -> None:
    masks, scores = torch.stack([EAR, DOG, CAT]), torch.tensor([0.8, 0.5, 0.9])
    assert [next_choice(scores, masks, k) for k in (1, 2)] == [2, 1]
    for wrong in (0, 3):
        with pytest.raises(ValueError, match="take one from 1 to 2"):
            next_choice(scores, masks, wrong)


@pytest.mark.parametrize(
    ("evidence", "meant"),
    [
        ([1.0, 0.9, 0.85], 3),
        ([1.0, 0.9, 0.3, 0.25], 2),
        ([1.0, 0.45, 0.42, 0.05], 3),
        ([1.0], 1),
        ([1.0, 0.1, 0.1], 1),
        ([0.4, 0.39, 0.01], 2),
    ],
)
def test_a_set_ends_at_the_widest_gap(evidence: list[float], meant: int) -> None:
    found = set_by_gap(torch.tensor(evidence))
    assert found.tolist() == [True] * meant + [False] * (len(evidence) - meant)
    assert set_by_gap(torch.tensor(evidence[::-1])).tolist() == found.tolist()[::-1]
    assert torch.equal(set_by_gap(3 * torch.tensor(evidence)), found)


def test_a_number_is_never_filled_up_with_what_is_not_likely() -> None:
    scores, evidence = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1.0, 0.9, 0.2])
    even = torch.ones(3)
    assert chosen_things(scores, evidence, even, 3) == ([0, 1], ("asked for 3, found 2",))
    assert chosen_things(scores, evidence, even, 2) == ([0, 1], ())
    assert chosen_things(scores, evidence, even, 1) == ([0], ())
    assert chosen_things(scores[:0], evidence[:0], even[:0], None) == ([], ())


def test_all_of_them_leaves_out_what_stands_elsewhere() -> None:
    scores, even = torch.tensor([0.9, 0.8, 0.7]), torch.ones(3)
    assert chosen_things(scores, even, torch.tensor([1.0, 0.1, 0.8]), None)[0] == [0, 2]


def test_levelled_moves_things_and_keeps_the_order_of_their_masks() -> None:
    scores, evidence = torch.tensor([0.9, 0.8, 0.3, 0.2]), torch.tensor([1.0, 0.9, 0.8, 0.1])
    moved = levelled(scores, evidence, [0, 0, 1, 2], ruled=True)
    assert torch.allclose(moved[:2], scores[:2])
    assert torch.allclose(moved[2], torch.tensor(0.9 - 0.25 * 0.6))
    assert moved[3] == scores[3]
    assert torch.equal(levelled(scores, evidence, [0, 0, 1, 2], ruled=False), scores)


def test_doubt_is_the_margin_to_another_object() -> None:
    scores = torch.tensor([0.9, 0.89, 0.9, 0.1])
    assert doubt(scores, 0, [0, 0, 1, 2]).ambiguity == 1.0
    assert doubt(scores, 0, [0, 0, 1, 2]).runner_up == 2
    assert "choice 2" in doubt(scores, 0, [0, 0, 1, 2]).note
    clear = doubt(scores, 0, [0, 0, 0, 1], scale=0.1)
    assert clear.ambiguity < 0.01 and clear.note == ""
    assert doubt(scores, 0, [0, 0, 0, -1]).runner_up is None


def test_after_the_second_choice_the_third_is_next() -> None:
    scores = torch.tensor([0.9, 0.2, 0.5, 0.4])
    second = doubt(scores, 2, [0, 0, 1, 2])
    assert second.runner_up == 3 and "choice 3" in second.note
    assert doubt(scores, 3, [0, 0, 1, 2]).runner_up is None


def test_what_is_denied_turns_weights_round() -> None:
    weight, likely = torch.tensor([0.8, 0.2, 0.8]), torch.tensor([True, True, False])
    assert turned_round(weight, likely)[0] < 0.02 < turned_round(weight, likely)[1]
    assert left_out(weight, likely, 1).tolist() == pytest.approx([0.01, 1.0, 1.0])
    assert left_out(torch.tensor([1.0, 0.9, 0.2]), torch.ones(3, dtype=torch.bool), None)[
        :2
    ].tolist() == pytest.approx([0.01, 0.01])


def test_masks_are_taken_off() -> None:
    assert without(CAT | DOG, DOG).equal(CAT)
    assert complement(torch.stack([CAT, DOG])).equal(~(CAT | DOG))
    with pytest.raises(ValueError, match="bring both to one size"):
        without(CAT, torch.zeros(3, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        (("top",), box(5, 2, 10, 10)),
        (("bottom",), box(10, 2, 15, 10)),
        (("left",), box(5, 2, 15, 6)),
        (("right",), box(5, 6, 15, 10)),
        (("bottom", "right"), box(10, 6, 15, 10)),
        (("middle",), box(5, 4, 15, 8)),
    ],
)
def test_a_part_is_cut_out_of_its_thing(sides: tuple[str, ...], wanted: Tensor) -> None:
    assert crop(CAT, Part(sides, 0.5, HERE)).equal(wanted)
    assert crop(torch.stack([CAT, CAT]), Part(sides, 0.5, HERE)).equal(torch.stack([wanted] * 2))
    assert not crop(torch.zeros_like(CAT), Part(sides, 0.5, HERE)).any()


def test_a_small_piece_of_a_thing_is_no_thing() -> None:
    thing, eye, half = box(4, 4, 20, 20), box(6, 6, 8, 9), box(4, 4, 12, 20)
    other = box(4, 24, 20, 40)
    found = wholes(torch.stack([thing, eye, half, other, thing | other]))
    assert found.tolist() == pytest.approx([1, CRUMB, 1, 1, 1])
    assert wholes(torch.stack([thing, thing])).tolist() == [1, 1]
    assert wholes(torch.zeros(2, *thing.shape, dtype=torch.bool)).tolist() == [1, 1]
