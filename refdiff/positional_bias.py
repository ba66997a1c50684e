"""The paper's positional bias P: a ramp that darkens the picture away from the side named."""

from __future__ import annotations

import torch
from torch import Tensor

from .expression import Expression

REACH = 2 / 3
"""The authors' ramp falls from 1 to 0 over this share of the width, then stays 0."""


def darkened(picture: Tensor, expression: Expression, bias: str) -> tuple[Tensor, Tensor]:
    """The picture [3, H, W] for CLIP's crop branch and for its masked branch.

    "paper": x * P in the masked branch, P falling from 1 to 0 along the axis, four directions.
    "official": the authors' code, on the crops, left and right only, wherever the letters occur.
    Otherwise both are the picture itself.
    """
    if bias == "paper" and expression.places:
        ramp = torch.ones(picture.shape[1:])
        for place in expression.places:
            ramp = ramp * _ramp(place.side, picture.shape[1], picture.shape[2], 1.0)
        return picture, picture * ramp
    if bias == "official":
        side = next((side for side in ("left", "right") if side in expression.text), None)
        if side:
            return picture * _ramp(side, picture.shape[1], picture.shape[2], REACH), picture
    return picture, picture


def _ramp(side: str, height: int, width: int, reach: float) -> Tensor:
    """[height, width], 1 at the side and falling linearly to 0 at `reach` of the way across."""
    vertical = side in ("top", "bottom")
    if side not in ("left", "right", "top", "bottom"):
        return torch.ones(height, width)
    length = height if vertical else width
    fall = (1 - torch.arange(length) / (reach * length)).clamp(min=0)
    fall = fall.flip(0) if side in ("right", "bottom") else fall
    return fall[:, None].expand(height, width) if vertical else fall[None].expand(height, width)
