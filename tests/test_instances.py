"""Cells and instances: exact counts, distances against plain ones, and which masks are one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refdiff.masks.grid import NEARBY, boxes, count
from refdiff.scoring.place import instances

HEIGHT, WIDTH = 40, 64


def box(top: int, left: int, bottom: int, right: int) -> Tensor:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def blots(seed: int, height: int, width: int, number: int = 5) -> Tensor:
    """Ragged masks, the first of them a single pixel and the last one empty."""
    dice = torch.Generator().manual_seed(seed)
    rough = torch.rand(number, 1, 9, 7, generator=dice)
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bilinear")[:, 0]
    masks = smooth > 0.6
    masks[0] = False
    masks[0, height // 3, width // 5] = True
    masks[-1] = False
    return masks


SIZES = [(40, 64), (100, 131), (256, 171), (48, 48), (7, 300)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_cells_count_every_pixel_once(height: int, width: int) -> None:
    masks = blots(0, height, width)
    cells = count(masks)
    assert torch.allclose(cells.shares.flatten(1).sum(1), masks.flatten(1).float().mean(1))
    assert max(cells.filled.shape[1:]) <= 48
    assert cells.filled.shape[1:] == (len(cells.rows), len(cells.columns))
    assert cells.filled.flatten(1).any(1).tolist() == masks.flatten(1).any(1).tolist()
    assert max(cells.span) == 1.0 and cells.span[0] * width == pytest.approx(cells.span[1] * height)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_middles_are_those_of_the_pixels_to_half_a_cell(height: int, width: int) -> None:
    masks = blots(1, height, width)
    cells = count(masks)
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    total = masks.flatten(1).sum(1).clamp(min=1)
    exact = torch.stack([masks.sum(2).float() @ y / total, masks.sum(1).float() @ x / total], 1)
    found = cells.middles(cells.shares)
    assert float((found - exact)[:-1].abs().max()) <= 0.5 / 24
    assert found[-1].tolist() == [0.5, 0.5]


def test_boxes_are_exact_and_zero_for_an_empty_mask() -> None:
    masks = torch.stack([box(0, 0, 10, 32), box(3, 5, 3, 5), box(39, 63, 40, 64)])
    expected = torch.tensor([[0, 0, 0.25, 0.5], [0, 0, 0, 0], [39 / 40, 63 / 64, 1, 1]])
    assert torch.allclose(boxes(masks), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("outside", [True, False])
def test_closeness_is_that_of_measuring_every_pair(height: int, width: int, outside: bool) -> None:
    cells = count(blots(2, height, width))
    heat = torch.rand(cells.filled.shape[1:], generator=torch.Generator().manual_seed(3))
    heat = heat * (heat > 0.8)
    points = torch.cartesian_prod(cells.rows * cells.span[0], cells.columns * cells.span[1])
    far = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    found = cells.closeness(heat, outside)
    for filled, value in zip(cells.filled.flatten(1), found.tolist(), strict=True):
        nearest = far[:, filled].amin(1) if bool(filled.any()) else far[0] + torch.inf
        near = torch.exp(-nearest / NEARBY) * heat.flatten()
        assert value == pytest.approx(float((near * ~filled if outside else near).sum()), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_masks_does_not_matter(seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    masks = torch.cat([blots(seed, HEIGHT, WIDTH), blots(seed + 9, HEIGHT, WIDTH)])
    evidence, turn = torch.rand(10, generator=dice), torch.randperm(10, generator=dice)
    plain = instances(masks, evidence)
    turned = instances(masks[turn], evidence[turn])
    assert torch.equal(plain[turn], turned)


def cuts(heat: Tensor) -> Tensor:
    return torch.stack([heat >= level for level in (0.2, 0.4, 0.6, 0.8)])


def hill(y: int, x: int, height: float = 1.0) -> Tensor:
    rows, columns = torch.arange(HEIGHT)[:, None] - y, torch.arange(WIDTH)[None] - x
    return height * torch.exp(-(rows.square() + columns.square()) / 60.0)


def test_the_cuts_of_one_hill_are_one_thing() -> None:
    assert instances(cuts(hill(20, 30)), torch.rand(4)).tolist() == [0, 0, 0, 0]


def test_cuts_over_two_hills_stand_for_neither() -> None:
    left, right = cuts(hill(20, 14)), cuts(hill(20, 48))
    masks = torch.cat([left, right, left | right])
    evidence = torch.cat([torch.full((4,), 0.7), torch.full((4,), 0.6), torch.full((4,), 0.9)])
    labels = instances(masks, evidence)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [-1] * 4


def test_two_hot_spots_of_one_thing_stay_one_when_the_whole_fits_better() -> None:
    whole, parts = box(10, 20, 30, 44), [box(14, 22, 20, 30), box(14, 34, 20, 42)]
    masks = torch.stack([*parts, whole])
    assert instances(masks, torch.tensor([0.5, 0.5, 0.8])).tolist() == [0, 0, 0]
    assert instances(masks, torch.tensor([0.7, 0.8, 0.5])).tolist() == [1, 0, -1]


def test_a_mask_over_two_parts_that_it_does_not_connect_is_neither() -> None:
    parts = [box(4, 4, 20, 20), box(4, 40, 20, 56)]
    masks = torch.stack([*parts, parts[0] | parts[1]])
    assert instances(masks, torch.tensor([0.5, 0.4, 0.9])).tolist() == [0, 1, -1]


def test_no_masks_are_no_things() -> None:
    assert instances(torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool), torch.zeros(0)).shape == (0,)


def test_wrong_shapes_are_refused_with_what_was_wanted() -> None:
    with pytest.raises(ValueError, match="wanted bool"):
        instances(torch.rand(2, 4, 4), torch.ones(2))
    with pytest.raises(ValueError, match="one number per mask"):
        instances(box(0, 0, 4, 4)[None], torch.ones(2))
