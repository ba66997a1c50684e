"""Ref-Diff from top to bottom: a picture and a sentence in, a mask out.

The paper (arXiv 2308.16777) in this project's words: the *heat* c of the sentence's root word is
read out of the UNet's cross-attention (section 3.2), cut into *proposals* M or compared with
masks that someone else made, and each proposal gets a *generative* score s^G from the heat, a
*discriminative* score s^D from CLIP (section 3.3) and a weight from its place (P); together
they decide. The object is chosen on heat as it was read; its outline is drawn to the picture's
edges last, at the picture's own size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import steps
from .attention.capture import Capture
from .attention.maps import TokenMaps
from .errors import WordError
from .expression import Expression, Noun, Word, parse, told_notes, with_root
from .finding import Finder, Found
from .io.pictures import as_picture
from .masks.resize import to_tensor, working_size
from .masks.sources import candidates_of
from .result import Segmentation
from .scoring.clip import ClipScorer
from .scoring.regions import Regions
from .settings import Settings
from .settings_file import settings_of
from .stopwatch import Stopwatch


def segment(
    image: Any,
    text: str | Expression,
    capture: Capture,
    clip: ClipScorer | None = None,
    settings: Settings | str | os.PathLike[str] | None = None,
    proposals: Any = None,
) -> Segmentation:
    """The mask of what `text` refers to in `image`.

    image: a path, PIL image, array or tensor. capture: reads the attention, for example
    `DiffusersCapture(pipe)`; `settings` decide how, those of the model's family unless given: a
    `Settings`, or a profile, a NAME.refdiff.toml or its NAME as `--profile` takes them.
    clip: without it the answer is generative only. proposals: masks [N, H, W] made by someone
    else, to choose from (Ref-Diff+).
    Raises ValueError for bad input, RefDiffError when the model cannot answer.
    """
    return Look(image, capture, clip, settings, proposals)(text)


class Look:
    """One picture, looked at once; call it with any number of sentences."""

    def __init__(
        self,
        image: Any,
        capture: Capture,
        clip: ClipScorer | None = None,
        settings: Settings | str | os.PathLike[str] | None = None,
        proposals: Any = None,
    ) -> None:
        self.image = as_picture(image)
        self.settings = settings_of(settings, capture.family)
        self.clip = clip
        self.size = working_size((self.image.height, self.image.width), self.settings.working)
        self._working = to_tensor(self.image, self.size)
        self._pixels = None if clip is None else _for_clip(self.image, clip)
        name = os.path.basename(image) if isinstance(image, str | os.PathLike) else None
        own = None
        if proposals is not None:
            own = candidates_of(proposals, self.image, name).sized(self.size)
        self._own, self._given = own, None if own is None else own.small
        self._regions = None if self._given is None else self._seen(self._given)
        watch = Stopwatch()
        with watch.stage("picture"):
            self.capture = capture.using(self.settings.capture)
            self._encoded = self.capture.encode(self.image)
        self._seconds = watch.seconds

    def __call__(
        self, text: str | Expression, word: str | None = None, choice: int = 1
    ) -> Segmentation:
        """The mask for one sentence. word: look for this word instead of the root.

        choice: 2 takes the next best different proposal, and so on.
        """
        return self.many([text], word, choice)[0]

    def many(
        self, texts: Sequence[str | Expression], word: str | None = None, choice: int = 1
    ) -> list[Segmentation]:
        """The masks for several sentences, which are shown to the UNet as one batch."""
        watch = Stopwatch(self._seconds)
        with watch.stage("parse"):
            expressions = [parse(text) if isinstance(text, str) else text for text in texts]
            expressions = [with_root(one, word) if word else one for one in expressions]
        with watch.stage("attention"):
            maps = self.capture.read(self._encoded, [one.text for one in expressions])
            thing = self._thing(expressions)
        return [
            self._segment(expression, own, thing, choice, Stopwatch(watch.seconds))
            for expression, own in zip(expressions, maps, strict=True)
        ]

    def _thing(self, expressions: Sequence[Expression]) -> TokenMaps | None:
        """The maps of any thing, where a sentence names none and they can still be read."""
        if self._given is not None or not any(map(steps.asks_for_a_thing, expressions)):
            return None
        try:
            return self.capture.read(self._encoded, [steps.THING])[0]
        except WordError:
            return None

    def _segment(
        self,
        expression: Expression,
        maps: TokenMaps,
        thing: TokenMaps | None,
        choice: int,
        watch: Stopwatch,
    ) -> Segmentation:
        one = self.settings.views == "official"  # the authors look for one thing, whatever is said
        targets = [expression] if one else expression.targets()
        finder = self._finder(maps, thing, watch)
        found = [finder.find(target, choice) for target in targets]
        return self._answer(expression, found, watch)

    def _finder(self, maps: TokenMaps, thing: TokenMaps | None, watch: Stopwatch) -> Finder:
        """How the words of one sentence are seen in this picture."""
        return Finder(
            settings=self.settings,
            heat=lambda noun: self._heat(noun, maps if noun.pictured else thing or maps),
            words_heat=lambda words: self._heat_of(words, maps),
            odds=lambda noun: steps.attention_odds(maps, steps.noun_columns(noun, maps), self.size),
            propose=partial(self._proposed, self._read_regions(maps)),
            seen=lambda masks: self._regions or self._seen(masks),
            timed=watch.stage,
        )

    def _heat(self, noun: Noun, maps: TokenMaps) -> Tensor:
        """The noun's heat; for any thing among given masks the same everywhere."""
        if noun.anything and self._given is not None:
            return torch.ones(self.size)
        return self._read_heat(maps, steps.noun_columns(noun, maps))

    def _heat_of(self, words: Sequence[Word], maps: TokenMaps) -> Tensor:
        columns = [column for word in words for column in maps.columns(word.start, word.end)]
        return self._read_heat(maps, tuple(columns))

    def _read_heat(self, maps: TokenMaps, columns: tuple[int, ...]) -> Tensor:
        return steps.read_heat(maps, columns, self.size, self.settings)

    def _read_regions(self, maps: TokenMaps) -> Tensor | None:
        if self._given is not None:
            return None
        return steps.read_regions(maps, self.size, self.settings)

    def _proposed(self, more: Tensor | None, heat: Tensor) -> Tensor:
        """The masks given, or those that the heat proposes and more."""
        if self._given is not None:
            return self._given
        return steps.propose(heat, self.settings, self._working, more)

    def _seen(self, masks: Tensor) -> Regions | None:
        if self.clip is None or self._pixels is None:
            return None
        return Regions(self.clip, self._pixels, masks)

    def _answer(self, expression: Expression, found: list[Found], watch: Stopwatch) -> Segmentation:
        """The union of what was found; a noun whose presence is too low adds nothing."""
        doubts = [one.doubt for one in found]
        own = (note for one in found for note in (*one.scored.notes, *one.notes))
        said = [*told_notes(expression), *own]
        floor = self.settings.empty_below
        there = [one for one in found if one.presence >= floor]
        close = (one.doubt.note for one in there if one.doubt.note)
        notes = list(dict.fromkeys([*said, *close]))
        if self.clip is None:
            notes.append("no CLIP model, so the choice is generative only")
        notes += [
            f"nothing found: the presence of {one.noun.name!r} is {one.presence:.2f}, "
            f"below {floor:.2f}"
            for one in found
            if one not in there
        ]
        size = (self.image.height, self.image.width)
        with watch.stage("mask"):
            instances = [one for found in there for one in found.answer(self._cut_out)]
            runner_up = self._runner_up(found)
        stack = torch.stack(instances) if instances else torch.zeros(0, *size, dtype=torch.bool)
        return Segmentation(
            image=self.image,
            mask=stack.any(0),
            instances=stack,
            heat=torch.stack([one.heat for one in found]).amax(0),
            expression=expression,
            candidates=tuple(candidate for one in found for candidate in one.candidates()),
            masks=torch.cat([one.scored.masks for one in found]),
            presence=min(one.presence for one in there or found),
            notes=tuple(notes),
            times=watch.seconds,
            settings=self.settings,
            ambiguity=max(doubt.ambiguity for doubt in doubts),
            runner_up=runner_up,
        )

    def _runner_up(self, found: list[Found]) -> Tensor | None:
        """The next best answer where one thing is looked for: bool [H, W]."""
        next_one = found[0].doubt.runner_up if len(found) == 1 else None
        if next_one is None:
            return None
        return replace(found[0], chosen=[next_one]).answer(self._cut_out).any(0)

    def _cut_out(self, found: Found) -> Tensor:
        """The chosen masks of one noun at the picture's size; those given come as they came."""
        if self._own is not None:
            return self._own.full(found.chosen)
        chosen = found.scored.masks[found.chosen]
        return torch.stack([steps.outlined(mask, self.image, self.settings) for mask in chosen])


def _for_clip(image: Any, clip: ClipScorer) -> Tensor:
    """The picture's own pixels, [3, H, W], as far as the CLIP can see them."""
    return to_tensor(image, working_size((image.height, image.width), clip.picture_limit))
