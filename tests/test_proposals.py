"""Masks cut out of heat, and masks that someone else made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from refdiff.errors import HeatError
from refdiff.masks.proposals import MOST_PARTS, as_masks, keep_largest, threshold_cuts


def hill(height: int = 24, width: int = 40, y: float = 0.5, x: float = 0.3) -> torch.Tensor:
    """One smooth hill, between 0 and 1, with no two values alike by symmetry."""
    rows = (torch.arange(height) / height - y)[:, None]
    columns = (torch.arange(width) / width - x)[None]
    heat = torch.exp(-8 * rows**2 - 5 * columns**2 + 0.01 * columns + 0.007 * rows)
    return (heat - heat.min()) / (heat.max() - heat.min())


def test_cuts_are_at_every_twentieth() -> None:
    heat = hill()
    masks = threshold_cuts(heat)
    assert masks.shape == (19, 24, 40) and masks.dtype == torch.bool
    for index in (0, 9, 18):
        assert torch.equal(masks[index], heat >= (index + 1) / 20)


def test_cuts_are_nested_never_empty_and_blind_to_scale() -> None:
    heat = hill()
    masks = threshold_cuts(heat)
    assert bool((masks[:-1] | ~masks[1:]).all())
    assert bool(masks.flatten(1).any(1).all())
    moved = threshold_cuts(heat * 3.0 - 0.5)
    assert float((moved != masks).float().mean()) < 0.001


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("components", [False, True])
def test_constant_heat_gives_the_whole_picture(value: float, components: bool) -> None:
    masks = threshold_cuts(torch.full((5, 7), value), components=components)
    assert masks.shape == (1, 5, 7) and bool(masks.all())


def test_one_hot_pixel_and_one_pixel_heat() -> None:
    heat = torch.zeros(6, 9)
    heat[2, 3] = 1
    assert torch.equal(threshold_cuts(heat)[-1], heat.bool())
    assert threshold_cuts(torch.ones(1, 1)).shape == (1, 1, 1)


def test_components_are_added_to_the_cuts() -> None:
    heat = torch.maximum(hill(x=0.1) ** 4, 0.8 * hill(x=0.9) ** 4)
    cuts, masks = threshold_cuts(heat), threshold_cuts(heat, components=True)
    left, right = heat.clone(), heat.clone()
    left[:, 20:], right[:, :20] = 0, 0
    for wanted in (cuts[9], left >= 0.5, right >= 0.5):
        assert any(torch.equal(mask, wanted) for mask in masks)
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks)


def test_components_touch_over_corners() -> None:
    heat = torch.eye(6)
    masks = threshold_cuts(heat, components=True)
    assert len(masks) == 1 and torch.equal(masks[0], heat.bool())


def test_noise_gives_a_bounded_number_of_parts() -> None:
    heat = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    assert 19 < len(threshold_cuts(heat, components=True)) <= 19 + MOST_PARTS


def test_least_area_is_a_share_and_never_leaves_nothing() -> None:
    heat = hill()
    shares = threshold_cuts(heat, least_area=0.3).flatten(1).float().mean(1)
    assert float(shares.min()) >= 0.3 and len(shares) < 19
    heat[0, 0] = 1.0
    specks = threshold_cuts(heat, components=True)
    larger = threshold_cuts(heat, components=True, least_area=0.01)
    assert int(specks.flatten(1).sum(1).min()) == 1
    assert int(larger.flatten(1).sum(1).min()) >= 0.01 * heat.numel()
    only = threshold_cuts(heat, least_area=1.0)
    assert len(only) == 1 and torch.equal(only[0], threshold_cuts(heat)[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_heat_is_explained(bad: float) -> None:
    heat = hill()
    heat[3, 4] = bad
    with pytest.raises(HeatError, match=r"1 of 960 .*float32"):
        threshold_cuts(heat)


@pytest.mark.parametrize(
    "wrong",
    [{"thresholds": 0}, {"least_area": 1.5}, {"heat": torch.zeros(3, 4, 5)}],
)
def test_bad_arguments_are_quoted(wrong: dict) -> None:
    arguments = {"heat": hill(), **wrong}
    with pytest.raises(ValueError, match="wanted"):
        threshold_cuts(**arguments)


def test_keep_largest_keeps_the_order() -> None:
    masks = threshold_cuts(hill())[torch.randperm(19, generator=torch.Generator().manual_seed(1))]
    kept = keep_largest(masks, 10)
    areas = masks.flatten(1).sum(1)
    floor = areas.sort(descending=True).values[9]
    assert torch.equal(kept, masks[areas >= floor])
    assert torch.equal(keep_largest(masks, 100), masks)


SQUARE = torch.zeros(4, 6, dtype=torch.bool)
SQUARE[1:3, 2:5] = True
COPIES = {
    "bool": SQUARE,
    "one mask in a stack": SQUARE[None],
    "one channel": SQUARE[None, None],
    "float": SQUARE.float() * 0.9,
    "half": SQUARE.half(),
    "0 and 255": SQUARE.to(torch.uint8) * 255,
    "0 and 1": SQUARE.to(torch.uint8),
    "16 bit": (SQUARE.numpy() * 65535).astype(np.uint16),
    "16 bit tensor": torch.from_numpy((SQUARE.numpy() * 65535).astype(np.uint16)),
    "array": SQUARE.numpy(),
    "float64 array": SQUARE.numpy().astype(np.float64),
    "read-only array": np.broadcast_to(SQUARE.numpy(), (1, 4, 6)),
    "grey picture": Image.fromarray(SQUARE.numpy().astype(np.uint8) * 255),
    "1-bit picture": Image.fromarray(SQUARE.numpy()),
    "colour picture": Image.fromarray(SQUARE.numpy().astype(np.uint8) * 255).convert("RGB"),
    "list": [SQUARE.numpy()],
}


@pytest.mark.parametrize("name", COPIES)
def test_every_kind_of_mask_is_read_alike(name: str) -> None:
    masks = as_masks(COPIES[name], (4, 6))
    assert masks.dtype == torch.bool and torch.equal(masks, SQUARE[None])


def test_soft_masks_are_cut_at_the_middle() -> None:
    soft = torch.tensor([[0.0, 0.49, 0.5, 1.0]])
    wanted = [[[False, False, True, True]]]
    assert as_masks(soft, (1, 4)).tolist() == wanted
    assert as_masks((soft * 255).round().to(torch.uint8), (1, 4)).tolist() == wanted


def test_a_mixed_list_is_joined_in_order() -> None:
    masks = as_masks([SQUARE.numpy(), torch.stack([~SQUARE, SQUARE])], (4, 6))
    assert torch.equal(masks, torch.stack([SQUARE, ~SQUARE, SQUARE]))


def test_empty_masks_are_left_out_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    masks = as_masks(torch.stack([SQUARE & False, SQUARE]), (4, 6))
    assert torch.equal(masks, SQUARE[None])
    assert "1 of 2" in caplog.text


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (SQUARE, "4 x 6 .*8 x 6"),
        ([], "no mask"),
        (torch.zeros(0, 8, 6), "0 masks"),
        (torch.zeros(2, 8, 6), "All 2 proposals are empty"),
        (torch.full((8, 6), float("nan")), "NaN"),
        (torch.full((8, 6), 3.5), "0 to 1"),
        (torch.full((8, 6), -1), "-1"),
        (torch.zeros(2, 3, 8, 6), r"\(2, 3, 8, 6\)"),
        (np.array([["a"]]), "kind"),
    ],
)
def test_bad_masks_are_explained(masks: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        as_masks(masks, (8, 6))
