"""Every emoji of the training styles, for a CLIP that tells drawings apart in styles it never saw.

Forty nouns in six styles are too few to learn what a change of style may change. The same sets
draw nearly thirteen hundred other things; telling those apart, across the styles, teaches it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from ..nouns import CODE_POINTS
from .sprites import FURTHER, PACKAGES, Drawings, Sprites

SINGLE = re.compile(r"([0-9a-f]+)(-fe0f)?")
CLOCKS = {f"{code:x}": "clock" for code in range(0x1F550, 0x1F568)}
NOUN_OF = CLOCKS | {
    code: noun
    for noun, first in CODE_POINTS.items()
    for code in (first, *FURTHER.get(noun, "").split())
}


def load_emoji(packages: Path, styles: tuple[str, ...], size: int = 128) -> Sprites:
    """Sprites of every single code point that at least two of the styles have, by Noto's names.

    All drawings of one of the forty nouns are under the noun.
    """
    table = json.loads((packages / PACKAGES["noto"] / "chars.json").read_text())
    codes = sorted({match[1] for match in map(SINGLE.fullmatch, table) if match})
    found: Sprites = {style: {} for style in styles}
    for style, rows in found.items():
        drawings = Drawings(packages, style, size)
        for code in codes:
            name = NOUN_OF.get(code) or table.get(code) or table[f"{code}-fe0f"]
            pictures = drawings.of(code)
            if pictures:
                rows.setdefault(name.replace("-", " "), []).extend(pictures)
    counts = Counter(name for rows in found.values() for name in rows)
    return {
        style: {name: pictures for name, pictures in rows.items() if counts[name] > 1}
        for style, rows in found.items()
    }


def names_of(sprites: Sprites) -> list[str]:
    """Every name that some style has, sorted."""
    return sorted({name for rows in sprites.values() for name in rows})
