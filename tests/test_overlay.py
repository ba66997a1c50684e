"""Overlays keep the picture's size, show heat in order and mark the mask on any ground."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from refdiff.io.overlay import COLOURS, draw_overlay, heat_image, tile


def disc(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    radius = min(height, width) / 4
    return (rows - height / 2) ** 2 + (columns - width / 2) ** 2 <= radius**2


def lightness(pixels: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB pixels."""
    linear = (pixels / 255.0) ** 2.2
    return 116 * np.cbrt(linear @ (0.2126, 0.7152, 0.0722)) - 16


def test_hotter_is_lighter_in_even_steps() -> None:
    ramp = np.linspace(0, 1, 256)[None]
    steps = np.diff(lightness(np.asarray(heat_image(ramp), dtype=float)[0, ::16]))
    assert (steps > 2).all() and steps.max() < 3 * steps.min()
    ends = np.asarray(heat_image(torch.tensor([[0.0, 1.0]])))[0]
    assert (ends == (COLOURS[0], COLOURS[-1])).all()


def test_heat_that_cannot_be_drawn_is_refused() -> None:
    for bad in (np.full((3, 3), np.nan), np.zeros(3), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="Heat"):
            heat_image(bad)
        with pytest.raises(ValueError, match="Heat"):
            draw_overlay(Image.new("RGB", (8, 8)), bad, np.zeros((8, 8), bool), "cat")


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (20, 20), (90, 64), (256, 256), (1600, 1100)])
@pytest.mark.parametrize("warm", [True, False])
def test_every_size_is_drawn_at_its_own_size(size: tuple[int, int], warm: bool) -> None:
    width, height = size
    heat = np.linspace(0, 1, 64).reshape(8, 8) if warm else None
    image = Image.new("L", size, 90)
    drawn = draw_overlay(image, heat, disc(height, width), "a cat on a very long sofa")
    assert drawn.size == size and drawn.mode == "RGB" and image.getpixel((0, 0)) == 90


@pytest.mark.parametrize("ground", ["white", "black", "gray", "red", "blue"])
@pytest.mark.parametrize("side", [64, 256, 900])
def test_the_outline_is_light_and_dark_on_any_ground(ground: str, side: int) -> None:
    mask = disc(side, side)
    drawn = np.asarray(draw_overlay(Image.new("RGB", (side, side), ground), None, mask), int)
    near = np.zeros_like(mask)
    shift = max(2, side // 64)
    for axis in (0, 1):
        for step in (-shift, shift):
            near |= np.roll(mask, step, axis) != mask
    light = lightness(drawn)
    assert light[near].max() > 90 and light[near].min() < 35
    far = np.ones_like(mask)
    far[disc_ring(side)] = False
    assert np.unique(drawn[far & mask].reshape(-1, 3), axis=0).shape[0] == 1


def disc_ring(side: int) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    distance = np.hypot(rows - side / 2, columns - side / 2)
    return abs(distance - side / 4) < side / 8


def test_one_pixel_and_the_whole_picture_are_outlined_and_nothing_is_not() -> None:
    image = Image.new("RGB", (200, 200), "gray")
    masks = np.zeros((3, 200, 200), bool)
    masks[1, 100, 100] = True
    masks[2] = True
    nothing, pixel, whole = (
        lightness(np.asarray(draw_overlay(image, None, m), int)) for m in masks
    )
    assert nothing.std() == 0
    assert pixel[97:104, 97:104].max() > nothing.max() + 30
    assert whole[0].min() > 80 and whole[100, 100] < 60


def test_heat_of_another_size_is_stretched_and_shown_where_it_is() -> None:
    heat = np.zeros((8, 16), np.float32)
    heat[:, 8:] = 1
    image = Image.new("RGB", (160, 80), "gray")
    drawn = np.asarray(draw_overlay(image, heat, np.zeros((80, 160), bool)), int)
    assert lightness(drawn)[:, 100:].min() > lightness(drawn)[:, :60].max() + 20


def test_the_mask_has_the_size_of_the_picture() -> None:
    with pytest.raises(ValueError, match=r"\(8, 9\).*\(9, 8\)"):
        draw_overlay(Image.new("RGB", (8, 9)), None, np.zeros((8, 9), bool), "cat")


def test_the_label_keeps_off_the_mask_and_says_different_words_differently() -> None:
    image = Image.new("RGB", (256, 256), "gray")
    mask = np.zeros((256, 256), bool)
    mask[:100, :] = True
    plain = np.asarray(draw_overlay(image, None, mask), int)
    cat, dog = (np.asarray(draw_overlay(image, None, mask, word), int) for word in ("cat", "dog"))
    changed = (cat != plain).any(axis=2)
    assert changed.any() and not changed[:105].any()
    assert (cat != dog).any()
    assert lightness(cat)[changed].max() > 90  # light letters on a dark plate
    assert (np.asarray(draw_overlay(image, None, mask, "  ")) == plain).all()


def test_a_tiny_picture_has_no_label() -> None:
    image, mask = Image.new("RGB", (30, 30), "gray"), disc(30, 30)
    without = np.asarray(draw_overlay(image, None, mask))
    assert (np.asarray(draw_overlay(image, None, mask, "cat")) == without).all()


def test_the_sheet_holds_every_picture_in_order() -> None:
    colours = ["red", "lime", "blue", "yellow", "magenta"]
    images = [Image.new("RGB", (10 * n, 20), colour) for n, colour in enumerate(colours, 1)]
    sheet = tile(images, [f"a label of {colour} " * 5 for colour in colours], columns=2, width=100)
    pixels = np.asarray(sheet)
    first = []
    for colour in colours:
        wanted = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        rows, columns = np.nonzero((pixels == wanted).all(axis=2))
        assert np.ptp(columns) == 99
        first.append((rows[0], columns[0]))
    assert first == sorted(first) and first[0][0] == first[1][0] < first[2][0]
    assert tile(images[:1], ["one"], width=100).width == 110
    assert tile(images, [""] * 5, width=100).width == 3 * 105 + 5


def test_the_sheet_wants_a_label_per_picture() -> None:
    for images in ([], [Image.new("RGB", (4, 4))]):
        with pytest.raises(ValueError, match="label"):
            tile(images, [])
