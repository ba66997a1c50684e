"""How a sticker or a picture may look: tints, hand-made style changes and backgrounds.

Every function takes and returns arrays: a sticker is [h, w, 4] float32 in [0, 1], a picture
[H, W, 3] float32 in [0, 1]. `rng` is a `numpy.random.Generator`; the same one gives the same look.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[Any]

COLOURS = {
    "red": (0.90, 0.16, 0.16),
    "green": (0.18, 0.70, 0.26),
    "blue": (0.18, 0.36, 0.92),
    "yellow": (0.98, 0.84, 0.14),
    "purple": (0.60, 0.22, 0.78),
    "white": (1.00, 1.00, 1.00),
    "black": (0.15, 0.15, 0.17),
}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def tint(sticker: Array, colour: str, rng: np.random.Generator | None = None) -> Array:
    """The sticker in a named colour: luminance stretched to 0.35-1.1, times it, 85 % over itself.

    With `rng` the colour itself varies a little, as paints do.
    """
    paint = np.array(COLOURS[colour], np.float32)
    if rng is not None:
        paint = np.clip(paint * rng.uniform(0.88, 1.1, 3) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    luma = sticker[..., :3] @ LUMA
    inside = luma[sticker[..., 3] > 0.5]
    low, high = np.percentile(inside, [2, 98]) if inside.size else (0.0, 1.0)
    shade = 0.35 + 0.75 * np.clip((luma - low) / max(high - low, 0.05), 0, 1)
    painted = np.clip(shade[..., None] * paint, 0, 1)
    rgb = 0.85 * painted + 0.15 * sticker[..., :3]
    return np.concatenate([rgb, sticker[..., 3:]], -1).astype(np.float32)


def grey(rgb: Array, rng: np.random.Generator) -> Array:
    return np.repeat((rgb @ LUMA)[..., None], 3, -1)


def hue(rgb: Array, rng: np.random.Generator) -> Array:
    """Rotates the colours about the grey axis."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin, third = np.cos(angle), np.sin(angle), 1 / 3
    a, b = cos + (1 - cos) * third, (1 - cos) * third
    c = np.sqrt(third) * sin
    turn = np.array([[a, b - c, b + c], [b + c, a, b - c], [b - c, b + c, a]], np.float32)
    return rgb @ turn.T


def posterise(rgb: Array, rng: np.random.Generator) -> Array:
    levels = rng.integers(2, 6)
    return np.round(rgb * levels) / levels


def drawn(rgb: Array, rng: np.random.Generator) -> Array:
    """Dark lines where the colour changes, on a paler fill."""
    edges = _edges(rgb)
    strength = rng.uniform(2, 6)
    paper = rgb * (fill := rng.uniform(0, 1)) + (1 - fill) * rng.uniform(0.6, 1.0)
    return paper * np.clip(1 - strength * edges, 0, 1)[..., None]


def flat(rgb: Array, rng: np.random.Generator) -> Array:
    """Everything pulled towards one colour: close to a silhouette."""
    keep = rng.uniform(0.15, 0.6)
    return rgb * keep + (1 - keep) * rng.uniform(0, 1, 3).astype(np.float32)


def lit(rgb: Array, rng: np.random.Generator) -> Array:
    """A light from one side, as on a rendered object."""
    height, width = rgb.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * x + np.sin(angle) * y
    return rgb * (1 + rng.uniform(0.1, 0.4) * ramp)[..., None]


def textured(rgb: Array, rng: np.random.Generator) -> Array:
    height, width = rgb.shape[:2]
    grain = _smooth_noise(rng, height, width, int(rng.integers(3, 24)))
    return rgb * (1 + rng.uniform(0.2, 0.6) * (grain - 0.5))[..., None]


def toned(rgb: Array, rng: np.random.Generator) -> Array:
    """Another gamma, contrast and colour balance."""
    out = np.clip(rgb, 0, 1) ** rng.uniform(0.6, 1.7)
    out = (out - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.12, 0.12)
    return out * rng.uniform(0.85, 1.15, 3).astype(np.float32)


def blurred(rgb: Array, rng: np.random.Generator) -> Array:
    return _filtered(rgb, ImageFilter.GaussianBlur(rng.uniform(0.4, 1.8)))


def sharpened(rgb: Array, rng: np.random.Generator) -> Array:
    return _filtered(rgb, ImageFilter.UnsharpMask(2, int(rng.integers(80, 250)), 0))


def merged(rgb: Array, rng: np.random.Generator) -> Array:
    """Small details swallowed by a mode filter, as in simpler drawings."""
    return _filtered(rgb, ImageFilter.ModeFilter(int(rng.choice([3, 5, 7]))))


def noisy(rgb: Array, rng: np.random.Generator) -> Array:
    return rgb + rng.normal(0, rng.uniform(0.02, 0.1), rgb.shape).astype(np.float32)


