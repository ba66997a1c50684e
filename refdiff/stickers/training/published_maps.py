"""One pass of a UNet, and the maps of some of its layers made in each published way.

Only for measuring: layers that nobody would read together are read together here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...attention.capture import EncodedPicture
from ...attention.compete import shares
from ...attention.diffusers import DiffusersCapture
from ...attention.heads import head_outputs, head_weights, layer_weights, weighted_maps
from ...attention.maps import Grid, TokenMaps
from ...attention.propagate import SelfAttention, propagate, propagate_sharpened
from ...expression import Expression
from ...families import BACKGROUND

REFERENCE = "up_blocks.1.attentions.1.transformer_blocks.0.attn2"
"""Which layer says what is alike: at 1/16 on the way up, as GoCA's in Stable Diffusion 1."""
OPTIONS = ("plain", "words compete", "order 2", "sharpened", "heads", "layers", "all but sharpened")
Groups = dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Layer:
    """What one cross-attention made of the text: maps [T, h, w] plain and by its heads' say.

    say: its part among all layers, by what the self-attention before it links.
    """

    plain: Tensor
    weighed: Tensor
    say: float


@dataclass(eq=False)
class Pass:
    """What one pass showed: queries, keys and values of its attentions, by name."""

    query: dict[str, Tensor] = field(default_factory=dict)
    key: dict[str, Tensor] = field(default_factory=dict)
    value: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def maps_of(
    capture: DiffusersCapture, latent: EncodedPicture, expression: Expression, groups: Groups
) -> dict[tuple[str, str], TokenMaps]:
    """Each group's maps of the text's tokens in each way, by (group, option), at one grid."""
    text = expression.text
    with watched(capture.backend.pipe.unet) as seen:
        (read,) = capture.read(latent, [text])
    plain = _layers(capture, seen, read)
    around = _self_attention(capture, seen, read)
    with watched(capture.backend.pipe.unet) as seen:
        (longer,) = capture.read(latent, [text + BACKGROUND])
    rivals = _layers(capture, seen, longer)
    found = {}
    for name, names in groups.items():
        even = [1 / len(names)] * len(names)
        say = _say([plain[one] for one in names])
        raw = _mean([plain[one].plain for one in names], even, around[0].grid)
        found[name, "plain"] = raw
        found[name, "words compete"] = _compete(
            _mean([rivals[one].plain for one in names], even, around[0].grid), longer, expression
        )
        found[name, "heads"] = _mean([plain[one].weighed for one in names], even, around[0].grid)
        found[name, "layers"] = _mean([plain[one].plain for one in names], say, around[0].grid)
        every = _mean(
            [rivals[one].weighed for one in names],
            _say([rivals[one] for one in names]),
            around[0].grid,
        )
        found[name, "all but sharpened"] = _compete(every, longer, expression)
        found[name, "order 2"] = found[name, "sharpened"] = raw
    for option, spread in (
        ("order 2", propagate),
        ("sharpened", propagate_sharpened),
        ("all but sharpened", propagate),
    ):
        stack = torch.cat([found[name, option] for name in groups])
        parts = spread(stack, around).split(len(read.tokens))
        found |= {(name, option): part for name, part in zip(groups, parts, strict=True)}
    return {
        key: replace(read, maps=(maps,), layers=("group",), strides=(8,))
        for key, maps in found.items()
    }


def _layers(capture: DiffusersCapture, seen: Pass, read: TokenMaps) -> dict[str, Layer]:
    """The cross-attentions, their columns being those of the text's tokens."""
    columns = slice(1, 1 + len(read.tokens))  # behind the begin token
    grids: dict[str, Grid] = {
        name: (maps.shape[1], maps.shape[2])
        for name, maps in zip(read.layers, read.maps, strict=True)
    }
    before = [_places(capture, seen, name.replace("attn2", "attn1"), grids[name]) for name in grids]
    says = layer_weights(before, seen.query[REFERENCE][0], grids[REFERENCE])
    found = {}
    for name, maps, say in zip(read.layers, read.maps, says.tolist(), strict=True):
        attention = capture.backend.pipe.unet.get_submodule(name)
        query, key = (
            x.unflatten(2, (attention.heads, -1)).transpose(1, 2)
            for x in (seen.query[name], seen.key[name])
        )
        rows = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
        outputs = head_outputs(rows, seen.value[name], attention.to_out[0].weight)
        weighed = weighted_maps(rows, head_weights(outputs))[0, columns]
        found[name] = Layer(maps, weighed.unflatten(1, grids[name]), say)
    return found


def _self_attention(capture: DiffusersCapture, seen: Pass, read: TokenMaps) -> list[SelfAttention]:
    """The self-attentions of the finest grid."""
    finest = max((m.shape[1] * m.shape[2], (m.shape[1], m.shape[2])) for m in read.maps)[1]
    return [
        _places(capture, seen, name, finest)
        for name, query in seen.query.items()
        if name.endswith("attn1") and query.shape[1] == finest[0] * finest[1]
    ]


def _places(capture: DiffusersCapture, seen: Pass, name: str, grid: Grid) -> SelfAttention:
    heads = capture.backend.pipe.unet.get_submodule(name).heads
    return SelfAttention(seen.query[name][0], seen.key[name][0], heads, grid)


def _say(layers: Sequence[Layer]) -> list[float]:
    """The layers' parts, together 1."""
    total = sum(layer.say for layer in layers)
    return [layer.say / total for layer in layers]


def _mean(maps: Sequence[Tensor], weights: Sequence[float], grid: Grid) -> Tensor:
    """[T, *grid]: the weighted mean of maps of several grids."""
    sized = [interpolate(one[None], grid, mode="bilinear", align_corners=False)[0] for one in maps]
    return torch.stack([one * weight for one, weight in zip(sized, weights, strict=True)]).sum(0)


def _compete(maps: Tensor, read: TokenMaps, expression: Expression) -> Tensor:
    """Each noun's columns hold its share among the nouns and the background's words.

    maps: [T, h, w] of the text with the background behind it; those of the text come back.
    """
    length, end = len(expression.text), len(read.text)
    behind = list(read.columns(length, end))
    nouns = (expression.root, *expression.also, *expression.others)
    found = [list(read.columns(noun.word.start, noun.word.end)) for noun in nouns if noun.word.text]
    named = [group for i, group in enumerate(found) if group not in found[:i]]
    used = {column for group in named for column in group} | set(behind)
    sink = [column for column in range(len(read.tokens)) if column not in used]
    out = maps[: len(read.tokens) - len(behind)].clone()
    for group, share in zip(named, shares(maps, [*named, behind], sink), strict=False):
        out[group] = share
    return out


@contextmanager
def watched(unet: Any) -> Iterator[Pass]:
    """Keeps what every attention of the UNet asks, answers and hands on."""
    seen, handles = Pass(), []
    for name, module in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            handles += _watch(name, module, seen)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, attention: Any, seen: Pass) -> list[Any]:
    def ask(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.query[name] = output.detach().float()

    def answer(_module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.key[name] = output.detach().float()
        if name.endswith("attn2"):  # before the pass may end here
            seen.value[name] = attention.to_v(inputs[0]).detach().float()

    return [
        attention.to_q.register_forward_hook(ask),
        attention.to_k.register_forward_hook(answer),
    ]
