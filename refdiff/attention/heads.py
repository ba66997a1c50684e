"""How much each head and each layer has a say, as GoCA has it (arXiv 2603.06178).

A layer's answer is the sum of its heads' outputs. A head whose output points the way of the sum at
a place has said what the layer says there; its map counts more (5 mIoU on VOC with SDXL, half a
point with Stable Diffusion 1.5). A layer counts more whose self-attention links the places that are
alike to one layer that is named (8 mIoU with Stable Diffusion 1.5 where all layers are read, nearly
nothing with SDXL). Both as their code does it: github.com/Darkbblue/goca, `cross_attn_dispatch.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.parametrize import is_parametrized

from .propagate import Grid, SelfAttention


def head_outputs(probabilities: Tensor, value: Tensor, projection: Tensor) -> Tensor:
    """What each head adds to the layer's answer: [R, heads, n, C]; their sum is the answer.

    probabilities: [R, heads, n, T]. value: [R, T, heads * d]. projection: the weight [C, heads * d]
    of the layer's output; its bias, which belongs to no head, is left out.
    """
    heads = probabilities.shape[1]
    values = value.unflatten(2, (heads, -1)).transpose(1, 2)  # [R, heads, T, d]
    slices = projection.unflatten(1, (heads, -1)).transpose(0, 1)  # [heads, C, d]
    return probabilities @ values @ slices.mT


def head_weights(outputs: Tensor) -> Tensor:
    """The say of each head at each place: [R, heads, n], together 1.

    outputs: as `head_outputs` gives them. The dot product of each with their sum; a head that
    points the other way counts against (their configurations say "w/o clamp"). Where the sum is
    nothing, all have the same.
    """
    return _together_one((outputs * outputs.sum(1, keepdim=True)).sum(-1))


def _together_one(dots: Tensor) -> Tensor:
    """Heads' dot products [R, heads, n] over their sum, which is the square of the answer."""
    total = dots.sum(1, keepdim=True)
    even = torch.full_like(dots, 1 / dots.shape[1])
    return torch.where(total > 0, dots / total.clamp(min=torch.finfo(dots.dtype).tiny), even)


def weighted_maps(probabilities: Tensor, weights: Tensor) -> Tensor:
    """The heads' maps by their say: [R, T, n] from 0 up, from [R, heads, n, T], [R, heads, n]."""
    return (probabilities * weights[..., None]).sum(1).clamp(min=0).mT


def said_by_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    projection: Tensor,
    heads: int,
    columns: Sequence[int] | None = None,
) -> Tensor:
    """The maps [R, T, n] of a layer whose heads weigh by their say, float32.

    query: [R, n, heads * d]; key, value: [R, T, heads * d]; projection: as in `head_outputs`.
    columns: only these of the tokens, after the softmax.
    """
    query, key, value = (one.float().unflatten(2, (heads, -1)) for one in (query, key, value))
    weight = projection.float()
    kept = slice(None) if columns is None else list(columns)
    with torch.autocast(query.device.type, enabled=False):
        seen, shown = [], []
        for head in range(heads):
            logits = query[:, :, head] * query.shape[-1] ** -0.5 @ key[:, :, head].mT
            probabilities = logits.softmax(-1)
            seen.append(probabilities @ value[:, :, head])
            shown.append(probabilities[..., kept])
        # head h adds seen[h] @ W_h.T; its product with the sum is seen[h] * (sum @ W)[h]
        joined = torch.cat(seen, -1)
        answer = torch.linalg.multi_dot([joined.flatten(0, 1), weight.mT, weight])
        dots = (joined * answer.view_as(joined)).unflatten(2, (heads, -1)).sum(-1).mT
        return weighted_maps(torch.stack(shown, 1), _together_one(dots)).contiguous()


def projection_of(linear: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The weight [C, D] that a linear layer computes with, float32, as its own answers tell it.

    Its `weight` may lie on another device, be quantized or lack its LoRA while a library keeps the
    layer elsewhere; what it answers never does, so any layer but a plain one where the values are
    is asked. value: [..., D], of the dtype and device that the layer takes. Unit vectors that long
    keep the bias, which is taken off, from costing digits.
    """
    if _is_plain(linear, value.device):
        return linear.weight.detach().float()
    width, length = value.shape[-1], 256.0
    units = torch.eye(width + 1, width, dtype=value.dtype, device=value.device) * length
    answers = linear(units[None])[0].float()
    return (answers[:-1] - answers[-1]).mT / length


def _is_plain(linear: object, device: torch.device) -> TypeGuard[nn.Linear]:
    """Whether a layer computes with the `weight` that it shows, and nothing else."""
    if type(linear) is not nn.Linear or linear.weight.device != device:
        return False
    own = "forward" not in vars(linear) and not hasattr(linear, "_hf_hook")
    changed = linear._forward_hooks or linear._forward_pre_hooks or is_parametrized(linear)
    return own and not changed and linear.weight.is_floating_point()


def layer_weights(layers: Sequence[SelfAttention], query: Tensor, grid: Grid) -> Tensor:
    """The say of each layer: [L], above 0, together 1.

    layers: the self-attention just before each. query: [n, C], what the named layer asks the text
    from the places of `grid`; places that ask alike are alike. The sum of the products of both
    tables of links, the layer's brought to `grid`. A row of links sums to 1 at the layer's own
    grid, so a layer of half the places a side counts four times as much to begin with.
    """
    query = query.float()
    alike = (query @ query.mT * query.shape[1] ** -0.5).softmax(-1)
    said = torch.stack([_agreement(layer, alike, grid) for layer in layers])
    return said / said.sum()


def _agreement(layer: SelfAttention, alike: Tensor, grid: Grid) -> Tensor:
    """The sum of the products of a layer's links and of `alike` [n, n], which has `grid`.

    From where a link comes the nearest place is taken, where it goes is interpolated.
    """
    rows, columns = (
        torch.arange(side) * own // side for side, own in zip(grid, layer.grid, strict=True)
    )
    nearest = (rows[:, None] * layer.grid[1] + columns).flatten()
    wanted = torch.zeros(len(layer.query), alike.shape[1]).index_add_(0, nearest, alike)
    total = torch.zeros(())
    for part, links in layer.rows():
        sized = interpolate(links.unflatten(1, layer.grid)[:, None], grid, mode="bilinear")
        total = total + (sized.flatten(1) * wanted[part]).sum()
    return total
