"""A batch of pictures and lines of text to answers: what Ref-Diff Segment does inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from PIL import Image
from torch import Tensor

from ..refdiff.expression import Expression
from ..refdiff.masks.resize import upsample
from ..refdiff.pipeline import Look
from ..refdiff.result import Segmentation
from .candidates import Drawn, numbered, ranked
from .expression import AS_SAID, counted, understood, with_notes
from .heat import capture_of
from .hover import Looked
from .load_clip import ManagedClip
from .load_stickers import caution, fitting
from .maps_cache import RememberedClip
from .narrow import Narrow, Nothing, carved
from .refine import refined
from .types import NodeSettings, NothingFound

Models = tuple[Any, Any, Any]
MOST_LINES = 100
NO_SCORER = "no scorer wired (Load CLIP Scorer): the heat alone chooses"


@dataclass(frozen=True)
class Choices:
    """Segment's widgets, as they are after a wired REFDIFF_SETTINGS had its say.

    instances: one of Segment's options, or AS_SAID, as detectors ask.
    """

    settings: NodeSettings
    focus: str
    choice: int
    instances: str
    edges: str
    grow: int
    falloff: int
    invert: bool = False
    exclude: str = ""
    show_candidates: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """One sentence over one picture: masks [K, H, W] and heat [H, W] float, words to read.

    core: bool [H, W], what was found, before it is shaped. score: presence. second: float [H, W],
    the runner-up, shaped alike; ambiguity: how close it comes, 0..1. candidates: the numbered
    candidates over the picture, where they were asked for. looked: what a front end needs to show
    the heat of each word.
    """

    picture: Image.Image
    masks: Tensor
    heat: Tensor
    core: Tensor
    score: float
    label: str
    words: str
    second: Tensor
    ambiguity: float = 0.0
    candidates: Drawn | None = None
    looked: Looked | None = None

    @property
    def found(self) -> bool:
        return bool(self.core.any())


def paired(
    pictures: Sequence[Image.Image], lines: Sequence[str | Expression]
) -> list[tuple[Image.Image, list[str | Expression]]]:
    """Each picture with its sentences; one of either goes with all of the other."""
    if len(lines) > max(MOST_LINES, len(pictures)):
        raise ValueError(
            f"There are {len(lines)} lines of text, wanted {MOST_LINES} at most; each is a "
            "sentence with a mask of its own, so put one long sentence in one line."
        )
    if len(pictures) == 1:
        return [(pictures[0], list(lines))]
    if len(lines) == 1:
        return [(picture, [lines[0]]) for picture in pictures]
    if len(lines) != len(pictures):
        raise ValueError(
            f"There are {len(pictures)} pictures and {len(lines)} lines of text; give one picture, "
            "one line, or as many lines as pictures."
        )
    return [(picture, [line]) for picture, line in zip(pictures, lines, strict=True)]


def answers_of(
    picture: Image.Image,
    lines: Sequence[str | Expression],
    choices: Choices,
    models: Models,
    scorer: ManagedClip | None,
    given: Tensor | None,
    before: Sequence[Answer] = (),
) -> list[Answer]:
    """An answer for every line; where nothing is found an empty mask and words, or NothingFound.

    before: the answers of a film's last frame, from which these must not jump away.
    """
    scorer, said = fitting(scorer, models[0])
    said = [*said, *caution(models[0], picture)]
    read = [understood(line, choices.focus) for line in lines]
    excluded = [understood(line)[0] for line in carved(choices.exclude)]
    settings = choices.settings
    capture = capture_of(*models, settings)
    texts = [expression.text for expression, _ in [*read, *((one, ()) for one in excluded)]]
    capture.read(capture.encode(picture), texts)
    clip = None if scorer is None else RememberedClip(scorer)
    narrow = Narrow(picture, capture, clip, settings, given, tuple(excluded))
    answers = []
    for index, (expression, notes) in enumerate(read):
        throw_exception_if_processing_interrupted()
        last = before[index] if index < len(before) else None
        answer = _answer(narrow, expression, [*notes, *said], choices, last)
        if settings.raise_if_nothing_found and not answer.found:
            raise NothingFound(answer.words)
        answers.append(answer)
    return answers


def _answer(
    narrow: Narrow,
    expression: Expression,
    notes: Sequence[str],
    choices: Choices,
    before: Answer | None,
) -> Answer:
    asked = counted(expression, choices.instances)
    last = None if before is None or not before.found else (before.core, before.heat)
    look = narrow.look(asked, last)
    result = look if isinstance(look, Nothing) else _chosen(look, asked, choices.choice)
    if isinstance(result, Nothing):
        return _empty(narrow.picture, with_notes(f"{expression.summary()} {result.words}", notes))
    off = narrow.excluded_mask()
    parts = result.instances & ~off if len(result.instances) else result.instances
    whole = result.mask & ~off
    separate = choices.instances in ("separate", AS_SAID) and len(parts) > 0
    shown = numbered(result.image, look_masks(result), whole) if choices.show_candidates else None
    return Answer(
        result.image,
        _shaped(parts if separate else whole[None], result.image, choices),
        upsample(result.heat, whole.shape),
        whole,
        result.presence,
        result.expression.root.word.text,
        _words(result, notes, whole),
        _second(result, off, choices),
        result.ambiguity,
        shown,
        narrow.looked(expression),
    )


def _chosen(look: Look, expression: Expression, choice: int) -> Segmentation | Nothing:
    """The answer; with a choice there are not so many of, why not."""
    try:
        return look(expression, choice=choice)
    except ValueError as error:
        if choice == 1:
            raise
        return Nothing(f"Nothing found: {error}")


def look_masks(result: Segmentation) -> Tensor:
    """The different candidates of an answer at the picture's size, as `choice` counts them."""
    size = (result.image.height, result.image.width)
    return torch.stack([upsample(mask, size) for mask in ranked(result)])


