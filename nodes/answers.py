"""A batch of pictures and lines of text to answers: what Ref-Diff Segment does inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from PIL import Image
from torch import Tensor

from ..refdiff.errors import RefDiffError
from ..refdiff.expression import Expression
from ..refdiff.heat import enlarged
from ..refdiff.pipeline import Look
from ..refdiff.result import Segmentation
from ..refdiff.shared_capture import SharedCapture
from .clip import ManagedClip
from .expression import counted, told, understood
from .heat import capture_of
from .refine import refined
from .wires import NodeSettings
from .world import caution, fitting

Models = tuple[Any, Any, Any]


@dataclass(frozen=True)
class Choices:
    """Segment's widgets, as they are after a wired REFDIFF_SETTINGS had its say."""

    settings: NodeSettings
    focus: str
    choice: int
    instances: str
    edges: str
    grow: int
    falloff: int


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    words: str


@dataclass(frozen=True, eq=False)
class Answer:
    """One sentence over one picture: masks [K, H, W] and heat [H, W] float, words to read."""

    picture: Image.Image
    masks: Tensor
    heat: Tensor
    score: float
    label: str
    words: str


def paired(
    pictures: Sequence[Image.Image], lines: Sequence[str | Expression]
) -> list[tuple[Image.Image, list[str | Expression]]]:
    """Each picture with its sentences; one of either goes with all of the other."""
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
) -> list[Answer]:
    """An answer for every line; a failure is an empty mask and its words, unless it must raise."""
    tried = partial(_tried, choices.settings.raise_on_failure)
    scorer, said = fitting(scorer, models[0])
    read = [tried(understood, line, choices.focus) for line in lines]
    texts = [one[0].text for one in read if not isinstance(one, Failure)]
    look = tried(_look_at, picture, texts, choices.settings, models, scorer, given)
    answers = []
    for one in read:
        throw_exception_if_processing_interrupted()
        answer = next((each for each in (one, look) if isinstance(each, Failure)), None)
        if answer is None:
            expression, notes = one
            notes = [*notes, *said, *caution(models[0], picture)]
            answer = tried(_answer, look, expression, notes, choices)
        answers.append(_failed(picture, answer.words) if isinstance(answer, Failure) else answer)
    return answers


def _tried(raises: bool, function: Callable[..., Any], *args: Any) -> Any:
    """What the function gives, or a Failure where it may not raise."""
    try:
        return function(*args)
    except (ValueError, RefDiffError) as error:
        if raises:
            raise
        return Failure(str(error))


def _look_at(
    picture: Image.Image,
    texts: Sequence[str],
    settings: NodeSettings,
    models: Models,
    scorer: ManagedClip | None,
    given: Tensor | None,
) -> Look:
    """A look at the picture for which all the texts were read together."""
    capture = SharedCapture(capture_of(*models, settings), settings.method.capture)
    capture.read(capture.encode(picture), texts)
    return Look(picture, capture, scorer, settings.method, given)


def _answer(look: Look, expression: Expression, notes: Sequence[str], choices: Choices) -> Answer:
    result = look(counted(expression, choices.instances), choice=choices.choice)
    size = (result.image.height, result.image.width)
    separate = choices.instances == "separate" and len(result.instances) > 0
    masks = result.instances if separate else result.mask[None]
    shape = (choices.edges, choices.grow, choices.falloff)
    done = torch.stack([refined(mask, result.image, *shape) for mask in masks])
    label = result.expression.root.word.text
    heat = enlarged(result.heat, size)
    return Answer(result.image, done, heat, result.presence, label, _words(result, notes))


def _words(result: Segmentation, notes: Sequence[str]) -> str:
    found = (
        "Nothing found."
        if result.empty
        else f"Found {len(result.instances)} of {len(result.candidates)} candidates, "
        f"presence {result.presence:.2f}."
    )
    return told(f"{result.expression.summary()} {found}", [*result.notes, *notes])


def merged(answers: Sequence[Answer]) -> Answer:
    """The answers to several lines on one picture as one: the union, present if any is."""
    return Answer(
        answers[0].picture,
        torch.cat([answer.masks for answer in answers]).amax(0, keepdim=True),
        torch.stack([answer.heat for answer in answers]).amax(0),
        max(answer.score for answer in answers),
        " + ".join(answer.label for answer in answers if answer.label),
        "\n".join(answer.words for answer in answers),
    )


def _failed(picture: Image.Image, words: str) -> Answer:
    nothing = torch.zeros(picture.height, picture.width)
    return Answer(picture, nothing[None], nothing, 0.0, "", words)
