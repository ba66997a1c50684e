"""What each noun of a sentence comes to: heat, candidates, scores, choice, what is taken off.

`pipeline.Look` and the nodes that do the method in stages ask the same `Finder`; it is told how
heat is read and how CLIP sees masks, and knows neither a model nor a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import steps
from .errors import WordError
from .expression import Exclusion, Expression, Noun, Word
from .result import Candidate
from .scoring.choice import Doubt
from .scoring.exclude import complement, without
from .scoring.parts import crop, gate, gated
from .scoring.regions import Regions
from .settings import Settings
from .steps import CandidateScores

Timed = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, eq=False)
class Finder:
    """How one sentence's words are seen in one picture, everything at the working size.

    heat: of a noun, [h, w] in 0..1; WordError for one that was not read. words_heat: of words that
    are denied. odds: a noun's attention odds, or None (`steps.attention_odds`). propose: heat to
    candidates, bool [N, h, w]. seen: candidates as CLIP sees them, None without a CLIP. timed: what
    takes the time of a stage.
    """

    settings: Settings
    heat: Callable[[Noun], Tensor]
    words_heat: Callable[[Sequence[Word]], Tensor]
    odds: Callable[[Noun], Tensor | None]
    propose: Callable[[Tensor], Tensor]
    seen: Callable[[Tensor], Regions | None]
    timed: Timed = lambda stage: nullcontext()

    def find(self, expression: Expression, choice: int = 1) -> Found:
        """What an expression with one target comes to, and what is to be taken off it."""
        taken, notes = [], []
        for one in expression.excluded if self._geometric else ():
            if not _elsewhere(expression, one):
                continue
            try:
                found = self._look_for(one.expression(expression.text), 1)
            except WordError:
                named = f"{one.word.text} {one.noun.name}".strip()
                notes.append(f"no heat for {one.noun.name!r}, so {named!r} was left out")
                continue
            taken += [found] if found.presence >= self.settings.empty_below else []
        if expression.complement and taken:
            whole = replace(taken[0], expression=expression, presence=1.0)
        else:
            whole = self._look_for(expression, choice)
        return replace(whole, taken=tuple(taken), notes=(*whole.notes, *notes))

    @property
    def _geometric(self) -> bool:
        return self.settings.place_rule == "geometry"

    def _look_for(self, expression: Expression, choice: int) -> Found:
        """Heat, proposals, scores and choice for one noun, the root of its own expression."""
        noun, settings = expression.root, self.settings
        inside, sure = self._whole(expression)
        with self.timed("heat"):
            heat = self.heat(noun)
            heat = heat if inside is None else gated(heat, inside)
        with self.timed("proposals"):
            masks = self.propose(heat)
        with self.timed("clip"):
            regions = self.seen(masks)
            plain = noun.anything and not noun.modifiers  # CLIP can't tell any thing from another
            judge = None if plain else regions
            clip = None if judge is None else judge.judge(noun, expression, settings)
            anchors = steps.find_anchors(expression, settings, self.heat, self._regions_of)
            anchors |= steps.find_denied(expression, settings, regions, self.words_heat)
        with self.timed("fusion"):
            scored = steps.score(expression, heat, masks, settings, clip, anchors, inside)
            chosen = steps.choose(expression, scored, settings, choice)
            there = 1.0 if noun.anything else steps.presence(self.odds(noun), scored)
            doubt = steps.doubt(scored, chosen, settings)
        return Found(expression, heat, scored, chosen, min(there, sure), doubt)

    def _whole(self, expression: Expression) -> tuple[Tensor | None, float]:
        """Where the root may lie as a part of other things, bool [h, w], and their presence.

        None for a root that is part of nothing: "handle of the mug" lies on the mug, or nowhere.
        """
        wholes = [self._look_for(one, 1) for one in expression.wholes() if self._geometric]
        if not wholes:
            return None, 1.0
        masks = torch.cat([one.scored.masks[one.chosen] for one in wholes])
        return gate(masks), min(one.presence for one in wholes)

    def _regions_of(self, heat: Tensor) -> Regions | None:
        """The candidates for a heat as CLIP sees them."""
        return self.seen(self.propose(heat))


def _elsewhere(expression: Expression, one: Exclusion) -> bool:
    """True for another thing that is taken off, false for what is denied of the one looked for."""
    return not steps.denied(expression, one)


@dataclass(frozen=True, eq=False)
class Found:
    """What one noun of a sentence came to.

    chosen: indices of the candidates that answer. taken: things that are taken off the answer.
    presence: 0..1. notes: sentences on what could not be done.
    """

    expression: Expression
    heat: Tensor
    scored: CandidateScores
    chosen: list[int]
    presence: float
    doubt: Doubt
    taken: tuple[Found, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def noun(self) -> Noun:
        return self.expression.root

    def answer(self, cut_out: Callable[[Found], Tensor]) -> Tensor:
        """The masks that answer, bool [K, H, W].

        cut_out: the chosen candidates of a `Found` at the picture's size, bool [K, H, W].
        """
        taken = [mask for one in self.taken for mask in cut_out(one)]
        off = torch.stack(taken) if taken else None
        if off is not None and self.expression.complement:
            return complement(off)[None]
        masks = cut_out(self)
        if off is not None:
            masks = torch.stack([without(mask, off.any(0)) for mask in masks])
        return masks if self.expression.part is None else crop(masks, self.expression.part)

    def candidates(self) -> tuple[Candidate, ...]:
        """Each candidate with its scores, as plain numbers."""
        scored = self.scored
        return tuple(
            Candidate(
                noun=self.noun.name,
                generative=float(scored.generative[i]),
                clip=None if scored.clip is None else float(scored.clip.similarity[i]),
                place=float(scored.place[i]),
                score=float(scored.score[i]),
                area=float(scored.masks[i].float().mean()),
                chosen=i in self.chosen,
            )
            for i in range(len(scored.masks))
        )
