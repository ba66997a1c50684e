"""Heat and masks drawn to the edges of the picture: the colour guided filter.

He et al., TPAMI 2013; its coefficients are worked out on a coarser grid and applied to the finer
picture (He and Sun, arXiv 1505.00996).
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..attention.maps import min_max
from .resize import to_tensor, upsample, working_size

SIDE = 512
"""Long side in pixels at which the coefficients of an outline are worked out."""
BLUNT = 1e-3
"""Variance of colour below which a mask that may be far off sees no edge."""
FINE = 1 / 32
"""Reach of an outline that only needs polishing, in long sides."""
SHARP = 1e-4
"""Variance of colour below which such an outline sees no edge, colours being 0..1."""
STRIP = 1 << 20  # pixels of a large picture that are filtered at once


def follow_edges(heat: Tensor, pixels: Tensor, amount: float, reach: float) -> Tensor:
    """Heat [h, w] drawn towards the edges of the picture [3, h, w], again 0..1.

    amount: share of the filtered heat, 0..1; 0 leaves the heat as it is. reach: of the filter, in
    long sides.
    """
    if not amount:
        return heat
    filtered = guided_filter(heat, pixels, max(2, round(reach * max(heat.shape))), BLUNT)
    return min_max(torch.lerp(heat, filtered.clamp(0, 1), amount))


def guided_filter(
    source: Tensor, guide: Tensor, radius: int, epsilon: float = 1e-3, coarser: int = 2
) -> Tensor:
    """source [H, W] as a locally linear function of the colours of guide [3, H, W].

    radius: of the windows, in pixels. epsilon: variance of colour below which windows are averaged.
    coarser: how many times smaller the grid is on which the coefficients are worked out.
    """
    lines = _coefficients(source, guide, radius, epsilon, coarser)
    return _applied(lines, guide)


def outline(
    mask: Tensor,
    picture: Image.Image,
    reach: float = FINE,
    epsilon: float = SHARP,
    amount: float = 1.0,
) -> Tensor:
    """A mask bool [h, w] as bool [H, W] at the picture's own size, drawn to the picture's edges.

    The mask is filtered with the picture as guide and cut where Otsu's criterion parts inside from
    outside. The filter's coefficients are worked out at most SIDE pixels large and applied to the
    picture's own pixels, so that the outline is as fine as these. reach: of the filter, in long
    sides: how far the mask may be off. epsilon: variance of colour below which there is no edge.
    amount: share of the filtered mask, 0..1. A mask that would become empty is only enlarged.
    """
    size = (picture.height, picture.width)
    large = upsample(mask, size)
    if not amount or not bool(mask.any()):
        return large
    working = working_size(size, SIDE)
    source = interpolate(mask[None, None].float(), working, mode="bilinear", antialias=True)[0, 0]
    guide, radius = to_tensor(picture, working), max(2, round(reach * max(working)))
    lines = _coefficients(source, guide, radius, epsilon, 1 if radius < 16 else 2)
    level = _otsu_level(torch.lerp(source, _applied(lines, guide), amount))
    rows = max(1, STRIP // size[1])
    strips = []
    for top in range(0, size[0], rows):
        bottom = min(size[0], top + rows)
        pixels = to_tensor(picture.crop((0, top, size[1], bottom)), (bottom - top, size[1]))
        soft = _applied(_strip(lines, top, bottom, size), pixels)
        strips.append(torch.lerp(large[top:bottom].float(), soft, amount) >= level)
    drawn = torch.cat(strips)
    return drawn if bool(drawn.any()) else large


def _otsu_level(values: Tensor) -> float:
    """Where between 0.05 and 0.95 the values are best parted in two (Otsu, 1979)."""
    flat = values.flatten()
    levels = torch.arange(1, 20) / 20
    inside = flat[None] >= levels[:, None]
    count = inside.sum(1)
    total, everything = flat.sum(), flat.numel()
    hot = (inside * flat).sum(1)
    gap = hot / count.clamp(min=1) - (total - hot) / (everything - count).clamp(min=1)
    parted = count * (everything - count) * gap.square()
    return float(levels[int(parted.argmax())])


def _strip(lines: Tensor, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
    """Coefficients [4, h, w] for the rows top to bottom of a picture of `size`, bilinear."""
    height = lines.shape[1]
    y = ((torch.arange(top, bottom) + 0.5) * height / size[0] - 0.5).clamp(0, height - 1)
    above = y.long()
    below = (above + 1).clamp(max=height - 1)
    rows = torch.lerp(lines[:, above], lines[:, below], (y - above)[None, :, None])
    return interpolate(rows, size[1], mode="linear")


def _coefficients(
    source: Tensor, guide: Tensor, radius: int, epsilon: float, coarser: int
) -> Tensor:
    """Slope by colour and offset of every place of the coarser grid: [4, h, w]."""
    height, width = source.shape
    size = max(1, height // coarser), max(1, width // coarser)
    small = interpolate(torch.cat([guide, source[None]])[None], size, mode="area")[0]
    colours, level = small[:3], small[3:]
    pairs = (colours[:, None] * colours[None]).flatten(0, 1)
    radius = max(1, radius // coarser)
    means = _box_mean(torch.cat([small, colours * level, pairs]), radius)
    colour, mean, shared, square = means[:3], means[3], means[4:7], means[7:]
    covariance = square.unflatten(0, (3, 3)) - colour[:, None] * colour[None]
    covariance = covariance + epsilon * torch.eye(3)[:, :, None, None]
    slope = _solved(covariance, shared - colour * mean)
    offset = mean - (slope * colour).sum(0)
    return _box_mean(torch.cat([slope, offset[None]]), radius)


def _applied(lines: Tensor, guide: Tensor) -> Tensor:
    """The coefficients [4, h, w] applied to the colours [3, H, W]: [H, W]."""
    if lines.shape[1:] != guide.shape[1:]:
        lines = interpolate(lines[None], guide.shape[1:], mode="bilinear")[0]
    return (lines[:3] * guide).sum(0) + lines[3]


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """x of matrix x = right in every place: matrix [3, 3, h, w] symmetric, right [3, h, w]."""
    rows = [torch.linalg.cross(matrix[i - 2], matrix[i - 1], dim=0) for i in range(3)]
    adjugate = torch.stack(rows, 1)
    determinant = (matrix[0] * adjugate[:, 0]).sum(0)
    return torch.einsum("ijhw,jhw->ihw", adjugate, right) / determinant


def _box_mean(stack: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1) squared windows, cut off at the border; stack [C, H, W]."""
    side = 2 * radius + 1
    rows = avg_pool2d(stack[None], (side, 1), 1, (radius, 0), count_include_pad=False)
    return avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)[0]
