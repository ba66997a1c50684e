"""What travels on the pack's own wires, and the inputs that several nodes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image

from ..refdiff.attention import TokenMaps
from ..refdiff.expression import Expression
from ..refdiff.settings import Settings
from ..refdiff.steps import Scored

CATEGORY = "Ref-Diff"

SETTINGS = io.Custom("REFDIFF_SETTINGS")
EXPRESSION = io.Custom("REFDIFF_EXPRESSION")
ATTENTION = io.Custom("REFDIFF_ATTENTION")
RECORDING = io.Custom("REFDIFF_RECORDING")
SCORES = io.Custom("REFDIFF_SCORES")
SCORER = io.Custom("REFDIFF_CLIP")
BOX = io.Custom("BOUNDING_BOX")


@dataclass(frozen=True)
class NodeSettings:
    """The method's settings, and what only nodes have to decide.

    keep_patches: let patches on the model (IP-Adapter and the like) act on our own pass too.
    raise_on_failure: stop the graph instead of answering with an empty mask and words.
    merge_lines: Segment's lines of text on one picture give one mask, their union.
    """

    method: Settings = field(default_factory=Settings)
    keep_patches: bool = False
    raise_on_failure: bool = False
    merge_lines: bool = False


@dataclass(frozen=True, eq=False)
class Attention:
    """The maps of one text's tokens over one picture.

    picture: what was looked at; None while it was still being made. size: its (height, width).
    """

    maps: TokenMaps
    expression: Expression
    size: tuple[int, int]
    picture: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class Scores:
    """What Score Proposals found about a picture's masks, all at the working size.

    kept: bool [N], which masks were scored: those with something inside. held: the presence map
    [h, w] of the root word, or None when no attention was wired in. size: the (height, width) of
    the picture.
    """

    expression: Expression
    scored: Scored
    kept: torch.Tensor
    held: torch.Tensor | None
    size: tuple[int, int]
    settings: NodeSettings


def output(kind: Any, name: str, tooltip: str, listed: bool = False, key: str = "") -> io.Output:
    """An output that goes by its name. key: its id where an input has that name already."""
    return kind.Output(key or name, display_name=name, tooltip=tooltip, is_output_list=listed)


def one_of(name: str, value: str, options: Sequence[str]) -> str:
    """A choice, which the server lets through unchecked; ValueError when it is none of them."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(options)}.")
    return value


def settings_input() -> io.Input:
    return SETTINGS.Input(
        "settings",
        optional=True,
        tooltip="Knobs of the method from Ref-Diff Settings; without it, the default profile.",
    )


def floor_input() -> io.Input:
    return io.Float.Input(
        "empty_below",
        default=Settings().empty_below,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Presence below which the answer is an empty mask.",
    )


def place_outputs() -> list[io.Output]:
    return [
        output(BOX, "box", "The masks' boxes: x, y, width, height in pixels."),
        output(io.String, "points", "A place in each mask: JSON with x and y of each."),
    ]


def text_input(tooltip: str, **changes: object) -> io.Input:
    """A text that is typed in, or an expression that was parsed already."""
    widget = io.String.Input("text", multiline=True, tooltip=tooltip, **changes)
    return io.MultiType.Input(widget, [EXPRESSION])


def model_inputs() -> list[io.Input]:
    return [
        io.Model.Input(
            "model",
            tooltip="A Stable Diffusion 1, 2 or XL model. It is read, never changed.",
        ),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
    ]
