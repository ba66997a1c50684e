"""Impact Pack's SEGS: masks to them and back, and Ref-Diff as one of its detectors.

SEGS is ((height, width), [segment, ...]). A segment is whatever has the attributes of `Segment`;
nothing of that pack is imported, and it need not be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..refdiff.masks.refine import grown
from .answers import Answer, Choices, answers_of
from .expression import AS_SAID
from .load_clip import ManagedClip
from .pictures import boxes_of, mask_of, only_picture, stacked
from .types import (
    CATEGORY,
    SCORER,
    NodeSettings,
    found_by,
    model_inputs,
    output,
    settings_input,
)

SEGS = io.Custom("SEGS")
BBOX_DETECTOR = io.Custom("BBOX_DETECTOR")
SEGM_DETECTOR = io.Custom("SEGM_DETECTOR")
Region = tuple[int, int, int, int]


class Segment(NamedTuple):
    """One of SEGS. Regions are (left, top, right, bottom) in pixels of the whole picture.

    cropped_mask: float32 [h, w], the part of the mask in crop_region.
    """

    cropped_image: Any
    cropped_mask: np.ndarray
    confidence: float
    crop_region: Region
    bbox: Region
    label: str
    control_net_wrapper: Any = None


Segs = tuple[tuple[int, int], list[Segment]]


def segs_of(
    masks: Tensor,
    scores: Sequence[float],
    labels: Sequence[str],
    crop_factor: float,
    least: int = 1,
) -> Segs:
    """SEGS of masks [N, H, W] 0..1. least: side in pixels under which one is left out."""
    size = (masks.shape[1], masks.shape[2])
    found = []
    for box in boxes_of(masks, scores):
        if min(box["width"], box["height"]) < least:
            continue
        bbox = (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
        left, top, right, bottom = region = _around(bbox, size, crop_factor)
        index = int(box["mask"])
        part = masks[index, top:bottom, left:right].float().numpy()
        found.append(Segment(None, part, scores[index], region, bbox, labels[index]))
    return size, found


def masks_of(segs: Any) -> Tensor:
    """The masks of SEGS at the picture's size, [N, H, W]; ValueError for what is no SEGS."""
    try:
        (height, width), segments = segs
        masks = torch.zeros(len(segments), int(height), int(width))
        for mask, segment in zip(masks, segments, strict=True):
            left, top, right, bottom = (int(side) for side in segment.crop_region)
            part = torch.as_tensor(np.asarray(segment.cropped_mask)).float()
            mask[top:bottom, left:right] = part.reshape(bottom - top, right - left)
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"This is no SEGS ({error}); wire SEGS of Impact Pack, ((height, width), segments)."
        ) from error
    return masks


def _around(box: Region, size: tuple[int, int], factor: float) -> Region:
    """A region `factor` times as wide and high as the box, as far as the picture reaches."""
    sides = []
    for low, high, most in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        side = min(most, max(high - low, round((high - low) * factor)))
        start = min(max(0, round((low + high - side) / 2)), most - side)
        sides.append((start, start + side))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


class Detector:
    """What Impact Pack asks of a BBOX_DETECTOR and of a SEGM_DETECTOR.

    boxes: its segments are boxes and no outlines. Its threshold is not asked about: the presence of
    a thing is no number between models, so the settings' floor decides.
    """

    def __init__(self, answer: Any, boxes: bool) -> None:
        self._answer, self._boxes = answer, boxes

    def setAux(self, _aux: Any) -> None:
        """Impact Pack tells detectors a label; the sentence is this one's own."""

    def detect(
        self,
        image: Tensor,
        threshold: float,
        dilation: int,
        crop_factor: float,
        drop_size: int = 1,
        detailer_hook: Any = None,
    ) -> Segs:
        answers = self._answer(image)
        masks = self._masks(answers, dilation)
        scores = [answer.score for answer in answers for _ in answer.masks]
        labels = [answer.label for answer in answers for _ in answer.masks]
        segs = segs_of(masks, scores, labels, crop_factor, drop_size)
        after = getattr(detailer_hook, "post_detection", None)
        return segs if after is None else after(segs)

    def detect_combined(self, image: Tensor, threshold: float, dilation: int) -> Tensor:
        return self._masks(self._answer(image), dilation).amax(0, keepdim=True)

    def _masks(self, answers: Sequence[Answer], dilation: int) -> Tensor:
        masks = torch.cat([answer.masks for answer in answers])
        if self._boxes:
            boxed = torch.zeros_like(masks)
            for box in boxes_of(masks, [1.0] * len(masks)):
                rows = slice(box["y"], box["y"] + box["height"])
                boxed[box["mask"], rows, box["x"] : box["x"] + box["width"]] = 1
            masks = boxed
        return torch.stack([grown(mask > 0, dilation).float() for mask in masks])


