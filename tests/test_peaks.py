"""A heat map divided among its hills, and the best cut of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from refdiff.errors import HeatError
from refdiff.masks.peaks import cut_zones, join_neighbours, split_peaks
from refdiff.settings import Settings
from refdiff.steps import propose


def bump(size: tuple[int, int], y: float, x: float, width: float, height: float = 1.0) -> Tensor:
    """A Gaussian hill; y, x in shares of the map, width in pixels."""
    rows = torch.arange(size[0])[:, None] - y * size[0]
    columns = torch.arange(size[1])[None] - x * size[1]
    return height * torch.exp(-(rows**2 + columns**2) / (2 * width**2))


def ridge(*heights: float, size: tuple[int, int] = (40, 64)) -> Tensor:
    """A ridge along the middle row, straight between these heights, falling off to both sides."""
    stops = np.linspace(0, size[1] - 1, len(heights))
    along = torch.from_numpy(np.interp(np.arange(size[1]), stops, heights)).float()
    across = 1 - (torch.arange(size[0]) - size[0] / 2).abs() / (size[0] / 2)
    return across[:, None] * along[None]


def disc(size: tuple[int, int], y: int, x: int, radius: int) -> Tensor:
    rows, columns = torch.arange(size[0])[:, None] - y, torch.arange(size[1])[None] - x
    return rows**2 + columns**2 <= radius**2


def overlap(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


def check_division(zones: Tensor, heat: Tensor) -> None:
    """Every pixel is in exactly one zone, and the hottest zone comes first."""
    assert zones.dtype == torch.bool and zones.shape[1:] == heat.shape
    assert bool((zones.sum(0) == 1).all())
    peaks = [float(heat[zone].max()) for zone in zones]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (300, 120), (33, 257)])
@pytest.mark.parametrize("second", [1.0, 0.7])
def test_two_hills_are_two_things(size: tuple[int, int], second: float) -> None:
    width = min(size) / 10
    places = ((0.25, 0.2), (0.75, 0.8))
    heat = torch.maximum(
        bump(size, *places[0], width, second),
        bump(size, *places[1], width, 1.0),
    )
    zones = split_peaks(heat)
    check_division(zones, heat)
    assert len(zones) == 2
    at = [(round(y * size[0]), round(x * size[1])) for y, x in places]
    assert {int(zones[:, y, x].int().argmax()) for y, x in at} == {0, 1}
    if second < 1:
        assert bool(zones[0, at[1][0], at[1][1]])


def test_several_hills_of_the_same_height() -> None:
    places = [(y, x) for y in (0.2, 0.8) for x in (0.15, 0.5, 0.85)]
    heat = torch.stack([bump((60, 90), y, x, 5.0) for y, x in places]).amax(0)
    zones = split_peaks(heat)
    check_division(zones, heat)
    assert len(zones) == 6


def test_one_hill_is_one_thing_wherever_it_is() -> None:
    for place in ((0.5, 0.5), (0.0, 0.0), (0.9, 0.1)):
        heat = bump((50, 70), *place, 9.0)
        zones = split_peaks(heat)
        check_division(zones, heat)
        assert len(zones) == 1 and bool(zones.all())


@pytest.mark.parametrize(
    ("heights", "count"),
    [
        ((0, 1.0, 0.9, 1.0, 0), 1),
        ((0, 1.0, 0.3, 1.0, 0), 2),
        ((0, 1.0, 0.75, 0.8, 0), 1),
        ((0, 1.0, 0.3, 0.8, 0), 2),
        ((0, 0.8, 0.4, 1.0, 0.4, 0.8, 0), 3),
        ((0, 0.8, 0.7, 1.0, 0.4, 0.8, 0), 2),
    ],
)
def test_the_valley_decides(heights: tuple[float, ...], count: int) -> None:
    for heat in (ridge(*heights), ridge(*heights).T.contiguous()):
        zones = split_peaks(heat)
        check_division(zones, heat)
        assert len(zones) == count


def test_prominence_and_floor_are_shares() -> None:
    valley = ridge(0, 1.0, 0.55, 1.0, 0)
    assert len(split_peaks(valley, prominence=0.3)) == 2
    assert len(split_peaks(valley, prominence=0.6)) == 1
    low = ridge(0, 1.0, 0.0, 0.4, 0)
    assert len(split_peaks(low, floor=0.3)) == 2
    assert len(split_peaks(low, floor=0.5)) == 1


@pytest.mark.parametrize("scale", [0.02, 0.5, 40.0])
def test_zones_and_cuts_do_not_depend_on_the_heats_scale(scale: float) -> None:
    torch.manual_seed(0)
    heat = torch.nn.functional.interpolate(
        torch.rand(1, 1, 6, 9), (60, 90), mode="bicubic", align_corners=False
    )[0, 0].clamp(min=0)
    zones = split_peaks(heat)
    assert len(zones) > 2
    assert torch.equal(split_peaks(heat * scale), zones)
    cuts, scaled = cut_zones(heat, zones), cut_zones(heat * scale, zones)
    assert all(overlap(a, b) > 0.95 for a, b in zip(cuts, scaled, strict=True))


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 30), (200, 90)])
def test_a_constant_heat_is_one_thing(value: float, size: tuple[int, int]) -> None:
    heat = torch.full(size, value)
    zones = split_peaks(heat)
    assert zones.shape == (1, *size) and bool(zones.all())
    assert bool(cut_zones(heat, zones).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_heat_is_explained(bad: float) -> None:
    heat = bump((30, 30), 0.5, 0.5, 5.0)
    heat[3, 4] = bad
    with pytest.raises(HeatError, match="not finite"):
        split_peaks(heat)
    with pytest.raises(ValueError, match="shape"):
        split_peaks(heat[None])


def test_a_few_pixels_are_enough() -> None:
    for heat in (torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0], [0.0], [1.0]]), torch.eye(3)):
        zones = split_peaks(heat)
        check_division(zones, heat)
        cuts = cut_zones(heat, zones)
        assert bool(cuts.flatten(1).any(1).all())


@pytest.mark.parametrize("size", [(120, 200), (256, 171)])
def test_each_disc_is_cut_out_whatever_the_other_is(size: tuple[int, int]) -> None:
    mild = disc(size, size[0] // 3, size[1] // 4, 25)
    hot = disc(size, 2 * size[0] // 3, 3 * size[1] // 4, 18)
    heat = 0.1 + 0.45 * mild.float() + 0.9 * hot.float()
    soft = torch.nn.functional.avg_pool2d(heat[None, None], 5, 1, 2, count_include_pad=False)[0, 0]
    for map_ in (heat, soft):
        zones = split_peaks(map_)
        masks = cut_zones(map_, zones)
        assert len(masks) == 2
        assert overlap(masks[0], hot) > 0.9 and overlap(masks[1], mild) > 0.9
        assert not bool((masks[0] & masks[1]).any())


def test_a_large_hot_thing_does_not_spoil_the_cut_of_a_small_mild_one() -> None:
    mild, hot = disc((160, 240), 40, 50, 15), disc((160, 240), 100, 170, 50)
    heat = 0.05 + 0.35 * mild.float() + 0.95 * hot.float()
    soft = torch.nn.functional.avg_pool2d(heat[None, None], 9, 1, 4, count_include_pad=False)[0, 0]
    masks = cut_zones(soft, split_peaks(soft))
    assert overlap(masks[0], hot) > 0.9 and overlap(masks[1], mild) > 0.9


def test_cuts_stay_in_their_zones_and_in_one_piece() -> None:
    from scipy import ndimage

    torch.manual_seed(1)
    for _ in range(5):
        heat = torch.nn.functional.interpolate(
            torch.rand(1, 1, 5, 8), (50, 80), mode="bicubic", align_corners=False
        )[0, 0].clamp(0, 1)
        zones = split_peaks(heat)
        masks = cut_zones(heat, zones)
        assert len(masks) == len(zones)
        assert not bool((masks & ~zones).any())
        assert int(masks.sum(0).max()) == 1
        for mask in masks:
            assert ndimage.label(mask.numpy(), structure=np.ones((3, 3)))[1] == 1


def test_small_cuts_are_left_out_but_never_all() -> None:
    heat = disc((60, 90), 30, 20, 15).float() + disc((60, 90), 30, 70, 4).float()
    zones = split_peaks(heat)
    assert len(cut_zones(heat, zones)) == 2
    kept = cut_zones(heat, zones, least_area=0.05)
    assert len(kept) == 1 and bool(kept[0, 30, 20])
    assert torch.equal(cut_zones(heat, zones, least_area=1.0), kept)


def hills(size: tuple[int, int], *peaks: tuple[float, float, float, float]) -> Tensor:
    """The highest of several round hills: (row, column, width, height) each."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    each = [
        height * torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
        for y, x, width, height in peaks
    ]
    return torch.stack(each).amax(0)


