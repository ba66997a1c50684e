"""An answer handed over to SAM and taken back: find, mask, and look at what is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..result import Segmentation
from ..scoring.clip import ClipScorer, similarity
from .candidates import Mask
from .handover import hand_over
from .peaks import cut_zones, split_peaks
from .resize import resize_masks, to_tensor
from .sam import Sam

OVERLAP = 0.3
"""IoU that SAM's mask must have with the one it was asked about."""
LEFT = 0.5
"""What is left of the heat is looked at while its peak is above this share of the highest."""


def refined(
    found: Segmentation, sam: Sam, clip: ClipScorer | None = None, rounds: int = 1
) -> Segmentation:
    """The same answer with SAM's outlines.

    Each object found is asked for by points, box and logits (`hand_over`). SAM's mask takes its
    place when the two overlap by OVERLAP and CLIP does not put it behind a rival; else the object
    stays as it was, and a note says so. rounds: a sentence that means several ("the cups") is
    looked at again so often at most: what heat is left outside the masks is asked for too, until
    CLIP finds it nearer to the rivals than to what was accepted.
    Raises ValueError for less than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, wanted 1 or more.")
    if found.empty:
        return found
    judge = _Judge(found, clip)
    kept, refused = [], 0
    for mask in found.instances:
        answer = _answer(found, sam, judge, judge.small(mask.numpy()))
        refused += answer is None
        kept.append(mask.numpy() if answer is None else answer)
    if found.expression.number != 1:
        kept += _further(found, sam, judge, kept, rounds - 1)
    stack = torch.from_numpy(np.stack(kept))
    notes = found.notes
    if refused:
        notes = (*notes, f"SAM's mask was refused for {refused} of {len(found.instances)} objects")
    return replace(found, instances=stack, mask=stack.any(0), notes=notes)


def _answer(found: Segmentation, sam: Sam, judge: _Judge, mask: Tensor) -> Mask | None:
    """SAM's most promising mask that is of the same object; None when there is none."""
    size = (found.image.height, found.image.width)
    prompts = hand_over(found.heat, mask, judge.rivals(mask), size)
    for answer in sam.ask(found.image, prompts):
        small = judge.small(answer)
        if _iou(small, mask) >= OVERLAP and judge.accepts(small, mask):
            return answer
    return None


def _further(
    found: Segmentation, sam: Sam, judge: _Judge, kept: list[Mask], rounds: int
) -> list[Mask]:
    """Masks of what heat is left outside those kept."""
    more: list[Mask] = []
    for _ in range(rounds):
        covered = torch.stack([judge.small(mask) for mask in [*kept, *more]]).any(0)
        left = torch.where(covered, 0.0, found.heat)
        if float(left.max()) < LEFT * float(found.heat.max()):
            break
        core = cut_zones(left, split_peaks(left)[:1])[0] & ~covered
        answer = _answer(found, sam, judge, core) if bool(core.any()) else None
        if answer is None:
            break
        more.append(answer & ~np.logical_or.reduce([*kept, *more]))
    return more


class _Judge:
    """CLIP's veto: is a mask nearer to the words than the candidates that were not chosen?"""

    def __init__(self, found: Segmentation, clip: ClipScorer | None) -> None:
        self._found = found
        self._clip = clip
        self._size = (found.heat.shape[0], found.heat.shape[1])
        self._pixels = to_tensor(found.image, self._size)
        chosen = [candidate.chosen for candidate in found.candidates]
        self._others = found.masks[~torch.tensor(chosen, dtype=torch.bool)]

    def small(self, mask: Mask) -> Tensor:
        """A mask at the heat's size."""
        return resize_masks(torch.from_numpy(mask)[None], self._size)[0]

    def rivals(self, mask: Tensor) -> Tensor:
        """Candidates that were not chosen and do not lie on the mask: bool [K, h, w]."""
        apart = ~(self._others & mask).flatten(1).any(1)
        return self._others[apart]

    def accepts(self, new: Tensor, old: Tensor) -> bool:
        """Whether CLIP finds the new mask no worse than half way from the old to a rival."""
        rivals = self.rivals(old)
        if self._clip is None or not bool(new.any()) or not len(rivals):
            return bool(new.any())
        settings = self._found.settings
        masks = torch.cat([new[None], old[None], rivals])
        seen = self._clip.image_features(self._pixels, masks, settings.crop)
        text = self._clip.text_features([self._found.expression.root.phrase])[0]
        near, before, *others = similarity(seen, text, beta=settings.beta).tolist()
        return near >= min(before, (before + max(others)) / 2)


def _iou(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum()) / max(1, int((one | other).sum()))
