"""What may be an answer besides what the sentence says: things that are not meant, a film's frames.

Both act on the candidates: the library's own heat is changed before it is cut into masks, and
masks that cannot be meant are left out; which of the rest is the answer is decided as ever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from ..refdiff.attention.capture import Capture
from ..refdiff.expression import Expression
from ..refdiff.masks.resize import resize_heat, resize_masks, to_tensor, working_size
from ..refdiff.pipeline import Look
from ..refdiff.settings import Settings
from ..refdiff.steps import THING, asks_for_a_thing, outlined, propose, read_regions
from .heat import word_heat
from .hover import Looked, looked
from .maps_cache import RememberedClip
from .types import Attention, NodeSettings

INSIDE = 0.5
"""Share of a candidate inside what is excluded from which on it is ruled out."""
SAME = 0.3
"""IoU with the last frame's mask from which on a candidate is the same thing."""
NO_CANDIDATES = "Nothing found: the segmenter gave no candidates, or only empty ones."
Size = tuple[int, int]


@dataclass(frozen=True)
class Nothing:
    """Why there is no answer, though nothing is wrong with the graph."""

    words: str


def carved(text: str) -> list[str]:
    """The things of a text that are not meant, which commas or lines divide."""
    return [one.strip() for one in re.split(r"[,\n]", text) if re.search(r"\w", one)]


@dataclass(frozen=True, eq=False)
class Narrow:
    """One picture, and the candidates among which each sentence about it chooses.

    given: masks [N, H, W] that somebody else made. excluded: things that are not meant.
    """

    picture: Image.Image
    capture: Capture
    clip: RememberedClip | None
    settings: NodeSettings
    given: Tensor | None
    excluded: tuple[Expression, ...] = ()

    @property
    def method(self) -> Settings:
        """The settings for this family of models."""
        return self.settings.method(self.capture.family)

    @property
    def size(self) -> Size:
        return self.picture.height, self.picture.width

    def look(
        self, expression: Expression, before: tuple[Tensor, Tensor] | None = None
    ) -> Look | Nothing:
        """A look at the picture for this sentence. before: the last frame's mask and heat."""
        if self.given is not None and not bool(self.given.any()):
            return Nothing(NO_CANDIDATES)
        if before is not None and before[0].shape != self.size:
            before = None
        if before is None and not self.excluded:
            return self._plain if self.given is None else self._look(self.given)
        masks = self._left(self._proposed(expression, before))
        if not len(masks):
            return Nothing("Nothing found: all candidates belong to what is excluded.")
        if before is not None and expression.number == 1:
            masks = _like(masks, before[0])
        return self._look(masks)

    def excluded_mask(self) -> Tensor:
        """bool [H, W]: where things are that are not meant."""
        return self._off[0]

    def looked(self, expression: Expression) -> Looked:
        """What a front end needs to show where each word of the sentence was seen."""
        return looked(self._attention(expression), self.method)

    @property
    def _working(self) -> tuple[int, int]:
        return working_size(self.size, self.method.working)

    @cached_property
    def _plain(self) -> Look:
        return self._look(None)

    def _look(self, candidates: Tensor | None) -> Look:
        return Look(self.picture, self.capture, self.clip, self.method, candidates)

    @cached_property
    def _off(self) -> tuple[Tensor, Tensor]:
        """Where what is excluded was found: its mask [H, W], and its heat [h, w] in there."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        heat = torch.zeros(self._working)
        if not self.excluded:
            return mask, heat
        look = self._plain if self.given is None else self._look(self.given)
        for result in (one for one in look.many(self.excluded) if not one.empty):
            mask = mask | result.mask
            inside = resize_masks(result.mask[None], self._working)[0]
            heat = torch.maximum(heat, result.heat * inside)
        return mask, heat

    def _proposed(self, expression: Expression, before: tuple[Tensor, Tensor] | None) -> Tensor:
        """The given candidates, or those of the heat less what is excluded: bool [N, H, W]."""
        if self.given is not None:
            masks = self.given >= 0.5
            return masks[masks.flatten(1).any(1)]
        found, pixels = [], to_tensor(self.picture, self._working)
        attention = self._attention(expression)
        more = read_regions(attention.maps, self._working, self.method)
        for target in expression.targets():
            heat = word_heat(attention, target.root.word, self.method)
            if before is not None:
                heat = (heat + resize_heat(before[1][None], heat.shape)[0]) / 2
            heat = (heat - self._off[1]).clamp(min=0)
            found.append(propose(heat / heat.max().clamp(min=1e-6), self.method, pixels, more))
        masks = torch.cat(found)
        masks = masks[masks.flatten(1).any(1)]
        return torch.stack([outlined(mask, self.picture, self.method) for mask in masks])

    def _left(self, masks: Tensor) -> Tensor:
        inside = (masks & self._off[0]).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp(min=1)
        return masks[inside <= INSIDE]

    def _attention(self, expression: Expression) -> Attention:
        thing = [THING] if asks_for_a_thing(expression) else []
        texts = [expression.text, *thing]
        maps, *more = self.capture.read(self.capture.encode(self.picture), texts)
        return Attention(maps, self.capture.family, expression, self.size, self.picture, *more)


def _like(masks: Tensor, before: Tensor) -> Tensor:
    """The masks that show what the last frame's mask showed; all of them when none does."""
    both = (masks & before).flatten(1).sum(1)
    same = both / (masks | before).flatten(1).sum(1).clamp(min=1) >= SAME
    return masks[same] if bool(same.any()) else masks
