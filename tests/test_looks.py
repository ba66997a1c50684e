"""How stickers are tinted and changed, what they stand on, and how sprites are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refdiff.stickers.nouns import CODE_POINTS, NOUNS
from refdiff.stickers.training import looks
from refdiff.stickers.training.emoji import load_emoji, names_of
from refdiff.stickers.training.looks import COLOURS, background, outline, restyle, tint
from refdiff.stickers.training.sprites import FURTHER, PACKAGES, load_noun, load_sprites

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


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Four sets as npm unpacks them: bitmaps by code point, and drawings by name."""
    bitmaps = tmp_path / PACKAGES["fluent-3d"] / "assets"
    bitmaps.mkdir(parents=True)
    for code in ("1f436", "1f415", "1f419", "1f552", "2601-fe0f"):
        Image.new("RGBA", (64, 64), (200, 10, 10, 255)).save(bitmaps / f"{code}.webp")
    chars = {
        "1f436": "dog-face", "1f415": "dog", "1f419": "octopus", "1f552": "three-oclock",
        "2601-fe0f": "cloud", "1f480": "skull", "1f44d-1f3fb": "thumbs-up-light-skin-tone",
    }  # fmt: skip
    body = '<rect x="2" y="4" width="8" height="12" fill="#0a0"/>'
    drawn = {
        PACKAGES["noto"]: [name for name in chars.values() if name != "cloud"],
        PACKAGES["fxemoji"]: ["dog", "octopus", "skull"],
        PACKAGES["streamline"]: ["octopus-1", "octopus-2"],
    }
    for package, names in drawn.items():
        (tmp_path / package).mkdir(parents=True)
        icons = {"icons": {name: {"body": body} for name in names}, "width": 16, "height": 16}
        (tmp_path / package / "icons.json").write_text(json.dumps(icons))
    (tmp_path / PACKAGES["noto"] / "chars.json").write_text(json.dumps(chars))
    return tmp_path


def test_a_noun_has_further_drawings_where_they_are_asked_for(packages: Path) -> None:
    styles = ("fluent-3d", "noto")
    for style, rows in load_sprites(packages, styles, further=True).items():
        assert len(rows["dog"]) == 2, style  # the face and the whole dog
    assert {len(rows["dog"]) for rows in load_sprites(packages, styles).values()} == {1}
    assert load_noun(packages, styles, "octopus", "1f419").keys() == set(styles)
    assert "cat" not in load_sprites(packages, styles, further=True)["noto"]
    codes = [code for noun in FURTHER for code in FURTHER[noun].split()]
    assert set(FURTHER) <= set(NOUNS) and len(codes) == len(set(codes))
    assert not set(codes) & set(CODE_POINTS.values())


def test_every_emoji_of_two_styles_has_a_name(packages: Path) -> None:
    found = load_emoji(packages, ("fluent-3d", "noto", "fxemoji", "streamline"))
    assert names_of(found) == ["clock", "dog", "octopus", "skull"]
    assert {style: len(rows.get("octopus", [])) for style, rows in found.items()} == {
        "fluent-3d": 1, "noto": 1, "fxemoji": 1, "streamline": 2,
    }  # fmt: skip
    assert len(found["noto"]["dog"]) == 2 and "skull" not in found["fluent-3d"]
    sprite = found["noto"]["skull"][0]
    assert abs(sprite.width - 64) <= 2 and abs(sprite.height - 96) <= 2
