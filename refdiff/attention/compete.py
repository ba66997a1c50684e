"""Words that compete: at every place, each group of words gets its share of the attention.

A word's own map is high where the whole text is looked at. What tells is how much of a place's
attention goes to the word rather than to the others: the shares of content words that sum to 1 are
worth 8.3 mIoU on VOC with Stable Diffusion 1.5 (GoCA, arXiv 2603.06178).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST = 1e-8  # attention that counts as none


def shares(maps: Tensor, groups: Sequence[Sequence[int]], sink: Sequence[int] = ()) -> Tensor:
    """Each group's share of every place: [G, h, w] in 0..1, together at most 1.

    maps: probabilities [T, h, w] of the text's tokens, begin and end left out. groups: the tokens
    of each thing that competes, averaged, so that a long phrase has no more weight than a short
    one; such as the noun looked for, each other noun, and the background's words. sink: tokens that
    take their part of a place and are never an answer (stop words; RefAM, arXiv 2509.22650), as one
    group. Where nothing is looked at, every share is 0. Raises ValueError for a group of no token.
    """
    taking = [*groups, sink] if sink else list(groups)
    if not groups or not all(len(group) for group in taking):
        raise ValueError(f"The groups are {list(map(list, groups))}; each needs a token.")
    masses = torch.stack([maps[list(group)].mean(0) for group in taking]).clamp(min=0)
    total = masses.sum(0, keepdim=True)
    return torch.where(total > _LEAST, masses / total.clamp(min=_LEAST), 0.0)[: len(groups)]
