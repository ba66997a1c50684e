"""The working size, heat that follows the picture's edges, and the paper's positional bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from refdiff.expression import parse
from refdiff.masks.edges import guided_filter, outline
from refdiff.masks.resize import LONGEST, resize_masks, to_tensor, upsample, working_size
from refdiff.scoring.paper_bias import darkened


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """Blocks of 4 px in random colours, [3, H, W]."""
    coarse = noise(3, -(-height // 4), -(-width // 4), seed=seed)
    return coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :height, :width]


# ---- working size ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (97, 131), (256, 256), (3000, 4000), (20000, 200)])
def test_the_working_size_keeps_the_aspect_and_never_enlarges(size: tuple[int, int]) -> None:
    height, width = working_size(size)
    assert 1 <= height <= size[0] and 1 <= width <= size[1]
    assert max(height, width) == min(LONGEST, max(size))
    scale = max(height, width) / max(size)
    assert abs(height - size[0] * scale) <= 0.5 and abs(width - size[1] * scale) <= 0.5
    assert working_size((size[1], size[0])) == (width, height)
    assert working_size((height, width)) == (height, width)


def test_a_line_of_pixels_keeps_one() -> None:
    assert working_size((20000, 5)) == (LONGEST, 1)


def test_a_picture_as_a_tensor(picture: Image.Image) -> None:
    same = to_tensor(picture, (97, 131))
    assert same.dtype == torch.float32
    assert torch.equal(
        (same * 255).round().byte().permute(1, 2, 0), torch.tensor(np.array(picture))
    )
    small = to_tensor(picture, (40, 30))
    assert small.shape == (3, 40, 30) and 0 <= float(small.min()) <= float(small.max()) <= 1


def test_masks_shrink_to_where_they_are() -> None:
    masks = torch.zeros(4, 400, 600, dtype=torch.bool)
    masks[0] = True
    masks[1, 100:200, 300:450] = True
    masks[2, 333, 77] = True
    small = resize_masks(masks, (160, 240))
    assert small.dtype == torch.bool and small.shape == (4, 160, 240)
    assert bool(small[0].all()) and not bool(small[3].any())
    assert torch.equal(small[1].nonzero().amin(0), torch.tensor([40, 120]))
    assert torch.equal(small[1].nonzero().amax(0), torch.tensor([79, 179]))
    assert 1 <= int(small[2].sum()) <= 4 and bool(small[2, 133, 30])
    assert torch.equal(resize_masks(masks, (400, 600)), masks)


def test_no_mask_is_lost_and_areas_hardly_change() -> None:
    rows, columns = torch.arange(500)[:, None], torch.arange(700)[None]
    discs = [(rows - 250) ** 2 + (columns - 300) ** 2 < radius**2 for radius in (1, 3, 40, 200)]
    masks = torch.stack(discs)
    small = resize_masks(masks, working_size((500, 700)))
    assert bool(small.flatten(1).any(1).all())
    shares = [stack.float().mean((1, 2)) for stack in (masks, small)]
    assert torch.allclose(shares[0][2:], shares[1][2:], rtol=0.05)


def test_enlarging_keeps_the_shape() -> None:
    assert torch.equal(upsample(noise(9, 7) > 0.5, (9, 7)), noise(9, 7) > 0.5)
    for value in (True, False):
        assert bool((upsample(torch.full((20, 30), value), (97, 131)) == value).all())
    rows, columns = torch.arange(64)[:, None], torch.arange(96)[None]
    small = (rows - 30) ** 2 + (columns - 50) ** 2 < 15**2
    large = upsample(small, (256, 384))
    assert large.dtype == torch.bool and large.shape == (256, 384)
    assert abs(float(large.float().mean() - small.float().mean())) < 0.002
    assert torch.equal(resize_masks(large[None], (64, 96))[0], small)


# ---- heat that follows edges -----------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 84), (61, 45), (128, 128)])
@pytest.mark.parametrize("coarser", [1, 2])
def test_the_filter_reproduces_any_affine_function_of_the_colours(
    size: tuple[int, int], coarser: int
) -> None:
    guide = texture(*size)
    source = 0.2 * guide[0] - 0.3 * guide[1] + 0.4 * guide[2] + 0.35
    found = guided_filter(source, guide, 8, epsilon=1e-7, coarser=coarser)
    assert found.shape == source.shape
    assert torch.allclose(found, source, atol=2e-3)
    assert not torch.allclose(found, noise(*size), atol=0.1)


def test_the_filter_smooths_where_the_picture_is_flat() -> None:
    flat = torch.full((3, 64, 64), 0.4)
    source = noise(64, 64)
    found = guided_filter(source, flat, 10)
    assert float(found.std()) < 0.2 * float(source.std())
    assert float(found.mean()) == pytest.approx(float(source.mean()), abs=0.02)
    constant = guided_filter(torch.full((40, 50), 0.7), texture(40, 50), 6)
    assert torch.allclose(constant, torch.full((40, 50), 0.7), atol=1e-4)


# ---- positional bias -------------------------------------------------------------------------


def weights_of(text: str, bias: str, size: tuple[int, int] = (20, 30)) -> tuple[Tensor, Tensor]:
    """What a white picture becomes for the crop branch and the masked branch, one channel."""
    crop, masked = darkened(torch.ones(3, *size), parse(text), bias)
    assert crop.shape == masked.shape == (3, *size)
    return crop[0], masked[0]


@pytest.mark.parametrize(
    ("text", "axis", "flip"),
    [
        ("the cat on the left", 1, False),
        ("the cat on the right", 1, True),
        ("the cat at the top", 0, False),
        ("the cat at the bottom", 0, True),
    ],
)
def test_the_papers_ramp_falls_from_the_side_that_is_named(
    text: str, axis: int, flip: bool
) -> None:
    crop, masked = weights_of(text, "paper")
    assert bool((crop == 1).all())
    ramp = masked.flip(axis) if flip else masked
    line = ramp.select(1 - axis, 0)
    assert torch.equal(ramp, line.unsqueeze(1 - axis).expand_as(ramp))
    steps = line.diff()
    assert float(line[0]) == 1 and 0 < float(line[-1]) < 0.06
    assert bool((steps < 0).all()) and torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-6)


def test_a_corner_is_both_its_sides() -> None:
    corner = weights_of("the cat in the top left corner", "paper")[1]
    top, left = (
        weights_of(f"the cat {side}", "paper")[1] for side in ("at the top", "on the left")
    )
    assert torch.allclose(corner, top * left) and int(corner.argmax()) == 0


def test_the_authors_ramp_acts_on_the_crops_and_on_letters() -> None:
    crop, masked = weights_of("the cat on the left", "official")
    assert bool((masked == 1).all()) and float(crop[0, 0]) == 1
    assert torch.allclose(crop[3], torch.cat([torch.linspace(1, 0, 20), torch.zeros(10)]))
    mirrored = weights_of("the cat on the right", "official")[0]
    assert torch.equal(mirrored, crop.flip(1))
    assert torch.equal(weights_of("the copyright sign", "official")[0], mirrored)
    assert bool((weights_of("the cat at the top", "official")[0] == 1).all())


@pytest.mark.parametrize("bias", ["geometry", "none", "paper", "official"])
def test_without_a_place_or_a_ramp_the_picture_is_the_same_object(bias: str) -> None:
    pixels = noise(3, 8, 8)
    text = "the red cat" if bias in ("paper", "official") else "the red cat on the left"
    crop, masked = darkened(pixels, parse(text), bias)
    assert crop is pixels and masked is pixels


def test_the_middle_has_no_ramp_in_the_paper() -> None:
    crop, masked = weights_of("the cat in the middle", "paper")
    assert bool((crop == 1).all()) and bool((masked == 1).all())


# ---- outlines at the picture's own size ------------------------------------------------------


def drawn_disc(height: int, width: int, radius: float) -> tuple[Image.Image, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < radius**2
    pixels = torch.where(
        inside[..., None], torch.tensor([190, 60, 40]), torch.tensor([90, 140, 90])
    )
    return Image.fromarray(pixels.byte().numpy()), inside


def wrong_pixels(found: Tensor, inside: Tensor) -> float:
    return float((found ^ inside).sum()) / float(inside.sum())


@pytest.mark.parametrize("size", [(1500, 2000), (700, 300)])
def test_an_outline_is_as_fine_as_the_picture(size: tuple[int, int]) -> None:
    picture, inside = drawn_disc(*size, min(size) / 4)
    small = resize_masks(inside[None].roll((3, -4), (1, 2)), working_size(size))[0]
    found = outline(small, picture)
    assert found.shape == size and found.dtype == torch.bool
    assert wrong_pixels(found, inside) < 0.25 * wrong_pixels(upsample(small, size), inside)


def test_a_large_picture_is_filtered_in_strips_without_seams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture, inside = drawn_disc(300, 400, 90)
    small = resize_masks(inside[None].roll(2, 1), (75, 100))[0]
    whole = outline(small, picture)
    monkeypatch.setattr("refdiff.masks.edges.STRIP", 400 * 7)
    assert torch.equal(outline(small, picture), whole)


def test_no_edges_no_change_and_never_an_empty_outline() -> None:
    picture, inside = drawn_disc(120, 160, 30)
    small = resize_masks(inside[None], (60, 80))[0]
    assert torch.equal(outline(small, picture, amount=0.0), upsample(small, (120, 160)))
    speck = torch.zeros(60, 80, dtype=torch.bool)
    assert not outline(speck, picture).any()
    speck[3, 5] = True
    assert outline(speck, picture).any()
