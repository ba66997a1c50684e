"""The stickers of the built-in world: forty nouns drawn in seven emoji styles.

Sprites come from npm packages (see `PACKAGES`), rasterised once with resvg; they are
needed for training and for drawing new scenes only, never for segmenting.
"""

from __future__ import annotations

import io
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

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
TABLED = ("fluent-flat", "noto", "twemoji")
"""Sets whose package tells the names of code points."""
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

# Other drawings of the same nouns, by code point: a whole dog beside a dog's face.
FURTHER = {
    "dog": "1f415 1f429", "cat": "1f408 1f63a 1f638 1f63c 1f63d", "apple": "1f34f",
    "car": "1f698 1f699 1f695", "tree": "1f332 1f334 1f384", "fish": "1f420 1f421",
    "bird": "1f54a 1f985 1f99c", "house": "1f3e1", "flower": "1f33a 1f33c 1f338 1f339 1f337",
    "pig": "1f416", "cow": "1f404 1f402", "rabbit": "1f407", "umbrella": "2614 1f302 26f1",
    "cake": "1f370 1f9c1", "cup": "1f375 1f964", "snowman": "26c4", "chicken": "1f413",
    "bus": "1f68d 1f68e", "train": "1f682 1f683 1f684 1f685 1f68a 1f687",
    "boat": "1f6a4 1f6a2 1f6f6 1f6e5", "airplane": "1f6e9 1f6eb 1f6ec",
    "clock": "1f552 1f557 1f570", "book": "1f4d7 1f4d8 1f4d9 1f4d6 1f4d2",
    "hat": "1f452 1f9e2 1f393", "shoe": "1f45e 1f460 1f461 1f97e 1f97f",
}  # fmt: skip

Sprites = dict[str, dict[str, list[Image.Image]]]


def load_sprites(
    packages: Path, styles: tuple[str, ...], size: int = 192, further: bool = False
) -> Sprites:
    """Sprites by style and noun, each a list of RGBA pictures cropped to what is drawn.

    packages: the `node_modules` folder holding `PACKAGES`. size: longer side in pixels before
    cropping. further: also other drawings of the same nouns (`FURTHER`), after the first ones,
    which are then there as often as all others together, to be drawn half of the time.
    A noun that a set lacks is left out. Raises FileNotFoundError for a missing package.
    """
    return {style: _load_style(packages, style, size, further) for style in styles}


def load_noun(packages: Path, styles: tuple[str, ...], noun: str, code: str) -> Sprites:
    """Sprites of a further noun, from the sets that have its code point."""
    found = {style: Drawings(packages, style, 192).of(code) for style in styles}
    return {style: {noun: pictures} for style, pictures in found.items() if pictures}


class Drawings:
    """One style's drawings, cropped, by code point or by the set's own names."""

    def __init__(self, packages: Path, style: str, size: int) -> None:
        self.style, self.size = style, size
        self._packages, self._folder = packages, _package(packages, style)
        self._icons: dict[str, Any] = {"icons": {}}
        self._by_plain_name: dict[str, list[str]] = {}
        if style != "fluent-3d":
            self._icons = json.loads((self._folder / "icons.json").read_text())
        for name in self._icons["icons"]:
            self._by_plain_name.setdefault(_plain(name), []).append(name)

    def of(self, code: str) -> list[Image.Image]:
        """Every drawing of this code point in hexadecimal; none where the set lacks it."""
        if self.style == "fluent-3d":
            files = [self._folder / "assets" / f"{code}{end}.webp" for end in ("", "-fe0f")]
            return [_bitmap(path, self.size) for path in files if path.exists()][:1]
        name = self._names.get(code) or self._names.get(f"{code}-fe0f", "")
        if self.style in ("fxemoji", "streamline"):
            return self.named(self._by_plain_name.get(_plain(name), []))
        return self.named([name])

    def named(self, names: list[str]) -> list[Image.Image]:
        """The icons of these names, less those that the set lacks."""
        icons = self._icons["icons"]
        return [_rasterise(self._icons, name, self.size) for name in names if name in icons]

    @cached_property
    def _names(self) -> dict[str, str]:
        """Names by code point: Noto's for the sets that ship no such table."""
        own = self._folder if self.style in TABLED else _package(self._packages, "noto")
        names: dict[str, str] = json.loads((own / "chars.json").read_text())
        return names


def _package(packages: Path, style: str) -> Path:
    folder = packages / PACKAGES[style]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"No sprite package at {folder}; run `npm install {PACKAGES[style]}`."
        )
    return folder


def _plain(name: str) -> str:
    """A name without hyphens and without the number of one of several drawings."""
    return re.sub(r"-\d+$", "", name).replace("-", "")


def _load_style(
    packages: Path, style: str, size: int, further: bool
) -> dict[str, list[Image.Image]]:
    drawings = Drawings(packages, style, size)
    own = {"fxemoji": FXEMOJI, "streamline": STREAMLINE}.get(style)
    found: dict[str, list[Image.Image]] = {}
    for noun, main in CODE_POINTS.items():
        first = drawings.of(main) if own is None else drawings.named(own.get(noun, "").split())
        codes = FURTHER.get(noun, "").split() if further else []
        more = [one for code in codes for one in drawings.of(code)]
        found[noun] = first * max(1, len(more) // max(1, len(first))) + more
    return {noun: pictures for noun, pictures in found.items() if pictures}


def _bitmap(path: Path, size: int) -> Image.Image:
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
