"""Ref-Diff Segment: the everyday node, the whole method with what painting needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from ..refdiff.expression import Expression
from ..refdiff.io.overlay import draw_overlay
from .answers import Answer, Choices, answers_of, merged, paired
from .candidates import clickable
from .heat import labelled_heat
from .load_clip import ManagedClip
from .pictures import (
    boxes_of,
    cut_out,
    image_of,
    is_placeholder,
    mask_of,
    pictures_of,
    points_of,
    shown,
    stacked,
)
from .profiles import state_of
from .segment_slots import ALIASES, EXAMPLE, INSTANCES, further_widgets, outputs, widgets
from .types import (
    CATEGORY,
    SCORER,
    NodeSettings,
    found_by,
    model_inputs,
    one_of,
    settings_input,
    text_input,
)

MOST_SHOWN = 16
"""Answers that a node shows on itself; the outputs hold all."""


class RefDiffSegment(io.ComfyNode):
    """Pictures and sentences in, masks out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffSegment",
            display_name="Ref-Diff Segment",
            category=CATEGORY,
            description="The mask of what a sentence refers to, text to mask, read out of the "
            "checkpoint that is loaded already. One line of text gives one mask.",
            inputs=[
                *model_inputs(),
                io.Image.Input("image", tooltip="One picture or a batch."),
                text_input("What to look for; each line gives a mask of its own.", default=EXAMPLE),
                *widgets(),
                SCORER.Input(
                    "scorer",
                    optional=True,
                    tooltip="From Load CLIP Scorer or CLIP Vision Scorer. Without it the heat "
                    "alone decides.",
                ),
                io.Mask.Input(
                    "candidates",
                    optional=True,
                    tooltip="Masks of the picture's things, [N, H, W], from any segmenter: the "
                    "answer is chosen among them.",
                ),
                settings_input(),
                *further_widgets(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **found_by(*ALIASES),
        )

    @classmethod
    def fingerprint_inputs(cls, profile: str | None = None, **_inputs: object) -> object:
        """Another when the profile's file has changed."""
        return state_of(profile)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Tensor,
        text: str | Expression,
        focus: str,
        choice: int,
        instances: str,
        threshold: float,
        empty_below: float,
        edges: str,
        grow: int,
        falloff: int,
        profile: str,
        noise_index: int,
        scorer: ManagedClip | None = None,
        candidates: Tensor | None = None,
        settings: NodeSettings | None = None,
        invert: bool = False,
        exclude: str = "",
        show_candidates: bool = False,
        steady: bool = False,
    ) -> io.NodeOutput:
        one_of("instances", instances, INSTANCES)
        settings = _settled(settings, profile, threshold, empty_below, noise_index)
        shape = edges, grow, falloff, invert
        choices = Choices(settings, focus, choice, instances, *shape, exclude, show_candidates)
        pictures, lines = pictures_of(image), _lines(text)
        given = _given(candidates, len(pictures))
        frames: list[list[Answer]] = []
        work = paired(pictures, lines)
        progress = ProgressBar(sum(len(own) for _, own in work))
        for picture, own in work:
            throw_exception_if_processing_interrupted()
            before = frames[-1] if steady and frames else ()
            found = answers_of(picture, own, choices, (model, clip, vae), scorer, given, before)
            extra = len(frames) < MOST_SHOWN
            frames.append([one if extra else replace(one, looked=None) for one in found])
            progress.update(len(own))
        if settings.merge_lines:
            frames = [[merged(found)] for found in frames]
        return _output(cls, frames)


def _given(candidates: Tensor | None, pictures: int) -> Tensor | None:
    """The candidates that are wired in, unless a loader means none by them."""
    if candidates is None or is_placeholder(candidates):
        return None
    if pictures > 1:
        raise ValueError(
            f"Candidates belong to one picture and there is a batch of {pictures}; put Rebatch "
            "Images with a batch size of 1 before this node."
        )
    return stacked(candidates)


def _settled(
    wired: NodeSettings | None, profile: str, threshold: float, empty_below: float, noise: int
) -> NodeSettings:
    """The wired settings, or the widgets' profile; threshold and the like count in both."""
    settings = wired or NodeSettings(profile, {"capture": {"seed": noise}})
    changes = dict(settings.changes)
    if empty_below >= 0:
        changes["empty_below"] = empty_below
    if threshold > 0:
        changes["threshold"] = threshold
    return replace(settings, changes=changes)


def _lines(text: str | Expression) -> list[str | Expression]:
    if isinstance(text, Expression):
        return [text]
    return [line.strip() for line in text.splitlines() if line.strip()] or [text]


def _output(cls: Any, frames: Sequence[Sequence[Answer]]) -> io.NodeOutput:
    """One row per mask on every output, and the gallery: masks on pictures, then heats."""
    answers = [answer for found in frames for answer in found]
    rows = [(answer, mask) for answer in answers for mask in answer.masks]
    masks = torch.stack([mask for _, mask in rows])
    overlays = [draw_overlay(a.picture, a.heat, mask >= 0.5, a.label) for a, mask in rows]
    report = "\n".join(answer.words for answer in answers)
    found = [answer.found for answer, _ in rows]
    return io.NodeOutput(
        mask_of(masks),
        mask_of(torch.stack([answer.heat for answer, _ in rows])),
        [answer.score for answer, _ in rows],
        image_of(overlays),
        report,
        *_places(frames),
        found,
        all(found),
        torch.stack([cut_out(answer.picture, mask) for answer, mask in rows]),
        mask_of(torch.stack([answer.second for answer, _ in rows])),
        [answer.ambiguity for answer, _ in rows],
        ui=_shown(cls, answers, rows, report),
    )


def _places(frames: Sequence[Sequence[Answer]]) -> tuple[list[list[dict[str, float]]], list[str]]:
    """The boxes and the points of each picture's masks, which are counted through."""
    boxes, points, first = [], [], 0
    for found in frames:
        masks = torch.cat([answer.masks for answer in found])
        scores = [answer.score for answer in found for _ in answer.masks]
        boxes.append(boxes_of(masks, scores, first))
        points.append(points_of(masks))
        first += len(masks)
    return boxes, points


def _shown(
    cls: Any, answers: Sequence[Answer], rows: Sequence[tuple[Answer, Tensor]], report: str
) -> dict[str, Any]:
    """The first answers as a gallery, the report, and what a front end may ask for.

    All keys are always there: ComfyUI joins those of the runs over a list.
    """
    on_picture = [draw_overlay(a.picture, None, mask >= 0.5) for a, mask in rows[:MOST_SHOWN]]
    first = answers[:MOST_SHOWN]
    numbered = [answer.candidates for answer in first if answer.candidates is not None]
    heats = [labelled_heat(answer.picture, answer.heat, answer.label) for answer in first]
    pictures = [*on_picture, *(one.picture for one in numbered), *heats]
    told = clickable(shown(cls, pictures, report) or {}, numbered, len(on_picture))
    return {**told, "refdiff": [one.looked.told() for one in first if one.looked is not None]}