def test_a_head_and_a_torso_are_proposed_as_one_thing_too() -> None:
    heat = hills((96, 96), (20, 30, 5, 1.0), (48, 30, 9, 0.75), (46, 80, 8, 0.8))
    assert float(heat[20:48, 30].min()) < 0.15
    zones = split_peaks(heat, 0.25)
    assert len(zones) == 3
    head, torso, other = (20, 30), (48, 30), (46, 80)
    joined = join_neighbours(heat, zones)
    assert any(zone[head] and zone[torso] and not zone[other] for zone in joined)
    assert len(joined) < len(zones)


def test_every_peak_the_whole_map_and_nothing_twice_are_proposed() -> None:
    heat = hills((64, 96), (32, 24, 8, 1.0), (32, 72, 8, 0.9))
    masks = propose(heat, Settings())
    assert any(bool(m[32, 24]) and bool(m[32, 72]) for m in masks)
    assert any(bool(m[32, 24]) and not m[32, 72] for m in masks)
    assert any(bool(m[32, 72]) and not m[32, 24] for m in masks)
    flat = masks.flatten(1).float()
    shared, area = flat @ flat.T, flat.sum(1)
    alike = shared / (area[:, None] + area[None] - shared) > 0.9
    assert int(alike.sum()) == len(masks)
