"""The stickers of the built-in world: forty nouns drawn in seven emoji styles.

Sprites come from npm packages (see `PACKAGES`), rasterised once with resvg; they are
needed for training and for drawing new scenes only, never for segmenting.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..nouns import CODE_POINTS

PACKAGES = {
    "fluent-3d": "@lobehub/fluent-emoji-3d",
    "fluent-flat": "@iconify-json/fluent-emoji-flat",
    "noto": "@iconify-json/noto",
    "noto-v1": "@iconify-json/noto-v1",
    "fxemoji": "@iconify-json/fxemoji",
    "streamline": "@iconify-json/streamline-emojis",
    "twemoji": "@iconify-json/twemoji",
}
HELD_OUT_STYLE = "twemoji"
TRAINING_STYLES = tuple(style for style in PACKAGES if style != HELD_OUT_STYLE)

# Sets that carry no code points name their icons in their own way.
FXEMOJI = {
    "dog": "dog", "cat": "cat", "apple": "redapple", "car": "automobile",
    "tree": "deciduoustree", "fish": "fish", "bird": "bird", "frog": "frog",
    "pizza": "sliceofpizza", "banana": "banana", "house": "housebuilding", "guitar": "guitar",
    "flower": "sunflower", "mushroom": "mushroom", "pig": "pig", "cow": "cowface",
    "bear": "bear", "turtle": "turtle", "elephant": "elephant", "bicycle": "bicycle",
    "rocket": "rocket", "umbrella": "umbrella umbrellawithraindrops", "balloon": "balloon",
    "cake": "birthdaycake", "cup": "hotbeverage", "strawberry": "strawberry",
    "snowman": "snowmanwithoutsnow", "penguin": "penguin", "chicken": "chicken", "bus": "bus",
    "train": "train", "boat": "sailboat", "airplane": "airplane", "clock": "alarmclock",
    "book": "closedbook", "hat": "tophat", "shoe": "mensshoe",
}  # fmt: skip
STREAMLINE = {
    "dog": "dog-face", "cat": "cat-face", "apple": "red-apple", "frog": "frog-face",
    "bird": "bird-1 bird-2", "pizza": "pizza-1 pizza-2", "guitar": "guitar",
    "mushroom": "mushroom", "pig": "pig-face", "cow": "cow-face", "bear": "bear-face",
    "rabbit": "rabbit-face", "turtle": "turtle", "elephant": "elephant", "bicycle": "bicycle",
    "rocket": "rocket", "umbrella": "umbrella", "balloon": "balloon",
    "house": "house-with-garden", "cake": "birthday-cake-1 birthday-cake-2 birthday-cake-3",
    "penguin": "penguin-1 penguin-2", "cup": "hot-beverage-1 hot-beverage-2",
    "strawberry": "strawberry-1 strawberry-2", "snowman": "snowman", "chicken": "chicken",
    "bus": "bus", "airplane": "airplane", "shoe": "running-shoe",
}  # fmt: skip

Sprites = dict[str, dict[str, list[Image.Image]]]


def load_sprites(packages: Path, styles: tuple[str, ...], size: int = 192) -> Sprites:
    """Sprites by style and noun, each a list of RGBA pictures cropped to what is drawn.

    packages: the `node_modules` folder holding `PACKAGES`. size: longer side in pixels before
    cropping. A noun that a set lacks is left out. Raises FileNotFoundError for a missing package.
    """
    return {style: _load_style(packages / PACKAGES[style], style, size) for style in styles}


def load_noun(packages: Path, styles: tuple[str, ...], noun: str, code: str) -> Sprites:
    """Sprites of a further noun, from the sets that have it under this name or code point."""
    found = {}
    for style in styles:
        folder = packages / PACKAGES[style]
        if style == "fluent-3d":
            found[style] = {noun: [_bitmap(folder, code, 192)]}
            continue
        icons = json.loads((folder / "icons.json").read_text())
        if noun in icons["icons"]:
            found[style] = {noun: [_rasterise(icons, noun, 192)]}
    return found


def _load_style(folder: Path, style: str, size: int) -> dict[str, list[Image.Image]]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"No sprite package at {folder}; run `npm install {PACKAGES[style]}`."
        )
    if style == "fluent-3d":
        return {noun: [_bitmap(folder, code, size)] for noun, code in CODE_POINTS.items()}
    icons = json.loads((folder / "icons.json").read_text())
    names = _icon_names(folder, style)
    found = {
        noun: [_rasterise(icons, name, size) for name in names[noun] if name in icons["icons"]]
        for noun in names
    }
    return {noun: pictures for noun, pictures in found.items() if pictures}


def _icon_names(folder: Path, style: str) -> dict[str, list[str]]:
    if style == "fxemoji":
        return {noun: name.split() for noun, name in FXEMOJI.items()}
    if style == "streamline":
        return {noun: name.split() for noun, name in STREAMLINE.items()}
    # Noto v1 names its icons as Noto does, but ships no table of code points.
    source = folder.parent / "noto" if style == "noto-v1" else folder
    chars = json.loads((source / "chars.json").read_text())
    return {noun: [chars.get(code) or chars[f"{code}-fe0f"]] for noun, code in CODE_POINTS.items()}


def _bitmap(folder: Path, code: str, size: int) -> Image.Image:
    path = folder / "assets" / f"{code}.webp"
    if not path.exists():
        path = folder / "assets" / f"{code}-fe0f.webp"
    return _cropped(Image.open(path).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS))


def _rasterise(icons: dict, name: str, size: int) -> Image.Image:
    import resvg_py

    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    left, top = icon.get("left", 0), icon.get("top", 0)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    data = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return _cropped(Image.open(io.BytesIO(bytes(data))).convert("RGBA"))


def _cropped(sprite: Image.Image) -> Image.Image:
    alpha = np.asarray(sprite)[..., 3] > 16
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    return sprite.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