STYLE_CHANGES = (
    hue,
    hue,
    grey,
    posterise,
    drawn,
    flat,
    lit,
    lit,
    textured,
    toned,
    toned,
    blurred,
    sharpened,
    merged,
)
COLOUR_SAFE_CHANGES = (lit, lit, textured, blurred, sharpened, noisy)


def restyle(sticker: Array, rng: np.random.Generator, most: int = 3) -> Array:
    """The sticker after up to `most` random style changes and, at times, an outline."""
    rgb, alpha = sticker[..., :3], sticker[..., 3:]
    for index in rng.integers(0, len(STYLE_CHANGES), rng.integers(0, most + 1)):
        rgb = np.clip(STYLE_CHANGES[index](rgb, rng), 0, 1)
    return np.concatenate([rgb, alpha], -1).astype(np.float32)


def outline(sticker: Array, rng: np.random.Generator) -> Array:
    """A line of one colour around the sticker, two to eight pixels wide."""
    width = int(rng.integers(1, 4))
    alpha = Image.fromarray((sticker[..., 3] * 255).astype(np.uint8))
    wide = (
        np.asarray(alpha.filter(ImageFilter.MaxFilter(2 * width + 1)), np.float32)[..., None] / 255
    )
    line = float(rng.choice([0.05, 0.1, 0.95, 1.0]))
    own = sticker[..., 3:]
    rgb = sticker[..., :3] * own + line * (1 - own)
    return np.concatenate([rgb, wide], -1).astype(np.float32)


def background(rng: np.random.Generator, size: int) -> Array:
    """A plain, graded, striped, shaped, horizon or cloudy ground, at times noisy."""
    base = BACKGROUNDS[rng.integers(len(BACKGROUNDS))](rng, size)
    if rng.random() < 0.35:
        base = textured(base, rng)
    if rng.random() < 0.2:
        base = noisy(base, rng)
    return np.clip(base, 0, 1).astype(np.float32)


def _colour(rng: np.random.Generator) -> Array:
    pale = rng.random() < 0.5
    return rng.uniform(0.6 if pale else 0.0, 1.0, 3).astype(np.float32)


def _plain(rng: np.random.Generator, size: int) -> Array:
    return np.broadcast_to(_colour(rng), (size, size, 3)).astype(np.float32)


def _graded(rng: np.random.Generator, size: int) -> Array:
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    ramp = ((ramp - ramp.min()) / np.ptp(ramp))[..., None]
    return (ramp * _colour(rng) + (1 - ramp) * _colour(rng)).astype(np.float32)


def _striped(rng: np.random.Generator, size: int) -> Array:
    y, x = np.mgrid[0:size, 0:size]
    angle, period = rng.uniform(0, np.pi), rng.uniform(10, 80)
    wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
    if rng.random() < 0.3:
        wave = wave * np.sin(2 * np.pi * (np.cos(angle) * y - np.sin(angle) * x) / period)
    share = (wave > 0)[..., None] if rng.random() < 0.7 else wave[..., None] / 2 + 0.5
    return (
        np.where(share, _colour(rng), _colour(rng))
        if share.dtype == bool
        else (share * _colour(rng) + (1 - share) * _colour(rng))
    )


def _shaped(rng: np.random.Generator, size: int) -> Array:
    picture = Image.fromarray((_graded(rng, size) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 14)):
        x, y, w, h = rng.uniform(-20, size), rng.uniform(-20, size), *rng.uniform(8, 130, 2)
        ink = tuple(int(c * 255) for c in _colour(rng))
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse((x, y, x + w, y + h), fill=ink)
        elif kind == 1:
            draw.rectangle((x, y, x + w, y + h), fill=ink)
        elif kind == 2:
            draw.polygon([(x + w * u, y + h * v) for u, v in rng.random((4, 2))], fill=ink)
        else:
            draw.line((x, y, x + w, y + h), fill=ink, width=int(rng.integers(1, 9)))
    return np.asarray(picture, np.float32) / 255


def _horizon(rng: np.random.Generator, size: int) -> Array:
    line = int(size * rng.uniform(0.3, 0.75))
    out = _graded(rng, size)
    out[line:] = _graded(rng, size)[line:]
    return out


def _cloudy(rng: np.random.Generator, size: int) -> Array:
    share = _smooth_noise(rng, size, size, int(rng.integers(3, 40)))[..., None]
    return share * _colour(rng) + (1 - share) * _colour(rng)


BACKGROUNDS = (_plain, _plain, _graded, _graded, _striped, _shaped, _shaped, _horizon, _cloudy)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Array:
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _edges(rgb: Array) -> Array:
    luma = rgb @ LUMA
    down = np.abs(np.diff(luma, axis=0, append=luma[-1:]))
    across = np.abs(np.diff(luma, axis=1, append=luma[:, -1:]))
    return np.maximum(down, across)


def _filtered(rgb: Array, kind: ImageFilter.Filter) -> Array:
    picture = Image.fromarray((np.clip(rgb, 0, 1) * 255).astype(np.uint8))
    return np.asarray(picture.filter(kind), np.float32) / 255
