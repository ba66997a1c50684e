"""A word's heat as the authors' released code computes it (docs/official.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from .maps import Grid, TokenMaps, min_max


def official_heat(maps: TokenMaps, columns: Sequence[int], size: Grid) -> Tensor:
    """The heat of a word, [h, w] float32 in 0..1, at `size`: the picture's without padding.

    columns: the word's tokens, of which the last one speaks. Each layer is stretched to 0..1 on
    its own, padding included; their mean is cut to whole levels of 8 bits, enlarged to the padded
    square (Lanczos), cut to the picture and stretched again. Raises HeatError as `min_max` does.
    """
    if not maps.maps or not columns:
        raise ValueError(f"{len(maps.maps)} layers and {len(columns)} columns: both must be > 0.")
    finest = max((tuple(layer.shape[1:]) for layer in maps.maps), key=math.prod)
    layers = [min_max(interpolate(layer[None, columns[-1:]], finest)[0, 0]) for layer in maps.maps]
    levels = (torch.stack(layers).double().mean(0) * 255).byte().numpy()
    height, width = size
    padded = size if maps.content is None else (max(size), max(size))
    whole = Image.fromarray(levels).resize(padded[::-1], Image.Resampling.LANCZOS)
    top, left = (padded[0] - height) // 2, (padded[1] - width) // 2
    shown = np.array(whole)[top : top + height, left : left + width]
    return min_max(torch.from_numpy(shown).float() / 255)
