"""SigLIP's image tower: a vision transformer of timm that pools its patches by attention.

A mask acts where the patches are pooled: the asking latent sees the mask's patches alone. Pictures
are shown at the model's own size, as SigLIP was trained (arXiv 2303.15343), squeezed if need be.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .clip_tower import Tower, unit


class PooledTower:
    """Asked as a `Tower` is; pictures are [B, 3, h, w] of the model's own size alone."""

    def __init__(self, visual: Any) -> None:
        self._visual, self._trunk = visual, visual.trunk

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self._trunk.patch_embed.proj.weight.device

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of its pictures in pixels."""
        height, width = self._trunk.patch_embed.img_size
        return height, width

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        down, across = self._trunk.patch_embed.patch_size
        return down, across

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self._trunk.patch_embed.grid_size
        return rows, columns

    @property
    def layers(self) -> int:
        return len(self._trunk.blocks)

    def plain(self, pictures: Tensor) -> Tensor:
        """The model's ordinary features of pictures -> unit-norm [B, D]."""
        return self._pooled(self._patches(pictures))

    def masked(self, picture: Tensor, inside: Tensor, from_layer: int = 0) -> Tensor:
        """Features of parts of one picture [1, 3, h, w], each pooled of its own patches: [N, D].

        inside: bool [N, P], the patches of each part. from_layer: of no use here, for patches see
        the whole picture in every layer.
        """
        patches = self._patches(picture).expand(len(inside), -1, -1)
        bar = torch.zeros(inside.shape, dtype=patches.dtype).masked_fill(~inside.cpu(), -math.inf)
        return self._pooled(patches, bar[:, None, None].to(patches.device))

    def _patches(self, pictures: Tensor) -> Tensor:
        weight = self._trunk.patch_embed.proj.weight
        return self._trunk.forward_features(pictures.to(weight.device, weight.dtype))

    def _pooled(self, patches: Tensor, bar: Tensor | None = None) -> Tensor:
        trunk = self._trunk
        states = trunk.fc_norm(trunk.attn_pool(patches, attn_mask=bar))
        return unit(self._visual.head(trunk.head(states)))


def tower_of(model: nn.Module) -> Tower | PooledTower:
    """The image tower of an open_clip model; ModelError for one that masks could not act on."""
    visual: Any = getattr(model, "visual", None)
    trunk: Any = getattr(visual, "trunk", None)
    if getattr(trunk, "attn_pool", None) is not None and trunk.num_prefix_tokens == 0:
        return PooledTower(visual)
    return Tower(model)
