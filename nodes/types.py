"""What travels on the pack's own wires, and the inputs that several nodes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image

from ..refdiff.attention.maps import TokenMaps
from ..refdiff.errors import RefDiffError
from ..refdiff.expression import Expression
from ..refdiff.families import Family
from ..refdiff.finding import Found
from ..refdiff.settings import Settings
from .profiles import settings_of

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

    profile, changes: what was asked for (`Settings.changed`); the rest is the profile's own, which
    depends on the model's family. keep_patches: let patches on the model (IP-Adapter and the like)
    act on our own pass too.
    raise_if_nothing_found: stop the graph instead of answering with an empty mask and words.
    merge_lines: Segment's lines of text on one picture give one mask, their union.
    """

    profile: str = "default"
    changes: Mapping[str, Any] = field(default_factory=dict)
    keep_patches: bool = False
    raise_if_nothing_found: bool = False
    merge_lines: bool = False

    def method(self, family: Family) -> Settings:
        """The settings for a family of models."""
        return settings_of(self.profile, family).changed(self.changes)


@dataclass(frozen=True, eq=False)
class Attention:
    """The maps of one text's tokens over one picture.

    picture: what was looked at; None while it was still being made. size: its (height, width).
    family: of the model that looked. thing: the maps of any thing, where the text names none.
    """

    maps: TokenMaps
    family: Family
    expression: Expression
    size: tuple[int, int]
    picture: Image.Image | None = None
    thing: TokenMaps | None = None


@dataclass(frozen=True, eq=False)
class Scores:
    """What Score Proposals found about a picture's masks, all at the working size.

    found: of each thing that the sentence looks for, the first one's first. kept: bool [N], which
    masks were scored: those with something inside. size: the (height, width) of the picture.
    """

    found: tuple[Found, ...]
    kept: torch.Tensor
    size: tuple[int, int]
    settings: NodeSettings
    method: Settings


def output(kind: Any, name: str, tooltip: str, listed: bool = False, key: str = "") -> io.Output:
    """An output that goes by its name. key: its id where an input has that name already."""
    return kind.Output(key or name, display_name=name, tooltip=tooltip, is_output_list=listed)


class NothingFound(RefDiffError):
    """The answer is that there is no such thing, and it was asked that this stop the graph."""


def found_by(*words: str) -> dict[str, list[str]]:
    """What io.Schema takes besides, so that a node is found by these words where it can be."""
    known = "search_aliases" in {item.name for item in fields(io.Schema)}
    return {"search_aliases": list(words)} if known else {}


def folded(widget: io.Input) -> io.Input:
    """A widget that few need: shown with the advanced ones, by front ends that fold them."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


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
        default=-1.0,
        min=-1.0,
        max=1.0,
        step=0.01,
        tooltip="Presence below which the answer is an empty mask; -1: as the model's profile, "
        "0: never.",
    )


def place_outputs() -> list[io.Output]:
    return [
        output(
            BOX,
            "box",
            "A list for each picture: x, y, width, height of its masks in pixels, and in mask "
            "which one; a mask with nothing in it has none.",
        ),
        output(
            io.String,
            "points",
            "For each picture JSON with x and y of a place in each of its masks.",
            listed=True,
        ),
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
