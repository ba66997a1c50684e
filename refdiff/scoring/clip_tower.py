"""A CLIP vision transformer, run on pictures of any size and with each mask seeing its patches.

Pictures are float [B, 3, h, w], normalised as the model wants them, h and w multiples of its
patches; features are unit-norm float32 [., D] on the CPU.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import HeatError, ModelError


class Tower:
    """The image tower of an open_clip model; it is run layer by layer and never changed.

    Raises ModelError for a tower without CLS token and patches, which masks could not act on.
    """

    def __init__(self, model: nn.Module) -> None:
        self._visual = _checked(model)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self._visual.conv1.weight.device

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the pictures it was trained on, in pixels."""
        return self._visual.image_size

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self._visual.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of the pictures it was trained on."""
        return self._visual.grid_size

    @property
    def layers(self) -> int:
        return len(self._visual.transformer.resblocks)

    @property
    def averages(self) -> bool:
        """Whether it pools by averaging its patches, and has no use for its class token."""
        return self._visual.pool_type == "avg"

    def plain(self, pictures: Tensor) -> Tensor:
        """The model's ordinary features of pictures [B, 3, h, w] -> [B, D]."""
        states = self._run(self._tokens(pictures))
        if self.averages:
            every = torch.ones(1, states.shape[1] - 1, dtype=torch.bool, device=states.device)
            return torch.cat([self._averaged(state[1:], every) for state in states])
        return self._finished(states[:, 0])

    def masked(self, picture: Tensor, inside: Tensor, from_layer: int = 0) -> Tensor:
        """Features of parts of one picture [1, 3, h, w], all in one pass: [N, D].

        inside: bool [N, P], the patches of each part; each has a CLS token of its own, which sees
        itself and these alone from from_layer on, and the whole picture before. A tower that
        averages its patches averages the part's instead, whatever from_layer.
        """
        tokens, inside = self._tokens(picture), inside.to(self.device)
        if self.averages:
            return self._averaged(self._run(tokens)[0, 1:], inside)
        asked = torch.cat([tokens, tokens[:, :1].expand(-1, len(inside), -1)], dim=1)
        early, late = (_bar(seen, asked.dtype) for seen in (torch.ones_like(inside), inside))
        states = self._run(asked, early, late, from_layer)
        return self._finished(states[0, tokens.shape[1] :])

    def _tokens(self, pictures: Tensor) -> Tensor:
        """CLS and patch tokens as they enter the first layer: [B, 1 + h * w, C]."""
        visual = self._visual
        patches = visual.conv1(pictures.to(self.device, visual.conv1.weight.dtype))
        positions = self._positions(patches.shape[2:], pictures.shape[2:]).to(patches.dtype)
        patches = patches.flatten(2).transpose(1, 2)
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        return visual.ln_pre(torch.cat([first, patches], dim=1) + positions)

    @property
    def _own_positions(self) -> Tensor:
        """The model's own position embeddings: [1 + P, C]."""
        return self._visual.positional_embedding

    def _positions(self, grid_size: torch.Size, picture_size: torch.Size) -> Tensor:
        """Position embeddings for a grid, bicubic where it is not the model's own."""
        own = self._own_positions
        if tuple(grid_size) == tuple(self.grid):
            return own
        grid = own[1:].float().unflatten(0, self.grid).permute(2, 0, 1)[None]
        grid = F.interpolate(grid, tuple(grid_size), mode="bicubic", antialias=True)
        return torch.cat([own[:1].float(), grid[0].flatten(1).T])

    def _run(
        self,
        tokens: Tensor,
        early: Tensor | None = None,
        late: Tensor | None = None,
        from_layer: int = 0,
    ) -> Tensor:
        """The tower's layers; `early` bars attention before from_layer, `late` from it on."""
        transformer = self._visual.transformer
        states = tokens if transformer.batch_first else tokens.transpose(0, 1)
        for layer, block in enumerate(transformer.resblocks):
            states = block(states, attn_mask=late if layer >= from_layer else early)
        return states if transformer.batch_first else states.transpose(0, 1)

    def _averaged(self, patches: Tensor, inside: Tensor) -> Tensor:
        """Features of a tower that averages: patches [P, C], inside [N, P] -> [N, D]."""
        visual = self._visual
        share = inside.to(patches.dtype) / inside.sum(1, keepdim=True)
        if visual.final_ln_after_pool:
            return self._projected(visual.ln_post(share @ patches))
        return self._projected(share @ visual.ln_post(patches))

    def _finished(self, states: Tensor) -> Tensor:
        """What class tokens say after the last layer: [N, C] -> unit-norm [N, D]."""
        return self._projected(self._visual.ln_post(states))

    def _projected(self, states: Tensor) -> Tensor:
        proj = self._visual.proj
        return unit(states if proj is None else states @ proj)


def unit(features: Tensor) -> Tensor:
    """Features brought to length 1, as float32 on the CPU; HeatError when they are not finite."""
    features = F.normalize(features.float(), dim=-1).cpu()
    if not torch.isfinite(features).all():
        raise HeatError(
            "CLIP's features hold values that are not finite; check its weights, or run it in "
            "float32 or bfloat16."
        )
    return features


def _checked(model: nn.Module) -> Any:
    """The model's image tower, if masks can act on it."""
    from open_clip.transformer import VisionTransformer

    tower = getattr(model, "visual", None)
    if not isinstance(tower, VisionTransformer):
        raise ModelError(
            f"The CLIP model's image tower is a {type(tower).__name__}, and masks can act on "
            "open_clip's own VisionTransformer and on SigLIP's; choose a model such as "
            "ViT-B-16/openai."
        )
    if tower.attn_pool is not None or tower.pool_type not in ("tok", "avg"):
        raise ModelError(
            "The CLIP model pools its patches by attention, which masks cannot act on; choose a "
            "model with a class token such as ViT-B-16/openai."
        )
    return tower


def _bar(inside: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention mask (0 or -inf) over the CLS token, P patches and N mask tokens."""
    count, patches = inside.shape
    barred = torch.ones(1 + patches + count, 1 + patches + count, dtype=torch.bool)
    barred[: 1 + patches, : 1 + patches] = False
    barred[1 + patches :, 1 : 1 + patches] = ~inside
    barred.fill_diagonal_(False)
    bar = torch.zeros(barred.shape, dtype=dtype).masked_fill(barred, -math.inf)
    return bar.to(inside.device)
