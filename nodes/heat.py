"""Attention from Image, and Heat Map: what each word of a text looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..refdiff.attention.capture import Capture
from ..refdiff.expression import Expression, Noun, Word, pictured
from ..refdiff.io.overlay import draw_overlay
from ..refdiff.masks.resize import upsample, working_size
from ..refdiff.settings import Settings
from ..refdiff.steps import THING, asks_for_a_thing, noun_columns, read_heat
from .backend import ComfyCapture
from .expression import asked_words, understood, with_notes
from .load_stickers import caution
from .maps_cache import remembering
from .pictures import image_of, mask_of, only_picture, shown
from .types import (
    ATTENTION,
    CATEGORY,
    Attention,
    NodeSettings,
    found_by,
    model_inputs,
    output,
    settings_input,
    text_input,
)
from .unet import check_model, family


def capture_of(model: Any, clip: Any, vae: Any, settings: NodeSettings) -> Capture:
    """Reads these models' attention as the settings say."""
    check_model(model)
    keep, seen = settings.keep_patches, settings.method(family(model)).capture
    reader = ComfyCapture(model, clip, vae, seen, keep)
    return remembering(reader, (model, clip, vae), keep)


def word_heat(
    attention: Attention, word: Word, method: Settings, size: tuple[int, int] | None = None
) -> Tensor:
    """The heat of a word of the attention's text, [h, w] at the working size.

    size: the (height, width) of the picture it is wanted for; the attention's own unless given.
    """
    return words_heat(attention, [word], method, size)


def words_heat(
    attention: Attention,
    words: Sequence[Word],
    method: Settings,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The heat of several words together; of one that names no thing, "one", that of any thing."""
    thing = attention.thing is not None and not any(map(pictured, words))
    maps = attention.thing if thing else attention.maps
    nouns = [Noun(word, word.text, word.text) for word in words]
    columns = tuple(dict.fromkeys(k for noun in nouns for k in noun_columns(noun, maps)))
    working = working_size(size or attention.size, method.working)
    return read_heat(maps, columns, working, method)


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
            **found_by("daam", "cross attention", "attention heatmap", "read attention"),
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
        thing = [THING] if asks_for_a_thing(expression) else []
        maps, *more = capture.read(capture.encode(picture), [expression.text, *thing])
        size = (picture.height, picture.width)
        words = with_notes(expression.summary(), [*notes, *caution(model, picture)])
        attention = Attention(maps, capture.family, expression, size, picture, *more)
        return io.NodeOutput(attention, ui=shown(cls, words=words))


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
                    "made: the heat is drawn over it.",
                ),
                settings_input(),
            ],
            outputs=[
                output(io.Mask, "heat", "Heat 0..1, one for each word: [K, H, W]."),
                output(io.Image, "overlay", "The heat over the picture, labelled."),
            ],
            hidden=[io.Hidden.unique_id],
            **found_by("daam", "attention heatmap", "attention map", "heatmap", "cross attention"),
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
        asked = asked_words(attention.expression, words)
        method = settings.method(attention.family)
        heats = [word_heat(attention, word, method, size) for word in asked]
        drawn = [
            labelled_heat(canvas, heat, word.text) for heat, word in zip(heats, asked, strict=True)
        ]
        full = torch.stack([upsample(heat, size) for heat in heats])
        return io.NodeOutput(mask_of(full), image_of(drawn), ui=shown(cls, drawn))
