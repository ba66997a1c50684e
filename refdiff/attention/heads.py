"""How much each head and each layer has a say, as GoCA has it (arXiv 2603.06178).

A layer's answer is the sum of its heads' outputs. A head whose output points the way of the sum at
a place has said what the layer says there; its map counts more (5 mIoU on VOC with SDXL, half a
point with Stable Diffusion 1.5). A layer counts more whose self-attention links the places that are
alike to one layer that is named (8 mIoU with Stable Diffusion 1.5 where all layers are read, nearly
nothing with SDXL). Both as their code does it: github.com/Darkbblue/goca, `cross_attn_dispatch.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.parametrize import is_parametrized

from .propagate import Grid, SelfAttention

_CHUNK = 1 << 22  # most numbers of heads' outputs held at once


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
    products: Tensor,
    heads: int,
    columns: Sequence[int] | None = None,
) -> Tensor:
    """The maps [R, T, n] of a layer whose heads weigh by their say, float32.

    query: [R, n, heads * d]; key: [R, T, heads * d]; products: each head's with their sum,
    [R, heads, n]. columns: only these of the tokens, after the softmax.
    """
    kept = slice(None) if columns is None else list(columns)
    with torch.autocast(query.device.type, enabled=False):
        shown = [each[..., kept] for each in _probabilities(query, key, heads)]
        return weighted_maps(torch.stack(shown, 1), _together_one(products)).contiguous()


def _probabilities(query: Tensor, key: Tensor, heads: int) -> Iterator[Tensor]:
    """Of each head in turn, [R, n, T] float32."""
    query, key = (one.float().unflatten(2, (heads, -1)) for one in (query, key))
    for head in range(heads):
        logits = query[:, :, head] * query.shape[-1] ** -0.5 @ key[:, :, head].mT
        yield logits.softmax(-1)


def answer_by_heads(
    joined: Tensor, weight: Tensor, bias: Tensor | None, heads: int
) -> tuple[Tensor, Tensor]:
    """A layer's answer as the sum of its heads' outputs: [..., n, C], and `products`.

    joined: what the heads saw, side by side, [R, n, heads * d]. weight, bias: of the layer's
    output, [C, heads * d] and [C]. products: the dot product of each head's output with their sum,
    [R, heads, n] float32. All outputs together take as many operations as the layer's own product,
    in whose place this stands; a few places are taken at a time.
    """
    slices = weight.unflatten(1, (heads, -1)).transpose(0, 1).mT  # [heads, d, C]
    answers, products = [], []
    for part in joined.flatten(0, 1).split(max(1, _CHUNK // (heads * len(weight)))):
        outputs = part.unflatten(1, (heads, -1)).transpose(0, 1) @ slices
        total = outputs.sum(0, dtype=torch.float32)
        products.append(torch.linalg.vecdot(outputs.float(), total))
        answers.append(total.to(outputs.dtype))
    answer = torch.cat(answers).unflatten(0, joined.shape[:2])
    by_head = torch.cat(products, 1).unflatten(1, joined.shape[:2]).transpose(0, 1)
    return answer if bias is None else answer + bias.to(answer.dtype), by_head


def products_of(
    query: Tensor, key: Tensor, value: Tensor, projection: Tensor, heads: int
) -> Tensor:
    """The same products from what a layer's answer is made of, where its own can't be had.

    value: [R, T, heads * d]; projection: as in `head_outputs`. It costs one more product of all
    places with a matrix as wide as the layer.
    """
    values, weight = value.float().unflatten(2, (heads, -1)), projection.float()
    with torch.autocast(query.device.type, enabled=False):
        every = enumerate(_probabilities(query, key, heads))
        joined = torch.cat([each @ values[:, :, head] for head, each in every], -1)
        # head h adds joined[h] @ W_h.T; its product with the sum is joined[h] * (sum @ W)[h]
        answer = torch.linalg.multi_dot([joined.flatten(0, 1), weight.mT, weight])
        return (joined * answer.view_as(joined)).unflatten(2, (heads, -1)).sum(-1).mT


def projection_of(linear: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The weight [C, D] that a linear layer computes with, float32, as its own answers tell it.

    Its `weight` may lie on another device, be quantized or lack its LoRA while a library keeps the
    layer elsewhere; what it answers never does, so any layer but a plain one where the values are
    is asked. value: [..., D], of the dtype and device that the layer takes. Unit vectors that long
    keep the bias, which is taken off, from costing digits.
    """
    if is_plain(linear) and linear.weight.device == value.device and not _hooked(linear):
        return linear.weight.detach().float()
    width, length = value.shape[-1], 256.0
    units = torch.eye(width + 1, width, dtype=value.dtype, device=value.device) * length
    answers = linear(units[None])[0].float()
    return (answers[:-1] - answers[-1]).mT / length


def is_plain(linear: object) -> TypeGuard[nn.Linear]:
    """Whether a layer's own code computes with the `weight` that it shows, and nothing else."""
    if type(linear) is not nn.Linear:
        return False
    own = "forward" not in vars(linear) and not hasattr(linear, "_hf_hook")
    return own and not is_parametrized(linear) and linear.weight.is_floating_point()


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


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
