"""Where a heat map shows several things, and the best cut of each.

The paper cuts the whole map at 19 thresholds and takes one cut. Two cats then come as one mask, or
as none, since one is hotter than the other. Here the map is first divided among its separate
peaks; the 19 cuts are taken of each peak by itself, and Otsu's criterion picks one per peak.

Frame: heat is [H, W] float32 in 0..1, zones and masks are bool [K, H, W].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from .proposals import checked_heat

GRID = 64  # longer side of the grid on which peaks are told apart
LEVELS = 40  # heights at which the map is looked at, from the top down
MOST = 12  # things that are kept, hottest first
EIGHT = np.ones((3, 3), int)


@dataclass(eq=False)
class _Peak:
    """One hill while the water falls: its height, its cells, whether it has met its equal."""

    height: float
    cells: NDArray[np.bool_]
    met: bool = False


def split_peaks(heat: Tensor, prominence: float = 0.25, floor: float = 0.3) -> Tensor:
    """The zone of each thing: disjoint bool [K, H, W], hottest thing first, K at least 1.

    prominence: how deep the valley between two peaks must be, as a share of the lower peak, for
    them to be two things. floor: peaks below this share of the highest are no things.
    Raises HeatError for a heat that is not finite. A constant heat is one zone.
    """
    heat = checked_heat(heat)
    if float(heat.max() - heat.min()) < 1e-6:
        return torch.ones(1, *heat.shape, dtype=torch.bool)
    small = _small(heat)
    peaks = [peak for peak in _peaks(small, prominence) if peak.height >= floor * small.max()]
    labels = _flooded(small, sorted(peaks, key=lambda peak: -peak.height)[:MOST])
    return torch.from_numpy(_enlarged(labels, (heat.shape[0], heat.shape[1])))


def join_neighbours(heat: Tensor, zones: Tensor) -> Tensor:
    """Each zone with the one it merges with first as the heat falls: bool [J, H, W], J < K.

    That is the zone over the highest pass: a head and a torso may be two hills of one thing.
    """
    small = _small(heat)
    scale = heat.shape[0] / small.shape[0], heat.shape[1] / small.shape[1]
    tops = [divmod(int(torch.where(zone, heat, -1.0).argmax()), heat.shape[1]) for zone in zones]
    cells = [(int(row / scale[0]), int(column / scale[1])) for row, column in tops]
    pairs = sorted({pair for pair in _first_merges(small, cells) if pair})
    joined = [zones[one] | zones[other] for one, other in pairs]
    return torch.stack(joined) if joined else zones[:0]


def _first_merges(
    heat: NDArray[np.float32], tops: list[tuple[int, int]]
) -> list[tuple[int, int] | None]:
    """For every peak, itself and the peak whose island it meets first, the hotter of several."""
    from scipy import ndimage

    found: list[tuple[int, int] | None] = [None] * len(tops)
    for level in np.linspace(float(heat.max()), float(heat.min()), LEVELS + 1)[1:]:
        labels, _ = ndimage.label(heat >= level, structure=EIGHT)
        islands = [int(labels[top]) for top in tops]
        for one, island in enumerate(islands):
            met = [other for other, its in enumerate(islands) if its == island and other != one]
            if found[one] is None and island and met:
                found[one] = (min(one, met[0]), max(one, met[0]))
        if None not in found:
            break
    return found


def otsu_cut(heat: Tensor, thresholds: int = 19) -> Tensor:
    """The whole map cut where most of its variance is explained, parts and all: bool [1, H, W]."""
    everything = torch.ones_like(heat, dtype=torch.bool)
    return _best_cut(heat, everything, ~everything, float(heat.max()), thresholds)[None]


def cut_zones(heat: Tensor, zones: Tensor, thresholds: int = 19, least_area: float = 0.0) -> Tensor:
    """One mask for each zone: of its cuts, the one that explains most of the heat's variance.

    The cuts are at mu = 5 % ... 95 % of the way up to the zone's own peak. What counts as outside
    is the map without the hot parts of the other zones. Masks smaller than least_area (share of
    the picture) are left out unless none would remain. Returns bool [K', H, W].
    """
    peaks = torch.stack([heat[zone].max() for zone in zones])
    hot = zones & (heat[None] >= 0.5 * peaks[:, None, None])
    masks = []
    for index, zone in enumerate(zones):
        others = hot[torch.arange(len(zones)) != index].any(0) & ~zone
        cut = _best_cut(heat, zone, others, float(peaks[index]), thresholds)
        masks.append(_holding_peak(cut, heat))
    found = torch.stack(masks)
    shares = found.flatten(1).float().mean(1)
    kept = shares >= least_area
    return found[kept] if bool(kept.any()) else found[shares.argmax()][None]


def _best_cut(heat: Tensor, zone: Tensor, others: Tensor, peak: float, thresholds: int) -> Tensor:
    shares = torch.arange(1, thresholds + 1) / (thresholds + 1)
    low = float(heat.min())
    levels = low + shares * (peak - low)
    values, seen = heat[zone], heat[~others]
    inside = values[None] >= levels[:, None]
    count = inside.sum(1).clamp(min=1)
    mean_in = (inside * values).sum(1) / count
    total, everything = seen.sum(), seen.numel()
    mean_out = (total - mean_in * count) / (everything - count).clamp(min=1)
    share = count / everything
    best = int((share * (1 - share) * (mean_in - mean_out) ** 2).argmax())
    return zone & (heat >= levels[best])


def _holding_peak(mask: Tensor, heat: Tensor) -> Tensor:
    """The connected part of the mask that holds most heat."""
    from scipy import ndimage

    labels, count = ndimage.label(mask.numpy(), structure=EIGHT)
    if count <= 1:
        return mask
    sums = ndimage.sum_labels(heat.numpy(), labels, range(1, count + 1))
    return torch.from_numpy(labels == int(np.argmax(sums)) + 1)


def _small(heat: Tensor) -> NDArray[np.float32]:
    scale = min(1.0, GRID / max(heat.shape))
    size = (max(1, round(heat.shape[0] * scale)), max(1, round(heat.shape[1] * scale)))
    if size == tuple(heat.shape):
        return heat.numpy()
    return interpolate(heat[None, None], size, mode="area")[0, 0].numpy()


def _peaks(heat: NDArray[np.float32], prominence: float) -> list[_Peak]:
    """Hills that stand out, found by letting the water fall from the top."""
    from scipy import ndimage

    peaks: list[_Peak] = []
    for level in np.linspace(float(heat.max()), float(heat.min()), LEVELS + 1)[:-1]:
        labels, count = ndimage.label(heat >= level, structure=EIGHT)
        for number in range(1, count + 1):
            island = labels == number
            inside = [peak for peak in peaks if (peak.cells & island).any()]
            if not inside:
                peaks.append(_Peak(float(heat[island].max()), island))
                continue
            strong = [p for p in inside if p.met or p.height - level >= prominence * p.height]
            if len(strong) > 1:
                for peak in strong:
                    peak.met = True
            weak = strong if len(strong) > 1 else [max(inside, key=lambda peak: peak.height)]
            peaks = [peak for peak in peaks if peak not in inside or peak in weak]
            if len(weak) == 1:
                weak[0].cells = island
    return peaks


def _flooded(heat: NDArray[np.float32], peaks: list[_Peak]) -> NDArray[np.int16]:
    """Every cell's peak, 0-based: the hills grown downhill until they meet."""
    from scipy import ndimage

    markers = np.zeros(heat.shape, np.int16)
    for number, peak in enumerate(peaks, 1):
        markers[peak.cells & (markers == 0)] = number
    depth = ((heat.max() - heat) / np.ptp(heat) * 255).astype(np.uint8)
    return ndimage.watershed_ift(depth, markers, structure=EIGHT) - 1


def _enlarged(labels: NDArray[np.int16], size: tuple[int, int]) -> NDArray[np.bool_]:
    """One zone per label at full size, each pixel in the zone of the cell it lies in."""
    rows = np.arange(size[0]) * labels.shape[0] // size[0]
    columns = np.arange(size[1]) * labels.shape[1] // size[1]
    large = labels[rows][:, columns]
    return np.stack([large == number for number in range(int(labels.max()) + 1)])