def _shaped(masks: Tensor, picture: Image.Image, choices: Choices) -> Tensor:
    """The masks after the widgets that shape them; an empty one stays empty, inverted too."""
    shape = (choices.edges, choices.grow, choices.falloff)
    done = torch.stack([refined(mask, picture, *shape) for mask in masks])
    there = masks.flatten(1).any(1)[:, None, None]
    return torch.where(there, 1 - done, done) if choices.invert else done


def _second(result: Segmentation, off: Tensor, choices: Choices) -> Tensor:
    """The runner-up after the same widgets: float [H, W], zeros where there is none."""
    if result.runner_up is None:
        return torch.zeros(result.mask.shape)
    return _shaped((result.runner_up & ~off)[None], result.image, choices)[0]


def _words(result: Segmentation, notes: Sequence[str], found: Tensor) -> str:
    said = (
        f"Found {len(result.instances)} of {len(result.candidates)} candidates, "
        f"score {result.score:.2f}, presence {result.presence:.2f}."
        if bool(found.any())
        else "Nothing found."
    )
    own = [NO_SCORER if note.startswith("no CLIP model") else note for note in result.notes]
    return with_notes(f"{result.expression.summary()} {said}", [*own, *notes])


def merged(answers: Sequence[Answer]) -> Answer:
    """The answers to several lines on one picture as one: the union, present if any is."""
    first = answers[0]
    return Answer(
        first.picture,
        torch.cat([answer.masks for answer in answers]).amax(0, keepdim=True),
        torch.stack([answer.heat for answer in answers]).amax(0),
        torch.stack([answer.core for answer in answers]).any(0),
        max(answer.score for answer in answers),
        " + ".join(answer.label for answer in answers if answer.label),
        "\n".join(answer.words for answer in answers),
        torch.zeros_like(first.second),
        max(answer.ambiguity for answer in answers),
        first.candidates,
        first.looked,
    )


def _empty(picture: Image.Image, words: str) -> Answer:
    nothing = torch.zeros(picture.height, picture.width)
    return Answer(picture, nothing[None], nothing, nothing > 0, 0.0, "", words, nothing)
