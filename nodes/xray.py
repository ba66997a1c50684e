"""Prompt X-ray: one sheet of what every word of a prompt drew, or finds."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..refdiff.errors import WordError
from ..refdiff.expression import Word
from ..refdiff.io.overlay import tile
from .expression import asked_words, found_word
from .heat import labelled_heat, word_heat
from .pictures import image_of, only_picture, shown
from .types import ATTENTION, CATEGORY, Attention, NodeSettings, found_by, output, settings_input

WIDTH = 320
"""Of one picture on the sheet, in pixels."""
MOST_WORDS = 77
_MORE, _LESS = (250, 120, 60), (70, 130, 250)
Canvas = Image.Image


class PromptXRay(io.ComfyNode):
    """Attention in, a labelled sheet out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffPromptXRay",
            display_name="Prompt X-ray",
            category=CATEGORY,
            description="A sheet with the heat of every word of a prompt: what it drew (from "
            "Collect Attention) or what it finds (from Attention from Image). With the attention "
            "of another model, such as the one without the LoRA, both and their difference.",
            inputs=[
                ATTENTION.Input("attention", tooltip="From Attention from Image or Collect."),
                io.String.Input(
                    "words",
                    default="*",
                    tooltip="Words of the prompt, separated by commas. *: all words.",
                ),
                ATTENTION.Input(
                    "other",
                    optional=True,
                    tooltip="The same words read by another model, such as the one without a LoRA.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The finished picture, for attention that was recorded.",
                ),
                io.Image.Input(
                    "other_image",
                    optional=True,
                    tooltip="The other model's finished picture.",
                ),
                settings_input(),
            ],
            outputs=[output(io.Image, "sheet", "Each word's heat over the picture, labelled.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **found_by("daam", "attention heatmap", "prompt analysis", "explain prompt", "lora"),
        )

    @classmethod
    def execute(
        cls,
        attention: Attention,
        words: str,
        other: Attention | None = None,
        image: Tensor | None = None,
        other_image: Tensor | None = None,
        settings: NodeSettings | None = None,
    ) -> io.NodeOutput:
        settings = settings or NodeSettings()
        asked = asked_words(attention.expression, words)[:MOST_WORDS]
        canvas = _canvas(attention, image)
        method, size = settings.method(attention.family), (canvas.height, canvas.width)
        heats = [word_heat(attention, word, method, size) for word in asked]
        if other is None:
            pictures = [labelled_heat(canvas, heat, "") for heat in heats]
            sheet = tile(pictures, [word.text for word in asked], width=WIDTH)
            return io.NodeOutput(image_of([sheet]), ui=shown(cls, [sheet]))
        beside = _canvas(other, other_image)
        pictures, labels = [], []
        for word, heat in zip(asked, heats, strict=True):
            before = _same_word(other, word, settings, (beside.height, beside.width))
            pictures += [labelled_heat(canvas, heat, "")]
            pictures += [beside if before is None else labelled_heat(beside, before, "")]
            pictures += [_difference(canvas, heat, before)]
            labels += [word.text, f"{word.text}: other", f"{word.text}: difference"]
        sheet = tile(pictures, labels, columns=3, width=WIDTH)
        return io.NodeOutput(image_of([sheet]), ui=shown(cls, [sheet]))


def _known(attention: Attention, image: Tensor | None) -> Canvas | None:
    return attention.picture if image is None else only_picture(image, "Prompt X-ray")


def _canvas(attention: Attention, image: Tensor | None) -> Canvas:
    size = attention.size[1], attention.size[0]
    return _known(attention, image) or Image.new("RGB", size, "grey")


def _same_word(
    other: Attention, word: Word, settings: NodeSettings, size: tuple[int, int]
) -> Tensor | None:
    """The other model's heat of the word; None where its text has no such word."""
    try:
        own = found_word(other.expression.text, word.text)
        return word_heat(other, own, settings.method(other.family), size)
    except WordError:
        return None


def _difference(canvas: Canvas, heat: Tensor, other: Tensor | None) -> Canvas:
    """Orange where the heat is more than the other's, blue where it is less."""
    other = torch.zeros_like(heat) if other is None else other
    if other.shape != heat.shape:
        other = torch.nn.functional.interpolate(other[None, None], heat.shape)[0, 0]
    change = (heat - other).clamp(-1, 1).numpy()
    tint = np.where(change[..., None] > 0, _MORE, _LESS).astype(np.uint8)
    grey = canvas.convert("L").convert("RGB")
    colours = Image.fromarray(tint).resize(grey.size)
    share = Image.fromarray((np.abs(change) * 230).astype(np.uint8)).resize(grey.size)
    return Image.composite(colours, grey, share)
