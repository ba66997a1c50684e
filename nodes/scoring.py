"""A sentence over candidates of any origin: the library's `Finder` on what a graph has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..refdiff.errors import WordError
from ..refdiff.expression import Expression, Noun, Word
from ..refdiff.finding import Finder, Found
from ..refdiff.masks.resize import working_size
from ..refdiff.scoring.choice import Doubt
from ..refdiff.scoring.regions import Regions
from ..refdiff.settings import Settings
from ..refdiff.steps import CandidateScores, attention_odds, noun_columns
from .heat import words_heat
from .types import Attention


@dataclass(frozen=True, eq=False)
class Wired:
    """What Score Proposals was given: masks bool [N, h, w], the root's heat or None, the rest.

    attention: of the very text, or None; regions: the masks as CLIP sees them, or None.
    """

    masks: Tensor
    heat: Tensor | None
    regions: Regions | None
    attention: Attention | None
    method: Settings

    def found(self, expression: Expression, empty: str) -> tuple[Found, ...]:
        """What each thing of the sentence comes to. empty: what to say where there is no mask."""
        if not len(self.masks):
            return (self._nothing(expression, empty),)
        finder = Finder(
            settings=self.method,
            heat=lambda noun: self._heat(noun, expression),
            words_heat=self._words_heat,
            odds=self._odds,
            propose=lambda heat: self.masks,
            seen=lambda masks: self.regions,
        )
        return tuple(finder.find(target) for target in expression.targets())

    def _heat(self, noun: Noun, expression: Expression) -> Tensor:
        """The heat that is wired in is the root's; the attention knows the other words'."""
        if noun.word == expression.root.word and (self.heat is not None or self.attention is None):
            return self._even if self.heat is None else self.heat
        if noun.anything or (self.attention is None and self.regions is not None):
            return self._even  # so that CLIP alone tells
        return self._words_heat([noun.word])

    @property
    def _even(self) -> Tensor:
        return torch.ones(self.masks.shape[1:])

    def _words_heat(self, words: Sequence[Word]) -> Tensor:
        if self.attention is None:
            names = ", ".join(word.text for word in words)
            raise WordError(f"No attention is wired in that knows {names!r}; wire one.")
        return words_heat(self.attention, words, self.method, tuple(self.masks.shape[1:]))

    def _odds(self, noun: Noun) -> Tensor | None:
        """The attention odds of a noun, where the attention is wired in."""
        if self.attention is None:
            return None
        columns = noun_columns(noun, self.attention.maps)
        size = working_size(self.attention.size, self.method.working)
        return attention_odds(self.attention.maps, columns, size)

    def _nothing(self, expression: Expression, empty: str) -> Found:
        none = torch.zeros(0)
        scored = CandidateScores(self.masks, none, None, none, none, none, (empty,))
        there = 1.0 if expression.root.anything else 0.0
        return Found(expression, self._even, scored, [], there, Doubt(0.0, None))


def table(found: CandidateScores) -> list[str]:
    """Each candidate's scores, best first."""
    lines = ["rank  score   heat   CLIP  place   area"]
    for rank, index in enumerate(found.total.argsort(descending=True).tolist(), 1):
        near = None if found.clip is None else float(found.clip.similarity[index])
        clip = "     -" if near is None else f"{near:6.3f}"
        lines.append(
            f"{rank:4d} {float(found.score[index]):6.3f} {float(found.generative[index]):6.3f} "
            f"{clip} {float(found.place[index]):6.3f} "
            f"{float(found.masks[index].float().mean()):6.1%}"
        )
    return lines
