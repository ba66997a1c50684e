"""Scores of masks and the choice among them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from refdiff.errors import HeatError
from refdiff.masks.instances import PLAUSIBLE
from refdiff.scoring.scores import (
    COLD,
    LEAST_SHARE,
    SCORES,
    TEMPERATURE,
    calibrated,
    contrast,
    log_ranks,
    log_shares,
    noun_fit,
    otsu,
    placed,
    weighted_sum,
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


def test_the_sum_is_the_papers() -> None:
    generative, clip = torch.tensor([0.1, -0.4]), torch.tensor([0.3, 0.9])
    torch.testing.assert_close(weighted_sum(generative, clip, 0.1), 0.1 * generative + 0.9 * clip)
    torch.testing.assert_close(weighted_sum(generative, None, 0.1), generative)


def test_a_better_place_always_helps_whatever_the_sign() -> None:
    place = torch.tensor([0.0, 0.001, 0.5, 1.0])
    for score in (-0.9, -0.1, 0.0, 0.1, 0.9):
        moved = placed(torch.full((4,), score), place, 0.2)
        assert bool((moved.diff() > 0).all())


def test_ruled_out_masks_come_last_in_their_own_order() -> None:
    scores = torch.tensor([0.9, -0.8, 1.0, -1.0])
    moved = placed(scores, torch.tensor([0.0, 1.0, 0.0, 1e-6]), 0.2)
    assert moved.argsort(descending=True).tolist() == [1, 3, 2, 0]
    assert bool(torch.isfinite(moved).all())


def test_place_counts_mask_by_mask() -> None:
    scores, place = torch.rand(6, generator=seeded()), torch.rand(6, generator=seeded(1))
    whole = placed(scores, place, 2.0)
    torch.testing.assert_close(placed(scores[2:5], place[2:5], 2.0), whole[2:5])


def test_placing_refuses_what_it_cannot_use() -> None:
    one, nan = torch.ones(2), torch.tensor([0.1, float("nan")])
    for place, weight in ((-one, 1.0), (nan, 1.0), (one[:1], 1.0), (one, -1.0)):
        with pytest.raises(ValueError, match="wanted"):
            placed(one, place, weight)
    with pytest.raises(HeatError, match="1 of 2"):
        placed(nan, one, 1.0)


@pytest.mark.parametrize("fuse", [weighted_sum, log_shares, log_ranks])
def test_fusion_refuses_what_it_cannot_use(fuse: Callable[..., torch.Tensor]) -> None:
    one, nan = torch.ones(2), torch.tensor([0.1, float("nan")])
    with pytest.raises(HeatError, match="1 of 2"):
        fuse(nan, None, 0.1)
    for arguments in [(one, one[:1], 0.1), (one, None, 1.1), (one[None], None, 0.1)]:
        with pytest.raises(ValueError, match="wanted"):
            fuse(*arguments)


def test_log_shares_are_free_of_every_scale() -> None:
    generative, cosines = torch.rand(7, generator=seeded()), torch.rand(7, generator=seeded(1))
    scale, masks = 100.0, torch.rand(7, 4, 4, generator=seeded(3)) > 0.5
    plain = log_shares(generative, scale * cosines, 0.3)
    for factor, shift in ((0.1, 0.2), (0.5, -0.4), (3.0, 1.0)):
        spread = scale / factor * (factor * cosines + shift)
        moved = log_shares(5 * generative, spread, 0.3)
        torch.testing.assert_close(moved, plain, atol=1e-3, rtol=1e-4)
        fits = [noun_fit(torch.eye(4), masks, logits) for logits in (scale * cosines, spread)]
        torch.testing.assert_close(*fits, atol=1e-3, rtol=1e-4)


def test_log_shares_are_a_product_of_experts() -> None:
    generative, logits = torch.tensor([0.2, 0.4]), torch.tensor([1.0, 0.0])
    both = log_shares(generative, logits, 0.25)
    wanted = 0.25 * torch.tensor([0.5, 1.0]).log() + 0.75 * logits.log_softmax(0)
    torch.testing.assert_close(both, wanted)
    alone = log_shares(torch.tensor([-1.0, 0.4]), None, 0.25)
    torch.testing.assert_close(alone, torch.tensor([LEAST_SHARE, 1.0]).log())


def test_ranks_order_a_case_made_by_hand() -> None:
    generative, clip = torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([-3.0, 7.0, 0.0, 0.0])
    ranks = torch.tensor([[1.0, 2.5, 2.5, 4.0], [4.0, 1.0, 2.5, 2.5]])
    for alpha in (0.0, 0.3, 0.6, 1.0):
        wanted = -(alpha * ranks[0].log() + (1 - alpha) * ranks[1].log())
        torch.testing.assert_close(log_ranks(generative, clip, alpha), wanted)
    assert log_ranks(generative, clip, 0.3).argsort(descending=True).tolist() == [1, 2, 0, 3]
    torch.testing.assert_close(log_ranks(generative, None, 0.3), -ranks[0].log())


def test_ranks_know_nothing_but_the_order() -> None:
    generative, clip = torch.rand(9, generator=seeded()), torch.randn(9, generator=seeded(1))
    plain = log_ranks(generative, clip, 0.3)
    for moved in ((generative**3, clip), (generative, clip.exp()), (generative.log(), 9 * clip)):
        torch.testing.assert_close(log_ranks(*moved, 0.3), plain)


def test_calibrated_is_its_three_terms_weighed() -> None:
    generative, logits = torch.tensor([0.2, 0.4]), torch.tensor([1.0, 0.0])
    areas, weights = torch.tensor([0.5, 0.0]), (3.0, 2.0, -0.5)
    chances = logits.exp() / logits.exp().sum()
    wanted = 3 * torch.tensor([0.5, 1.0]).log() + 2 * chances.log()
    wanted -= 0.5 * torch.tensor([0.5, 1 / 65536]).log()
    torch.testing.assert_close(calibrated(generative, logits, areas, weights), wanted)
    alone = calibrated(generative, None, areas, weights)
    torch.testing.assert_close(alone, log_shares(generative, None, 1.0))
    with pytest.raises(ValueError, match="wanted one"):
        calibrated(generative, logits[:1], areas, weights)


def test_the_fit_falls_with_heat_and_with_clips_logits() -> None:
    heat = torch.tensor([[0.9, 0.9, 0.1, 0.1]])
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 1, 1]]], dtype=torch.bool)
    torch.testing.assert_close(noun_fit(heat, masks, None), torch.tensor([1.0, 1 / 3]))
    fit = noun_fit(heat, masks, torch.tensor([TEMPERATURE, 0.0]))
    cold = (COLD + (1 - COLD) / 9) ** 0.5
    torch.testing.assert_close(fit, torch.tensor([1.0, cold * 0.36788]), atol=1e-4, rtol=0)


def test_a_cold_thing_that_clip_knows_is_still_counted() -> None:
    """Attention often settles on one of two cats; without CLIP nobody knows the other."""
    heat = torch.tensor([[0.9, 0.9, 0.0, 0.0]])
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 1, 1]]], dtype=torch.bool)
    assert noun_fit(heat, masks, torch.tensor([5.0, 5.0])).amin() >= PLAUSIBLE
    assert noun_fit(heat, masks, None).amin() < PLAUSIBLE
