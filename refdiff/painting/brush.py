"""Where paint goes: a mask grown and feathered, and how much of it each latent cell may change.

Masks are bool [H, W], opacities float32 [H, W] in 0..1: exactly 1 where all is painted, exactly 0
where nothing may change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from ..masks.refine import filled, grown, softened

ENLARGED = 4  # times, at most: more would show a handful of pixels as a picture
SHARE = 0.06  # of a thing's size (the root of its area): how far it is grown, and feathered


@dataclass(frozen=True)
class Window:
    """A part of a picture, in its pixels: what is shown to the painter."""

    top: int
    left: int
    height: int
    width: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), as PIL takes it."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def cut(self, values: Tensor) -> Tensor:
        """This part of [..., H, W]."""
        rows = slice(self.top, self.top + self.height)
        return values[..., rows, self.left : self.left + self.width]


def opacity(mask: Tensor, grow: int | None = None, feather: int | None = None) -> Tensor:
    """The mask without holes, wider by `grow` pixels, falling to 0 over `feather` more.

    None takes `SHARE` of the thing's size. A mask without a pixel gives zeros.
    """
    size = int(mask.sum()) ** 0.5
    grow = round(SHARE * size) if grow is None else grow
    feather = round(SHARE * size) if feather is None else feather
    return softened(grown(filled(mask), grow), feather)


def kept(mask: Tensor, grow: int | None = None, feather: int | None = None) -> Tensor:
    """The opposite: paint everywhere but on the mask and `grow` pixels around it."""
    size = int(mask.sum()) ** 0.5
    grow = round(SHARE / 3 * size) if grow is None else grow
    feather = round(SHARE / 3 * size) if feather is None else feather
    wide = grown(filled(mask), grow + feather)
    return torch.where(filled(mask), 0.0, softened(~wide, feather + 1))


def window_around(alpha: Tensor, native: int, context: float = 2.0) -> Window:
    """What the painter is to see of the picture: the painted place with its surroundings.

    A square of `context` times the place's long side, moved into the picture; where that would be
    most of the picture, all of it. A small place is shown enlarged, so that the painter has cells
    enough for it, at most by `ENLARGED` of its `native` side.
    """
    height, width = alpha.shape
    rows, columns = alpha.any(1).nonzero(), alpha.any(0).nonzero()
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    side = max(round(native / ENLARGED), round(context * max(bottom - top, right - left)))
    tall, wide = min(side, height), min(side, width)
    if tall * wide > 0.7 * height * width:
        return Window(0, 0, height, width)
    first = min(max(0, (top + bottom - tall) // 2), height - tall)
    start = min(max(0, (left + right - wide) // 2), width - wide)
    return Window(first, start, tall, wide)


def on_cells(alpha: Tensor, cells: tuple[int, int]) -> Tensor:
    """How much each latent cell may change, [h, w]: as much as the most open of its pixels."""
    return adaptive_max_pool2d(alpha[None, None], cells)[0, 0]


def smoothly_filled(picture: Image.Image, alpha: Tensor) -> Image.Image:
    """The picture with the painted place filled from its surroundings, coarse to fine.

    Pixels are averaged into ever coarser grids, holes left out, and each hole takes the finest
    level that knows something (pull and push, Gortler et al. 1996).
    """
    colours = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float()
    known = (alpha == 0).float()[None]
    filled_in = _pushed(colours * known, known)
    mixed = torch.where(alpha > 0, filled_in, colours)
    array = mixed.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def _pushed(colours: Tensor, weight: Tensor) -> Tensor:
    """Colours [3, h, w], times weight [1, h, w]; places of no weight from coarser levels."""
    from torch.nn.functional import avg_pool2d, interpolate

    own = colours / weight.clamp(min=1e-6)
    height, width = weight.shape[1:]
    if height == 1 and width == 1:
        return own
    pooled = [
        avg_pool2d(each[None], 2, 2, 0, ceil_mode=True, count_include_pad=False)[0]
        for each in (colours, weight)
    ]
    coarse = _pushed(pooled[0], pooled[1])
    below = interpolate(coarse[None], (height, width), mode="bilinear", align_corners=False)[0]
    return torch.where(weight > 0, own, below)
