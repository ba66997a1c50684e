"""Load Sticker Models: the built-in world as ordinary ComfyUI objects."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..refdiff import stickers
from ..refdiff.io.pictures import read_picture
from .load_clip import ManagedClip, load_scorer
from .pictures import image_of, mask_of, shown
from .stickers import is_sticker_model, sticker_models
from .types import CATEGORY, SCORER, found_by, output

STICKERS_ONLY = (
    "the sticker models know stickers only (forty nouns such as cat, car, cup); for other "
    "pictures wire in a checkpoint of your own"
)
NO_SCORER = (
    "open_clip is not installed (see requirements.txt), so the scorer is empty and the heat alone "
    "decides"
)


@cache
def sample() -> Image.Image:
    """The picture of stickers that ships with refdiff."""
    return read_picture(stickers.SAMPLE)


def caution(model: Any, picture: Image.Image) -> list[str]:
    """What to say of a picture that the sticker models were not made for."""
    if not is_sticker_model(model) or picture.tobytes() == sample().tobytes():
        return []
    return [STICKERS_ONLY]


def sticker_scorer() -> ManagedClip | None:
    """The small CLIP that was trained on stickers; None where open_clip is not installed."""
    if find_spec("open_clip") is None:
        return None
    return replace(load_scorer(str(stickers.WEIGHTS / "clip")), narrow=True)


def fitting(scorer: ManagedClip | None, model: Any) -> tuple[ManagedClip | None, list[str]]:
    """The scorer, unless it knows stickers only and the model knows more; then a note."""
    if scorer is None or not scorer.narrow or is_sticker_model(model):
        return scorer, []
    return None, ["the sticker models' scorer was left out, since the model is another one"]


class LoadStickerModels(io.ComfyNode):
    """Models that need no download, with a picture they know."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffLoadStickerModels",
            display_name="Load Sticker Models",
            category=CATEGORY,
            description="Small models that ship with Ref-Diff, a sample picture and the masks of "
            "its objects, so that every graph runs at once. They know forty stickers and nothing "
            "of photographs.",
            inputs=[],
            outputs=[
                output(io.Model, "model", "A UNet trained on stickers."),
                output(io.Clip, "clip", "Its text encoder."),
                output(io.Vae, "vae", "Its VAE."),
                output(SCORER, "scorer", "A CLIP trained on stickers."),
                output(io.Image, "sample", "A picture of stickers, 256 x 256."),
                output(io.Mask, "objects", "The masks of its objects, [N, 256, 256]."),
            ],
            hidden=[io.Hidden.unique_id],
            **found_by("built-in models", "sample picture", "demo models"),
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        scorer = sticker_scorer()
        words = "" if scorer else f"Note: {NO_SCORER}."
        return io.NodeOutput(
            *sticker_models(),
            scorer,
            image_of([sample()]),
            sample_objects(),
            ui=shown(cls, words=words),
        )


def sample_objects() -> Tensor:
    """The masks of the sample's objects: float32 [N, 256, 256]."""
    from ..refdiff.stickers.sample import sample_masks

    return mask_of(torch.from_numpy(sample_masks()))
