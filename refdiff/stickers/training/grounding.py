"""The losses that teach the UNet where its words are: on attention, and on every cell's noun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .looks import COLOURS
from .loop import Losses
from .scenes import Thing
from .sentences import Sentence

LATENT = 32
GROUNDED_BELOW = 800
"""Timesteps above this see too little of the picture to be asked where a word is."""
LAYER_WEIGHTS = {
    "down_blocks.1": 0.5,
    "down_blocks.2": 0.7,
    "mid_block": 1.0,
    "up_blocks.0": 1.0,
    "up_blocks.1": 1.5,
}


@dataclass(frozen=True)
class Example:
    latent: np.ndarray
    labels: np.ndarray
    sentence: Sentence | None
    things: tuple[Thing, ...]


def grounding(
    maps: Mapping[str, Tensor | None],
    examples: Sequence[Example],
    offsets: Tensor,
    timestep: Tensor,
) -> Losses:
    """How badly the nouns' tokens look at their objects. maps: [B, places, T] of each layer."""
    blocks = {name.split(".attentions")[0] for name in maps}
    if not any(one.sentence and one.sentence.mentions for one in _seen(examples, timestep)):
        return dict.fromkeys(("all", *blocks), torch.zeros(()))
    rows, columns, targets = _mentions(examples, offsets, timestep)
    parts: dict[str, list[Tensor]] = {}
    total, weight = torch.zeros(()), 0.0
    for name, seen in maps.items():
        assert seen is not None
        side = int(seen.shape[1] ** 0.5)
        heat = torch.einsum("mnt,mt->mn", seen[rows], columns)
        target = F.adaptive_avg_pool2d(targets[:, None], side).flatten(1)
        loss = _map_loss(heat, target)
        block = name.split(".attentions")[0]
        total, weight = total + LAYER_WEIGHTS[block] * loss, weight + LAYER_WEIGHTS[block]
        parts.setdefault(block, []).append(loss.detach())
    return {
        "all": total / weight,
        **{block: torch.stack(loss).mean() for block, loss in parts.items()},
    }


def _seen(examples: Sequence[Example], timestep: Tensor) -> list[Example]:
    """Those that show enough of the picture to be asked where a word is."""
    low = (timestep < GROUNDED_BELOW).tolist()
    return [one for one, asked in zip(examples, low, strict=True) if asked]


def labelling(
    guesses: Mapping[str, Tensor],
    examples: Sequence[Example],
    timestep: Tensor,
    names: Mapping[str, int],
) -> Tensor:
    """How badly the heads tell each cell's noun (or background) and each painted cell's colour.

    names: the class of each noun, from 1 on; background is 0, and the colours follow.
    """
    seen = timestep < GROUNDED_BELOW
    shares = np.stack([_classes(example, names) for example in examples])
    truth = torch.from_numpy(shares).float()[seen]
    losses = []
    for guess in guesses.values():
        target = F.adaptive_avg_pool2d(truth, guess.shape[-1])
        noun, tone = guess[seen].float().split([1 + len(names), len(COLOURS)], 1)
        noun_truth, tone_truth = target.split([1 + len(names), len(COLOURS)], 1)
        weight = 1 - 0.8 * noun_truth[:, 0]
        losses.append((-(noun.log_softmax(1) * noun_truth).sum(1) * weight).sum() / weight.sum())
        painted = (tone_truth.sum(1) + 1e-6).sum()
        losses.append(-(tone.log_softmax(1) * tone_truth).sum() / painted)
    return torch.stack(losses).mean()


def _classes(example: Example, names: Mapping[str, int]) -> np.ndarray:
    """Share of each of 32 x 32 cells that shows background, each noun, each colour: [C, 32, 32]."""
    side = example.labels.shape[0] // LATENT
    out = np.zeros((1 + len(names) + len(COLOURS), LATENT, LATENT), np.float32)
    for label in range(len(example.things) + 1):
        shape = (example.labels == label).reshape(LATENT, side, LATENT, side).mean((1, 3))
        if label == 0:
            out[0] += shape
            continue
        thing = example.things[label - 1]
        out[names[thing.noun]] += shape
        if thing.colour:
            out[1 + len(names) + list(COLOURS).index(thing.colour)] += shape
    return out


def _map_loss(heat: Tensor, target: Tensor) -> Tensor:
    """Pixel cross-entropy, and for words that name something the overlap and the share inside."""
    heat = heat.clamp(1e-5, 1 - 1e-5)
    pixel = F.binary_cross_entropy(heat, target)
    there = target.sum(1) > 0
    if not bool(there.any()):
        return 2 * pixel
    heat, target = heat[there], target[there]
    inside = (heat * target).sum(1)
    overlap = 1 - 2 * inside / (heat.sum(1) + target.sum(1))
    strayed = (1 - (heat * (target > 0.05)).sum(1) / heat.sum(1)) ** 2
    return 2 * pixel + overlap.mean() + 0.5 * strayed.mean()


def _mentions(
    examples: Sequence[Example], offsets: Tensor, timestep: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Row [M], token columns [M, 77] and target [M, 32, 32] of every noun in the batch."""
    rows, columns, targets = [], [], []
    for row, example in enumerate(examples):
        if example.sentence is None or timestep[row] >= GROUNDED_BELOW:
            continue
        for mention in example.sentence.mentions:
            meant = np.isin(example.labels, [thing + 1 for thing in mention.things])
            spans = offsets[row]
            rows.append(row)
            columns.append(
                (
                    (spans[:, 0] >= mention.start)
                    & (spans[:, 1] <= mention.end)
                    & (spans[:, 1] > spans[:, 0])
                ).float()
            )
            side = meant.shape[0] // LATENT
            targets.append(
                torch.from_numpy(meant.reshape(LATENT, side, LATENT, side).mean((1, 3))).float()
            )
    return torch.tensor(rows), torch.stack(columns), torch.stack(targets)
