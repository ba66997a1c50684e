"""Growth drawn as one picture: a panel per curve, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .curve import Curve, Points

WIDTH, HEIGHT, MARGIN = 560, 380, 64
PAPER, INK, PALE = (255, 255, 255), (30, 30, 40), (222, 222, 228)
COLOURS = ((63, 16, 110), (219, 92, 47), (20, 120, 110))
LETTERS = 15


def draw(curves: Sequence[Curve], caption: str) -> Image.Image:
    """The curves in two columns of panels under a caption, an RGB picture."""
    rows = math.ceil(len(curves) / 2)
    canvas = Image.new("RGB", (2 * WIDTH, rows * HEIGHT + 2 * LETTERS), PAPER)
    ImageDraw.Draw(canvas).text((12, 8), caption, INK, ImageFont.load_default(LETTERS))
    for index, curve in enumerate(curves):
        place = index % 2 * WIDTH, index // 2 * HEIGHT + 2 * LETTERS
        canvas.paste(_panel(curve), place)
    return canvas


class _Axes:
    """Numbers to pixels of one panel."""

    def __init__(self, points: Points) -> None:
        across, up = zip(*points, strict=True)
        self.across = math.log(min(across)), math.log(max(across))
        self.up = math.log(max(min(up), 1e-6)), math.log(max(max(up), 1e-6))

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        inner = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
        right = _share(math.log(x), self.across) * inner[0]
        up = _share(math.log(max(y, 1e-6)), self.up) * inner[1]
        return MARGIN + right, HEIGHT - MARGIN - up


def _share(value: float, ends: tuple[float, float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.5


def _panel(curve: Curve) -> Image.Image:
    panel = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(LETTERS)
    every = [point for points in curve.series.values() for point in points]
    axes = _Axes(every)
    pen.text((MARGIN, 16), f"{curve.title}: {curve.unit}", INK, font)
    for x in sorted({x for x, _ in every}):
        left = axes(x, every[0][1])[0]
        pen.line((left, MARGIN, left, HEIGHT - MARGIN), PALE)
        pen.text((left, HEIGHT - MARGIN + 8), str(x), INK, font, anchor="mt")
    pen.text((WIDTH / 2, HEIGHT - LETTERS), curve.what, INK, font, anchor="mm")
    for row, ((name, points), colour) in enumerate(
        zip(curve.series.items(), COLOURS, strict=False)
    ):
        spots = [axes(*point) for point in points]
        pen.line([number for spot in spots for number in spot], colour, 3)
        for spot, (_, y) in zip(spots, points, strict=True):
            pen.ellipse((spot[0] - 5, spot[1] - 5, spot[0] + 5, spot[1] + 5), colour)
            pen.text((spot[0], spot[1] - 8), f"{y:.3g}", colour, font, anchor="mb")
        pen.text((MARGIN + 8, MARGIN + row * 1.3 * LETTERS), name, colour, font)
    return panel
