"""CLIP Vision Scorer: ComfyUI's own vision weights with the text encoder that belongs to them."""

from __future__ import annotations

from typing import Any

import torch
from comfy.clip_model import CLIPTextModel
from comfy_api.latest import io
from torch import Tensor

from ..refdiff.errors import ModelError
from .load_clip import ManagedClip
from .types import CATEGORY, SCORER, found_by, output
from .vision_tower import PairScorer, TextTower

PARTNERS = {
    1280: "the CLIP of an SDXL checkpoint (its clip_g)",
    1024: "the CLIP of an SD2 checkpoint (its clip_h)",
    768: "clip_l.safetensors, which Flux and SD3 come with, in Load CLIP",
}
"""Where the text side of a vision model is found, by the length of the features they share."""
VISIONS = "CLIP-ViT-bigG-14, CLIP-ViT-H-14 or OpenAI's clip-vit-large-patch14"
COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 0.6, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
    "orange": (1.0, 0.5, 0.0),
    "purple": (0.5, 0.0, 0.5),
}
NAMED = 4  # of the colours; a pair that doesn't belong together gets there once in a hundred times
CELL = 8  # pixels of a colour's square


def pair(clip_vision: Any, clip: Any) -> ManagedClip:
    """The scorer of a CLIP_VISION and that text encoder of the CLIP whose features are as long.

    Raises ModelError where one of them lacks what brings texts and pictures together.
    """
    wanted = vision_width(clip_vision)
    words = text_tower(clip, wanted)
    check_projection(words)
    scorer = PairScorer(clip_vision, words)
    return ManagedClip(scorer, clip_vision.patcher, words=words.patcher)


def vision_width(clip_vision: Any) -> int:
    """How long the features are that a CLIP_VISION shares with texts."""
    model = getattr(clip_vision, "model", None)
    width = getattr(getattr(model, "visual_projection", None), "out_features", None)
    if width is not None:
        return width
    vision = getattr(model, "vision_model", None)
    siglip = vision is not None and getattr(vision.embeddings, "class_embedding", None) is None
    kind = "SigLIP, whose text side ComfyUI doesn't load" if siglip else type(model).__name__
    raise ModelError(
        f"The CLIP_VISION is {kind}, and has no projection to features that texts share; load "
        f"{VISIONS} in Load CLIP Vision, or take SigLIP with both its sides from Load CLIP Scorer."
    )


def text_tower(clip: Any, width: int) -> TextTower:
    """The text encoder of a CLIP whose projected features have this length."""
    partner = PARTNERS.get(width, "the text encoder that was trained with it")
    found = {name: tower.projection.out_features for name, tower in _towers(clip).items()}
    for name, length in found.items():
        if length == width:
            return TextTower(clip, name)
    came = ", ".join(f"{length} (clip_{name})" for name, length in found.items())
    kind = type(getattr(clip, "cond_stage_model", None)).__name__
    raise ModelError(
        f"The CLIP_VISION's features have {width} numbers, and the CLIP ({kind}) "
        f"gives {came or 'none that a CLIP_VISION shares'}; wire in {partner}."
    )


def _towers(clip: Any) -> dict[str, TextTower]:
    """The text encoders of a CLIP that may have a vision model, by name."""
    model = getattr(clip, "cond_stage_model", None)
    parts = {name: getattr(model, f"clip_{name}", None) for name in "ghl"}
    return {
        name: TextTower(clip, name)
        for name, part in parts.items()
        if isinstance(getattr(part, "transformer", None), CLIPTextModel)
    }


def check_projection(words: TextTower) -> None:
    """Raise ModelError for a projection that no file gave, left empty or as the identity.

    Empty memory may hold anything; what looks like weights is found out by `check_colours`.
    """
    weight = getattr(words.projection, "weight", None)
    if weight is not None:
        weight = weight.detach().float()
        apart = weight - weight.diag().diag() if weight.shape[0] == weight.shape[1] else weight
        if bool(torch.isfinite(weight).all()) and bool(apart.any()):
            return
    raise ModelError(
        f"The CLIP's clip_{words.name} came without its text_projection, which checkpoints of "
        "Stable Diffusion leave out of clip_l, and wanted is a whole one; load clip_l.safetensors, "
        "which Flux and SD3 come with, in Load CLIP, or for SDXL's CLIP take CLIP-ViT-bigG-14 in "
        "Load CLIP Vision."
    )


def check_colours(clip: ManagedClip) -> None:
    """Raise ModelError unless the towers agree on plain colours, as any pair does that is one.

    Widths alone can't tell: a text encoder that lost its projection or was trained far away from
    its vision model looks the same.
    """
    named = named_colours(clip)
    if named < NAMED:
        raise ModelError(
            f"The CLIP_VISION and the CLIP name {named} of {len(COLOURS)} plain colours alike, "
            f"wanted {NAMED} at least: the text encoder lacks its text_projection or was trained "
            "on without this vision model; wire in the original CLIP, or use Load CLIP Scorer."
        )


def named_colours(clip: ManagedClip) -> int:
    """How many of `COLOURS` the towers name right, set off against what all pictures share."""
    count, rows = len(COLOURS), 2
    sheet = torch.tensor(list(COLOURS.values())).T.reshape(3, rows, count // rows)
    picture = sheet.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    masks = torch.eye(count, dtype=torch.bool).view(count, rows, count // rows)
    texts = clip.text_features([f"a {name} picture" for name in COLOURS])
    near: Tensor = clip.crop_features(picture, masks) @ texts.T
    near = near - near.mean(0)
    return int((near.argmax(1) == torch.arange(count)).sum())


class ClipVisionScorer(io.ComfyNode):
    """CLIP for the discriminative half without a download of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffClipVisionScorer",
            display_name="CLIP Vision Scorer",
            category=CATEGORY,
            description="Judges candidates by the sentence with a CLIP Vision model of ComfyUI and "
            "the text encoder that belongs to it, such as SDXL's. Needs no open_clip.",
            inputs=[
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="From Load CLIP Vision: CLIP-ViT-bigG-14 for SDXL, CLIP-ViT-H-14 for "
                    "SD2, OpenAI's clip-vit-large-patch14 for clip_l.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="The CLIP of an SDXL or SD2 checkpoint, or clip_l.safetensors from "
                    "Load CLIP. It is read, never changed.",
                ),
            ],
            outputs=[output(SCORER, "scorer", "For Ref-Diff Segment and Score Proposals.")],
            **found_by("clip vision", "clip_g", "clip score"),
        )

    @classmethod
    def execute(cls, clip_vision: Any, clip: Any) -> io.NodeOutput:
        scorer = pair(clip_vision, clip)
        check_colours(scorer)
        return io.NodeOutput(scorer)