class MasksToSegs(io.ComfyNode):
    """Masks in, SEGS out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffMasksToSegs",
            display_name="Masks to SEGS",
            category=CATEGORY,
            description="Masks as SEGS for the detailers of Impact Pack, one segment for each.",
            inputs=[
                io.Mask.Input("mask", tooltip="Masks [N, H, W] of one picture."),
                io.String.Input("label", default="", tooltip="What the segments are called."),
                crop_input(),
            ],
            outputs=[output(SEGS, "segs", "For Detailer (SEGS) and other nodes of Impact Pack.")],
            **found_by("impact pack", "detailer", "mask to segs"),
        )

    @classmethod
    def execute(cls, mask: Tensor, label: str, crop_factor: float) -> io.NodeOutput:
        masks = stacked(mask)
        count = len(masks)
        return io.NodeOutput(segs_of(masks, [1.0] * count, [label] * count, crop_factor))


class SegsToMasks(io.ComfyNode):
    """SEGS in, candidates out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffSegsToMasks",
            display_name="SEGS to Masks",
            category=CATEGORY,
            description="The masks of Impact Pack's SEGS, as candidates to choose among.",
            inputs=[SEGS.Input("segs", tooltip="From a detector of Impact Pack.")],
            outputs=[output(io.Mask, "masks", "Candidates [N, H, W], one for each segment.")],
            **found_by("impact pack", "segs to mask", "candidates"),
        )

    @classmethod
    def execute(cls, segs: Any) -> io.NodeOutput:
        return io.NodeOutput(mask_of(masks_of(segs)))


class DetectorProvider(io.ComfyNode):
    """Models and a sentence in, detectors out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffDetectorProvider",
            display_name="Ref-Diff Detector Provider",
            category=CATEGORY,
            description="Ref-Diff as a detector of Impact Pack: FaceDetailer and the like then "
            "work on what the sentence names.",
            inputs=[
                *model_inputs(),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="the faces",
                    tooltip="What to detect: faces are all of them, the face is one. Each line "
                    "is a sentence of its own.",
                ),
                SCORER.Input(
                    "scorer", optional=True, tooltip="From Load CLIP Scorer or CLIP Vision Scorer."
                ),
                settings_input(),
            ],
            outputs=[
                output(BBOX_DETECTOR, "bbox_detector", "Finds boxes."),
                output(SEGM_DETECTOR, "segm_detector", "Finds outlines."),
            ],
            **found_by("impact pack", "bbox detector", "segm detector", "face detailer"),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        text: str,
        scorer: ManagedClip | None = None,
        settings: NodeSettings | None = None,
    ) -> io.NodeOutput:
        settings = settings or NodeSettings()
        lines = [line.strip() for line in text.splitlines() if line.strip()] or [text]
        choices = Choices(settings, "", 1, AS_SAID, "off", 0, 0)

        def answer(image: Tensor) -> list[Answer]:
            picture = only_picture(image, "A detector")
            return answers_of(picture, lines, choices, (model, clip, vae), scorer, None)

        return io.NodeOutput(Detector(answer, boxes=True), Detector(answer, boxes=False))


def crop_input() -> io.Input:
    return io.Float.Input(
        "crop_factor",
        default=3.0,
        min=1.0,
        max=100.0,
        step=0.1,
        tooltip="How many times as large as its box the part of the picture around a mask is.",
    )
