"""What grows with what: numbers to draw and to print."""

from __future__ import annotations

from dataclasses import dataclass

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Curve:
    """An amount against a number. series: by name, (number, amount) from small to large."""

    title: str
    what: str
    series: dict[str, Points]
    unit: str = "seconds"
