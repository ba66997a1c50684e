"""The paper's positional bias P: a ramp that darkens the picture away from the side named."""

from __future__ import annotations

import torch
from torch import Tensor

from ..expression import Expression


def darkened(picture: Tensor, expression: Expression, bias: str) -> tuple[Tensor, Tensor]:
    """The picture [3, H, W] for CLIP's crop branch and for its masked branch.

    "paper": x * P in the masked branch, P falling from 1 to 0 along the axis, four directions.
    "official": the authors' code, on the crops, left and right only, wherever the letters occur.
    Otherwise both are the picture itself.
    """
    if bias == "paper" and expression.places:
        ramp = torch.ones(picture.shape[1:])
        for place in expression.places:
            ramp = ramp * _ramp(place.side, picture.shape[1], picture.shape[2])
        return picture, picture * ramp
    if bias == "official":
        side = next((side for side in ("left", "right") if side in expression.text), None)
        if side:
            return picture * _official_ramp(side, picture.shape[2]), picture
    return picture, picture


def _official_ramp(side: str, width: int) -> Tensor:
    """[width], 1 at the side, 0 from the last pixel of two thirds of the way on."""
    reach = width * 2 // 3
    fall = torch.zeros(width)
    fall[:reach] = torch.linspace(1, 0, reach)
    return fall if side == "left" else fall.flip(0)


def _ramp(side: str, height: int, width: int) -> Tensor:
    """[height, width], 1 at the side and falling linearly to 0 at the other."""
    vertical = side in ("top", "bottom")
    if side not in ("left", "right", "top", "bottom"):
        return torch.ones(height, width)
    length = height if vertical else width
    fall = 1 - torch.arange(length) / length
    fall = fall.flip(0) if side in ("right", "bottom") else fall
    return fall[:, None].expand(height, width) if vertical else fall[None].expand(height, width)
