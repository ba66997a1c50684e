"""Scores of masks and the choice among them."""

from __future__ import annotations

import pytest
import torch

from refdiff.errors import HeatError
from refdiff.scoring import (
    SCORES,
    choose,
    combine,
    contrast,
    group,
    otsu,
    overlaps,
    ranking,
    union,
    weighted_contrast,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def box(top: int, left: int, height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(12, 20, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_contrast_is_mean_inside_minus_mean_outside() -> None:
    heat = torch.rand(12, 20, generator=seeded())
    masks = torch.rand(5, 12, 20, generator=seeded(1)) > 0.6
    wanted = [heat[mask].mean() - heat[~mask].mean() for mask in masks]
    torch.testing.assert_close(contrast(heat, masks), torch.stack(wanted))
    torch.testing.assert_close(weighted_contrast(heat, masks, b=1.0), torch.stack(wanted))


def test_otsu_is_the_share_of_variance_explained() -> None:
    heat = torch.rand(12, 20, generator=seeded())
    mask = torch.rand(12, 20, generator=seeded(1)) > 0.6
    fitted = torch.where(mask, heat[mask].mean(), heat[~mask].mean())
    wanted = fitted.var(correction=0) / heat.var(correction=0)
    found = otsu(heat, torch.stack([mask, ~mask]))
    torch.testing.assert_close(found.abs(), wanted.expand(2))
    assert float(found.prod()) < 0
    assert float(otsu(mask.float(), mask[None])) == pytest.approx(1)


@pytest.mark.parametrize("name", ["contrast", "otsu"])
def test_a_mask_without_inside_or_outside_scores_zero(name: str) -> None:
    heat = torch.rand(12, 20, generator=seeded())
    masks = torch.stack([box(0, 0, 12, 20), box(0, 0, 0, 0)])
    torch.testing.assert_close(SCORES[name](heat, masks), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SCORES)
def test_scores_follow_the_masks_and_not_their_order_or_the_heats_scale(name: str) -> None:
    heat = torch.rand(12, 20, generator=seeded())
    masks = torch.rand(9, 12, 20, generator=seeded(1)) > 0.6
    scores, order = SCORES[name](heat, masks), torch.randperm(9, generator=seeded(2))
    torch.testing.assert_close(SCORES[name](heat, masks[order]), scores[order])
    assert torch.equal(SCORES[name](heat * 0.3, masks).argsort(), scores.argsort())


def test_contrast_shrinks_the_mask_and_otsu_does_not() -> None:
    rows, columns = torch.arange(12)[:, None] - 5.5, torch.arange(20)[None] - 9.5
    distance = (rows**2 + columns**2).sqrt()
    heat = (1 - 0.13 * distance) * (distance < 5) + 0.1 * (distance >= 5)
    masks = torch.stack([distance < radius for radius in (1, 2, 3, 4, 5, 6, 7)])
    assert int(contrast(heat, masks).argmax()) == 0
    assert int(otsu(heat, masks).argmax()) == 4


def test_weighted_contrast_grows_with_b() -> None:
    heat = 1 - torch.arange(20).repeat(12, 1) / 20
    masks = torch.stack([box(0, 0, 12, width) for width in range(1, 20)])
    best = [int(weighted_contrast(heat, masks, b).argmax()) for b in (0.2, 1.8, 1.99)]
    assert best[0] < best[1] <= best[2]


@pytest.mark.parametrize("name", SCORES)
def test_constant_heat_prefers_no_mask(name: str) -> None:
    masks = torch.stack([box(0, 0, 3, 3), box(2, 2, 9, 9)])
    scores = SCORES[name](torch.full((12, 20), 0.7), masks)
    assert float((scores[0] - scores[1]).abs()) < 1e-5


@pytest.mark.parametrize("name", SCORES)
def test_broken_heat_and_wrong_sizes_are_refused(name: str) -> None:
    masks = box(0, 0, 3, 3)[None]
    with pytest.raises(HeatError, match="float32"):
        SCORES[name](torch.full((12, 20), float("nan")), masks)
    with pytest.raises(ValueError, match=r"\(1, 12, 20\).*\(12, 21\)"):
        SCORES[name](torch.zeros(12, 21), masks)


def test_combine_is_the_papers_sum_where_place_has_no_opinion() -> None:
    generative, clip = torch.tensor([0.1, -0.4]), torch.tensor([0.3, 0.9])
    torch.testing.assert_close(
        combine(generative, clip, torch.ones(2), 0.1), 0.1 * generative + 0.9 * clip
    )
    torch.testing.assert_close(combine(generative, None, torch.ones(2), 0.1), generative)


def test_a_better_place_always_helps_whatever_the_sign() -> None:
    place = torch.tensor([0.0, 0.001, 0.5, 1.0])
    for score in (-0.9, -0.1, 0.0, 0.1, 0.9):
        moved = combine(torch.full((4,), score), None, place, 1.0)
        assert bool((moved.diff() > 0).all())


def test_ruled_out_masks_come_last_in_their_own_order() -> None:
    generative = torch.tensor([0.9, -0.8, 1.0, -1.0])
    score = combine(generative, None, torch.tensor([0.0, 1.0, 0.0, 1e-6]), 1.0)
    assert score.argsort(descending=True).tolist() == [1, 3, 2, 0]
    assert bool(torch.isfinite(score).all())


def test_place_counts_mask_by_mask() -> None:
    generative, place = torch.rand(6, generator=seeded()), torch.rand(6, generator=seeded(1))
    whole = combine(generative, None, place, 1.0)
    torch.testing.assert_close(combine(generative[2:5], None, place[2:5], 1.0), whole[2:5])


def test_combine_refuses_what_it_cannot_use() -> None:
    one, nan = torch.ones(2), torch.tensor([0.1, float("nan")])
    with pytest.raises(HeatError, match="1 of 2"):
        combine(nan, None, one, 0.1)
    for arguments in [
        (one, one[:1], one, 0.1),
        (one, None, one, 1.1),
        (one, None, -one, 0.1),
        (one, None, nan, 0.1),
    ]:
        with pytest.raises(ValueError, match="wanted"):
            combine(*arguments)


def test_overlaps_is_intersection_over_union() -> None:
    masks = torch.stack([box(0, 0, 4, 4), box(0, 2, 4, 4), box(8, 8, 2, 2), box(0, 0, 0, 0)])
    table = overlaps(masks)
    assert float(table[0, 1]) == pytest.approx(8 / 24)
    assert table.diagonal().tolist() == [1, 1, 1, 0]
    assert float(table[0, 2]) == 0


ALIKE = torch.stack([box(0, 0, 6, 6), box(0, 0, 6, 5), box(6, 10, 5, 5), box(0, 1, 5, 5)])
LEVELS = torch.tensor([0.8, 0.9, -0.2, 0.7])


def test_choice_passes_over_masks_that_are_the_same() -> None:
    assert ranking(LEVELS, ALIKE) == [1, 2]
    assert choose(LEVELS, ALIKE) == 1
    assert choose(LEVELS, ALIKE, choice=2) == 2
    assert choose(LEVELS, ALIKE, choice=2, overlap=1.0) == 0


def test_choice_does_not_depend_on_the_order() -> None:
    order = torch.randperm(4, generator=seeded(3))
    ranked = ranking(LEVELS[order], ALIKE[order])
    assert [int(order[index]) for index in ranked] == ranking(LEVELS, ALIKE)


@pytest.mark.parametrize("choice", [0, 3])
def test_a_choice_beyond_the_candidates_is_refused(choice: int) -> None:
    with pytest.raises(ValueError, match=f"choice is {choice}.* 2 different"):
        choose(LEVELS, ALIKE, choice=choice)


def test_nan_scores_and_missing_scores_are_refused() -> None:
    broken = LEVELS.clone()
    broken[1] = float("nan")
    for ask in (choose, ranking):
        with pytest.raises(HeatError, match="NaN"):
            ask(broken, ALIKE)
    with pytest.raises(ValueError, match="3 scores and 4 masks"):
        choose(LEVELS[:3], ALIKE)


TWO = torch.stack([box(0, 0, 4, 4), box(6, 10, 4, 4), box(0, 0, 4, 4) | box(6, 10, 4, 4)])


def test_parts_and_their_whole_are_one_thing() -> None:
    assert group(TWO, torch.tensor([0.9, 0.8, 0.7])) == [0, 1, 0]
    assert group(TWO, torch.tensor([0.7, 0.8, 0.9])) == [0, 0, 0]


def test_union_takes_the_best_mask_of_each_thing() -> None:
    scores = torch.tensor([0.8, 0.5, 0.9, 0.3])
    assert union(ALIKE, scores, [0, 1, 0, 2], number=None, above=0.5) == [2, 1]
    assert union(ALIKE, scores, torch.tensor([0, 1, 0, 2]), number=3) == [2, 1, 3]
    assert union(ALIKE, scores, [0, 1, 0, 2], number=1) == [2]
    assert union(ALIKE, scores, [0, 1, -1, 2], number=9) == [0, 1, 3]
    assert union(ALIKE, scores, [-1] * 4, number=2) == [2]
    assert union(TWO, torch.tensor([0.9, 0.8, 0.7]), None, number=None) == [0, 1]


def test_union_keeps_the_best_when_all_scores_are_negative() -> None:
    scores = torch.tensor([-0.5, -0.6, -0.9, -2.0])
    assert union(ALIKE, scores, [0, 1, 2, 3], number=None, above=0.7) == [0, 1]


def test_union_does_not_depend_on_the_order() -> None:
    scores, things = torch.tensor([0.8, 0.5, 0.9, 0.3]), torch.tensor([0, 1, 0, 2])
    order = torch.randperm(4, generator=seeded(5))
    found = union(ALIKE[order], scores[order], things[order], None, 0.3)
    assert [int(order[index]) for index in found] == union(ALIKE, scores, things, None, 0.3)


def test_union_refuses_bad_numbers() -> None:
    with pytest.raises(ValueError, match="number is 0"):
        union(ALIKE, LEVELS, [0, 1, 2, 3], number=0)
    with pytest.raises(ValueError, match="2 instances and 4 masks"):
        union(ALIKE, LEVELS, [0, 1], number=1)
    with pytest.raises(HeatError):
        union(ALIKE, LEVELS * float("nan"), None, number=None)
