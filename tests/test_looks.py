"""How stickers are tinted and changed, what they stand on, and how sprites are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refdiff.stickers.nouns import CODE_POINTS, NOUNS
from refdiff.stickers.training import looks
from refdiff.stickers.training.looks import COLOURS, background, outline, restyle, tint
from refdiff.stickers.training.sprites import load_sprites

Change = Callable[[looks.Array, np.random.Generator], looks.Array]


@pytest.fixture
def sticker() -> looks.Array:
    """A disc of soft noise on nothing, [40, 30, 4]."""
    found = np.random.default_rng(0).random((40, 30, 4)).astype(np.float32)
    rows, columns = np.mgrid[:40, :30]
    found[..., 3] = np.clip(14 - np.hypot(rows - 20, columns - 15), 0, 1)
    return found


def test_tint_follows_its_formula(sticker: looks.Array) -> None:
    luma = 0.299 * sticker[..., 0] + 0.587 * sticker[..., 1] + 0.114 * sticker[..., 2]
    low, high = np.percentile(luma[sticker[..., 3] > 0.5], [2, 98])
    shade = 0.35 + (1.1 - 0.35) * ((luma - low) / (high - low)).clip(0, 1)
    for name, colour in COLOURS.items():
        painted = (shade[..., None] * np.array(colour)).clip(0, 1)
        found = tint(sticker, name)
        assert np.allclose(found[..., :3], 0.85 * painted + 0.15 * sticker[..., :3], atol=1e-5)
        assert np.array_equal(found[..., 3], sticker[..., 3])


def test_tints_can_be_told_apart(sticker: looks.Array) -> None:
    """Also with the freedom that training gives them, the nearest named colour is the right one."""
    inside = sticker[..., 3] > 0.5
    pure = {name: tint(sticker, name)[inside][:, :3].mean(0) for name in COLOURS}
    for seed in range(10):
        for name in COLOURS:
            found = tint(sticker, name, np.random.default_rng(seed))[inside][:, :3].mean(0)
            assert min(pure, key=lambda other: float(np.abs(pure[other] - found).sum())) == name


CHANGES = tuple(dict.fromkeys(looks.STYLE_CHANGES + looks.COLOUR_SAFE_CHANGES))


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_keeps_the_shape_and_does_something(
    change: Change, sticker: looks.Array
) -> None:
    rgb = sticker[..., :3]
    first, again = (change(rgb.copy(), np.random.default_rng(4)) for _ in range(2))
    assert first.shape == rgb.shape and np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert float(np.abs(first - rgb).max()) > 0.02


def test_restyling_leaves_the_outline_alone_and_an_outline_widens_it(sticker: looks.Array) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changed = restyle(sticker, rng)
        assert np.array_equal(changed[..., 3], sticker[..., 3])
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
        wide = outline(sticker, rng)
        assert bool((wide[..., 3] >= sticker[..., 3] - 1 / 255).all())
        assert float(wide[..., 3].sum()) > 1.05 * float(sticker[..., 3].sum())
        assert np.allclose(
            wide[..., :3][sticker[..., 3] == 1], sticker[..., :3][sticker[..., 3] == 1]
        )


def test_backgrounds_are_pictures_and_vary() -> None:
    found = [background(np.random.default_rng(seed), 64) for seed in range(60)]
    for ground in found:
        assert ground.shape == (64, 64, 3) and ground.dtype == np.float32
        assert 0 <= float(ground.min()) <= float(ground.max()) <= 1
    spread = [float(ground.std((0, 1)).max()) for ground in found]
    assert min(spread) < 0.01 and max(spread) > 0.15
    assert len({ground.tobytes() for ground in found}) == 60


def test_sprites_are_cropped_to_what_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="npm install @lobehub/fluent-emoji-3d"):
        load_sprites(tmp_path, ("fluent-3d",))
    folder = tmp_path / "@lobehub" / "fluent-emoji-3d" / "assets"
    folder.mkdir(parents=True)
    picture = Image.new("RGBA", (64, 64))
    picture.paste((200, 10, 10, 255), (16, 8, 48, 56))
    for number, code in enumerate(CODE_POINTS.values()):
        picture.save(folder / f"{code}{'-fe0f' if number % 5 == 0 else ''}.webp", lossless=True)
    found = load_sprites(tmp_path, ("fluent-3d",), size=128)["fluent-3d"]
    assert tuple(found) == NOUNS and len(NOUNS) == 40
    for (sprite,) in found.values():
        assert sprite.mode == "RGBA"
        assert abs(sprite.width - 64) <= 4 and abs(sprite.height - 96) <= 4
