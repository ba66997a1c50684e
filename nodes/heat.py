"""Attention from Image, and Heat Map: what each word of a text looks at."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..refdiff.capture import Capture
from ..refdiff.errors import WordError
from ..refdiff.expression import Expression, Word
from ..refdiff.heat import enlarged, to_tensor, working_size
from ..refdiff.overlay import draw_overlay
from ..refdiff.steps import heat_of
from .capture import ComfyCapture
from .expression import asked_words, told, understood
from .pictures import image_of, mask_of, only_picture, shown
from .store import StoredCapture
from .wires import (
    ATTENTION,
    CATEGORY,
    Attention,
    NodeSettings,
    model_inputs,
    output,
    settings_input,
    text_input,
)
from .world import caution


def capture_of(model: Any, clip: Any, vae: Any, settings: NodeSettings) -> Capture:
    """Reads these models' attention as the settings say."""
    own = ComfyCapture(model, clip, vae, settings.method.capture, settings.keep_patches)
    return StoredCapture(own)


def word_heat(
    attention: Attention,
    word: Word,
    settings: NodeSettings,
    picture: Image.Image | None = None,
) -> Tensor:
    """The heat of a word of the attention's text, [h, w] at the working size.

    picture: whose edges it follows; the attention's own unless given.
    """
    picture = picture or attention.picture
    size = working_size(attention.size if picture is None else (picture.height, picture.width))
    pixels = None if picture is None else to_tensor(picture, size)
    columns = attention.maps.columns(word.start, word.end)
    return heat_of(attention.maps, columns, size, settings.method, pixels)


def labelled_heat(picture: Image.Image, heat: Tensor, label: str) -> Image.Image:
    """The heat over the picture, with the word it belongs to."""
    nothing = torch.zeros(picture.height, picture.width, dtype=torch.bool)
    return draw_overlay(picture, heat, nothing, label)


class AttentionFromImage(io.ComfyNode):
    """One pass of the UNet over a picture; the attention of every word of the text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffAttentionFromImage",
            display_name="Attention from Image",
            category=CATEGORY,
            description="Shows the picture and the text to the UNet once and keeps what every "
            "word looked at.",
            inputs=[
                *model_inputs(),
                io.Image.Input("image", tooltip="One picture; lists are taken one by one."),
                text_input("The sentence, or an expression from Parse Expression."),
                settings_input(),
            ],
            outputs=[output(ATTENTION, "attention", "For Heat Map and Score Proposals.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Tensor,
        text: str | Expression,
        settings: NodeSettings | None = None,
    ) -> io.NodeOutput:
        settings = settings or NodeSettings()
        picture = only_picture(image, "Attention from Image")
        expression, notes = understood(text)
        capture = capture_of(model, clip, vae, settings)
        (maps,) = capture.read(capture.encode(picture), [expression.text])
        size = (picture.height, picture.width)
        words = told(expression.summary(), [*notes, *caution(model, picture)])
        return io.NodeOutput(Attention(maps, expression, size, picture), ui=shown(cls, words=words))


class HeatMap(io.ComfyNode):
    """Words in, heat out: where the UNet looked for them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffHeatMap",
            display_name="Heat Map",
            category=CATEGORY,
            description="The heat of words of the text, from attention that was read or recorded.",
            inputs=[
                ATTENTION.Input("attention", tooltip="From Attention from Image or Collect."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words of the text, separated by commas: nouns, tags, LoRA triggers, "
                    "embedding:name. Empty: the root word. *: all words.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The finished picture, for attention that was recorded while it was "
                    "made: the heat follows its edges and is drawn over it.",
                ),
                settings_input(),
            ],
            outputs=[
                output(io.Mask, "heat", "Heat 0..1, one for each word: [K, H, W]."),
                output(io.Image, "overlay", "The heat over the picture, labelled."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        attention: Attention,
        words: str,
        image: Tensor | None = None,
        settings: NodeSettings | None = None,
    ) -> io.NodeOutput:
        settings = settings or NodeSettings()
        picture = None if image is None else only_picture(image, "Heat Map")
        picture = picture or attention.picture
        size = attention.size if picture is None else (picture.height, picture.width)
        canvas = picture or Image.new("RGB", (size[1], size[0]), "grey")
        try:
            asked = asked_words(attention.expression, words)
            heats = [word_heat(attention, word, settings, picture) for word in asked]
        except WordError as error:
            if settings.raise_on_failure:
                raise
            nothing = torch.zeros(1, *size)
            return io.NodeOutput(nothing, image_of([canvas]), ui=shown(cls, [canvas], str(error)))
        drawn = [
            labelled_heat(canvas, heat, word.text) for heat, word in zip(heats, asked, strict=True)
        ]
        full = torch.stack([enlarged(heat, size) for heat in heats])
        return io.NodeOutput(mask_of(full), image_of(drawn), ui=shown(cls, drawn))
