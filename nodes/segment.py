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
from ..refdiff.overlay import draw_overlay
from ..refdiff.settings import Settings
from .answers import Answer, Choices, answers_of, merged, paired
from .clip import ManagedClip
from .heat import labelled_heat
from .knobs import noise_input, profile_input
from .pictures import (
    boxes_of,
    image_of,
    is_placeholder,
    mask_of,
    pictures_of,
    points_of,
    shown,
    stacked,
)
from .refine import shape_inputs
from .wires import (
    CATEGORY,
    SCORER,
    NodeSettings,
    floor_input,
    model_inputs,
    one_of,
    output,
    place_outputs,
    settings_input,
    text_input,
)

INSTANCES = ("auto", "one", "all", "separate")
EXAMPLE = "the red cat on the left"


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
                *_widgets(),
                SCORER.Input(
                    "scorer",
                    optional=True,
                    tooltip="From Load CLIP Scorer. Without it the heat alone decides.",
                ),
                io.Mask.Input(
                    "candidates",
                    optional=True,
                    tooltip="Masks of the picture's things, [N, H, W], from any segmenter: the "
                    "answer is chosen among them.",
                ),
                settings_input(),
            ],
            outputs=[
                output(io.Mask, "mask", "1 where to paint, the picture's own size."),
                output(io.Mask, "heat", "Where the word was looked for, 0..1."),
                output(io.Float, "score", "Presence, 0..1, one for each mask.", listed=True),
                output(io.Image, "overlay", "Heat, outline and word over the picture."),
                output(io.String, "report", "How each sentence was understood and answered."),
                *place_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

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
    ) -> io.NodeOutput:
        one_of("instances", instances, INSTANCES)
        settings = _settled(settings, profile, threshold, empty_below, noise_index)
        choices = Choices(settings, focus, choice, instances, edges, grow, falloff)
        pictures, lines = pictures_of(image), _lines(text)
        given = None if candidates is None or is_placeholder(candidates) else stacked(candidates)
        if given is not None and len(pictures) > 1:
            raise ValueError(
                f"Candidates belong to one picture and there is a batch of {len(pictures)}; put "
                "Rebatch Images with a batch size of 1 before this node."
            )
        answers: list[Answer] = []
        work = paired(pictures, lines)
        progress = ProgressBar(sum(len(own) for _, own in work))
        for picture, own in work:
            throw_exception_if_processing_interrupted()
            found = answers_of(picture, own, choices, (model, clip, vae), scorer, given)
            answers += [merged(found)] if settings.merge_lines else found
            progress.update(len(own))
        return _output(cls, answers)


def _widgets() -> list[io.Input]:
    return [
        io.String.Input(
            "focus",
            default="",
            tooltip="Look for this word of the text instead of the one found: a noun, a tag, a "
            "LoRA trigger or embedding:name.",
        ),
        io.Int.Input(
            "choice",
            default=1,
            min=1,
            max=64,
            tooltip="1 takes the best thing, 2 the next different one, and so on.",
        ),
        io.Combo.Input(
            "instances",
            options=list(INSTANCES),
            default=INSTANCES[0],
            tooltip="auto: as many as the sentence says. one, all: that many in one mask. "
            "separate: a mask for each.",
        ),
        io.Float.Input(
            "threshold",
            default=0.0,
            min=0.0,
            max=0.99,
            step=0.01,
            tooltip="Cut the heat there; 0 chooses the best of 19 cuts.",
        ),
        floor_input(),
        *shape_inputs(),
        profile_input(),
        noise_input("Which noise is put on the picture. Another one may help where a mask fails."),
    ]


def _settled(
    wired: NodeSettings | None, profile: str, threshold: float, empty_below: float, noise: int
) -> NodeSettings:
    """The wired settings, or the widgets' profile; threshold and the like count in both."""
    settings = wired or NodeSettings(Settings.named(profile))
    method = replace(settings.method, empty_below=empty_below)
    if wired is None:
        method = replace(method, capture=replace(method.capture, seed=noise))
    if threshold > 0:
        method = replace(method, threshold=threshold)
    return replace(settings, method=method)


def _lines(text: str | Expression) -> list[str | Expression]:
    if isinstance(text, Expression):
        return [text]
    return [line.strip() for line in text.splitlines() if line.strip()] or [text]


def _output(cls: Any, answers: Sequence[Answer]) -> io.NodeOutput:
    """One row per mask on every output, and the gallery: masks on pictures, then heats."""
    masks = torch.cat([answer.masks for answer in answers])
    rows = [(answer, mask) for answer in answers for mask in answer.masks]
    scores = [answer.score for answer, _ in rows]
    overlays = [draw_overlay(a.picture, a.heat, mask >= 0.5, a.label) for a, mask in rows]
    on_picture = [draw_overlay(a.picture, None, mask >= 0.5) for a, mask in rows]
    heats = [labelled_heat(a.picture, a.heat, a.label) for a in answers]
    report = "\n".join(answer.words for answer in answers)
    return io.NodeOutput(
        mask_of(masks),
        mask_of(torch.stack([answer.heat for answer, _ in rows])),
        scores,
        image_of(overlays),
        report,
        boxes_of(masks, scores),
        points_of(masks),
        ui=shown(cls, [*on_picture, *heats], report),
    )
