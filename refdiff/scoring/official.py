"""CLIP's two views of a mask as the authors' released code computes them.

Source: the code that the authors of arXiv 2308.16777 published (kodenii/Ref-Diff on GitHub);
docs/official.md tells how this was compared with it. Where it goes another way than the views of
`ClipScorer`, which read the paper's section 3.3:

- both: position embeddings are stretched without antialiasing, by (n + 0.1) / grid along an axis
  of n patches; what is left of the picture after the last whole patch is not seen;
- crop: on black, no margin, own aspect; colours are cut to whole levels of 8 bits; bilinear; the
  longer side is rounded down;
- masked: the picture is neither enlarged nor shrunk, so that the patches are as many as its size
  has room for; a patch belongs to a mask if its nearest pixel does; a mask too small for that
  sees itself alone; patches see one another but no class token, and masks act from the first
  layer on.

Their code has no limits; here a crop is at most `LONGEST_CROP` times as long as it is wide, and
a picture at most `LONGEST` patches, which a 1024-pixel picture fills with 16-pixel patches.
Pictures are float [3, H, W] in 0..1, masks bool [N, h, w] of the same frame at any size, features
unit-norm float32 [N, D] on the CPU.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .clip import ClipScorer, RegionFeatures
from .clip_tower import Tower
from .crops import CropStyle, bounding_box, cap_size, cut_out, resize

LONGEST = 64
"""Patches along a picture's longer side; larger pictures are shrunk to that."""
LONGEST_CROP = 16.0
"""Longer side of a crop in shorter ones; the box of a longer region is widened to that."""
ROUNDING = 1e-3
"""Share of a level of 8 bits below which a colour just under the level counts as reaching it."""

CROP = CropStyle("black", margin=0.0, square=False, longest=LONGEST_CROP)


class OfficialTower(Tower):
    """The tower of an open_clip model, run as the authors run theirs."""

    def parts(self, picture: Tensor, inside: Tensor) -> Tensor:
        """Features [N, D] of parts of one picture [1, 3, h, w], all in one pass.

        inside: bool [N, P], the patches of each part. Each part has a class token of its own,
        which sees itself and these; no patch sees a class token, and there is no other.
        """
        tokens = self._tokens(picture)
        count = len(inside)
        asked = torch.cat([tokens[:, :1].expand(-1, count, -1), tokens[:, 1:]], dim=1)
        bar = _bar(inside.to(self.device), asked.dtype)
        states = self._run(asked, late=bar)
        return self._finished(states[0, :count])

    def _positions(self, grid_size: torch.Size, picture_size: torch.Size) -> Tensor:
        """Position embeddings for a grid: the model's own for its grid on a square picture."""
        own, (height, width) = self._own_positions, self.grid
        if tuple(grid_size) == (height, width) and picture_size[0] == picture_size[1]:
            return own
        rows, columns = grid_size
        grid = own[1:].float().unflatten(0, (height, width)).permute(2, 0, 1)[None]
        scale = ((rows + 0.1) / height, (columns + 0.1) / width)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([own[:1].float(), grid[0].flatten(1).T])


def _bar(inside: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention mask (0 or -inf) over the parts' N class tokens and P patches."""
    count, patches = inside.shape
    barred = torch.zeros(count + patches, count + patches, dtype=torch.bool, device=inside.device)
    barred[:, :count] = True
    barred[:count, count:] = ~inside
    barred.fill_diagonal_(False)
    return torch.zeros_like(barred, dtype=dtype).masked_fill(barred, -math.inf)


@torch.inference_mode()
def official_features(
    clip: ClipScorer,
    crop: Tensor,
    masked: Tensor,
    masks: Tensor,
    tower: OfficialTower | None = None,
) -> RegionFeatures:
    """Both views of each mask. crop, masked: the picture for each, which the words may darken.

    tower: how to run a model that is not open_clip's.
    A tower that averages its patches has no class tokens to keep from them, and the authors' code
    no use for it: its masked view is `ClipScorer.masked_features`.
    """
    tower = tower or OfficialTower(clip.model)
    crops = torch.cat([_crop_feature(clip, tower, crop, mask) for mask in masks.cpu()])
    if tower.averages:
        return RegionFeatures(crops, clip.masked_features(masked, masks))
    picture = _whole_patches(masked, tower.patch_size)
    grid = [side // patch for side, patch in zip(picture.shape[1:], tower.patch_size, strict=True)]
    inside = F.interpolate(masks[:, None].float(), grid, mode="nearest").flatten(1).bool()
    return RegionFeatures(crops, tower.parts(_normalised(clip, picture), inside))


def _crop_feature(clip: ClipScorer, tower: OfficialTower, picture: Tensor, mask: Tensor) -> Tensor:
    """What the model says of a mask's bounding box on black, its shorter side its own size."""
    box = bounding_box(mask, picture.shape[1], picture.shape[2], CROP)
    black = torch.zeros(3, 1, 1)
    levels = (cut_out(picture, black.expand_as(picture), mask, box, black) * 255 + ROUNDING).byte()
    shorter = min(box[2:])
    height, width = (clip.size * side // shorter for side in box[2:])
    shown = Image.fromarray(levels.permute(1, 2, 0).numpy())
    shown = shown.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1).float() / 255
    return tower.plain(_normalised(clip, pixels))


def _normalised(clip: ClipScorer, picture: Tensor) -> Tensor:
    """A picture as the model wants its pixels, [1, 3, H, W]."""
    return ((picture - clip.mean) / clip.std)[None]


def _whole_patches(picture: Tensor, patch: tuple[int, int]) -> Tensor:
    """The picture at its own size, unless that is too large or below one patch."""
    picture = cap_size(picture, LONGEST * min(patch))
    height, width = picture.shape[1:]
    return resize(picture, (max(height, patch[0]), max(width, patch[1])))


def keep_to_largest(scores: Tensor, masks: Tensor, count: int) -> Tensor:
    """Scores [N] with those of all but the `count` largest masks below any other's.

    The authors multiply them by 0, so that such a mask wins where the others are negative.
    """
    areas = masks.flatten(1).sum(1)
    smaller = areas.argsort(descending=True, stable=True)[count:]
    return scores.index_fill(0, smaller, float(scores.min()) - 1)
