"""Regions of a picture from the features of its places: recursive normalised cut.

DiffCut (arXiv 2406.02842) cuts the features of the last self-attention of a UNet's encoder, which
need no word and half of a pass. It parts regions, not touching things of one kind.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from ..attention.maps import Grid

SHARPNESS = 10  # power of the affinity; DiffCut's alpha
MOST_COSTLY = 0.5  # normalised cut above which a region stays whole; DiffCut's tau
SMALLEST = 4  # places of a region that is cut no further


def regions(features: Tensor, grid: Grid, most_costly: float = MOST_COSTLY) -> Tensor:
    """Masks [N, h, w] bool that part the grid among them, largest first.

    features: [n, C], one for each of the grid's (height, width) places. most_costly: 0..1; the
    higher, the more regions. Raises ValueError when the features do not fill the grid.
    """
    if features.shape[0] != grid[0] * grid[1]:
        raise ValueError(f"{features.shape[0]} places do not fill a grid of {grid[0]}x{grid[1]}.")
    affinity = _affinity(features)
    found, waiting = [], [np.arange(len(affinity))]
    while waiting:
        places = waiting.pop()
        parts = _cut(affinity[np.ix_(places, places)], most_costly)
        if parts is None:
            found.append(places)
        else:
            waiting += [places[parts], places[~parts]]
    found.sort(key=len, reverse=True)
    masks = torch.zeros(len(found), grid[0] * grid[1], dtype=torch.bool)
    for mask, places in zip(masks, found, strict=True):
        mask[torch.from_numpy(places)] = True
    return masks.unflatten(1, grid)


def _affinity(features: Tensor) -> NDArray[np.float64]:
    """How alike every two places are, [n, n] in 0..1."""
    unit = normalize(features.double(), dim=1)
    near = unit @ unit.mT
    near = (near - near.min()) / (near.max() - near.min()).clamp(min=1e-12)
    return np.asarray(near.numpy() ** SHARPNESS, dtype=np.float64)


def _cut(affinity: NDArray[np.float64], most_costly: float) -> NDArray[np.bool_] | None:
    """The best cut of a region in two, or None where every cut costs more than is allowed.

    The second eigenvector of the normalised Laplacian (Shi and Malik 2000), cut at the level, of
    its own values, at which the normalised cut is smallest.
    """
    from scipy.sparse.linalg import eigsh

    count = len(affinity)
    if count < SMALLEST:
        return None
    degree = affinity.sum(1)
    scaled = affinity / np.sqrt(degree[:, None] * degree[None])
    if count < 32:
        vector = np.linalg.eigh(scaled)[1][:, -2]
    else:
        start = np.random.default_rng(0).standard_normal(count)
        values, vectors = eigsh(scaled, k=2, which="LA", v0=start)
        vector = vectors[:, np.argsort(values)[0]]
    vector = vector / np.sqrt(degree)
    costs = [(_cost(affinity, degree, vector > level), level) for level in _levels(vector)]
    cost, level = min(costs)
    return vector > level if cost < most_costly else None


def _levels(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.unique(np.quantile(vector, np.linspace(0.02, 0.98, 49)))


def _cost(
    affinity: NDArray[np.float64], degree: NDArray[np.float64], part: NDArray[np.bool_]
) -> float:
    """The normalised cut: what is cut, as a share of either side's links, summed: 0..2."""
    if not part.any() or part.all():
        return 2.0
    between = float(affinity[np.ix_(part, ~part)].sum())
    return between / float(degree[part].sum()) + between / float(degree[~part].sum())
