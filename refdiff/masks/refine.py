"""What is done to a finished mask before it is painted with: grown, filled, softened.

Masks are bool [H, W] on the CPU, distances are in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def grown(mask: Tensor, pixels: int) -> Tensor:
    """The mask wider by that many pixels on every side, or narrower where they are negative."""
    if pixels == 0 or not bool(mask.any()):
        return mask
    if pixels < 0:
        return ~grown(~mask, -pixels)
    return _distance(mask) <= pixels


def filled(mask: Tensor) -> Tensor:
    """The mask without holes."""
    from scipy import ndimage

    return torch.from_numpy(ndimage.binary_fill_holes(mask.numpy()))


def softened(mask: Tensor, falloff: int, heat: Tensor | None = None) -> Tensor:
    """float32 [H, W]: exactly 1.0 in the mask, falling to exactly 0.0 at `falloff` pixels from it.

    heat: [H, W] in 0..1, the fall then follows it too: where it is colder than the mask's own
    mean, less is left.
    """
    core = mask.float()
    if falloff <= 0 or not bool(mask.any()):
        return core
    fall = (1 - _distance(mask) / falloff).clamp(0, 1)
    if heat is not None:
        fall = fall * (heat / heat[mask].mean().clamp(min=1e-6)).clamp(0, 1)
    return torch.where(mask, core, fall)


def _distance(mask: Tensor) -> Tensor:
    """How far each pixel is from the mask, 0 inside: float32 [H, W]."""
    from scipy import ndimage

    return torch.from_numpy(ndimage.distance_transform_edt(~mask.numpy()).astype(np.float32))
