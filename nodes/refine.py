"""Refine Mask: the outline drawn to the picture's edges, grown, filled, softened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..refdiff.masks.edges import outline
from ..refdiff.masks.refine import filled, grown, softened
from .pictures import mask_of, pictures_of, shown, stacked
from .types import CATEGORY, found_by, one_of, output

EDGES = ("off", "snap")
FALLS = ("distance", "heat")


def refined(
    mask: Tensor,
    picture: Image.Image | None,
    edges: str = "off",
    grow: int = 0,
    falloff: int = 0,
    fill: bool = False,
    heat: Tensor | None = None,
) -> Tensor:
    """A mask bool [H, W] as float32 [H, W], after edges, holes, growing and softening in turn."""
    if one_of("edges", edges, EDGES) == "snap" and picture is not None and bool(mask.any()):
        mask = outline(mask, picture)
    mask = grown(filled(mask) if fill else mask, grow)
    return softened(mask, falloff, heat)


def shape_inputs() -> list[io.Input]:
    """The widgets that Segment and Refine Mask share."""
    return [
        io.Combo.Input(
            "edges",
            options=list(EDGES),
            default=EDGES[0],
            tooltip="snap moves the outline to the picture's edges.",
        ),
        io.Int.Input(
            "grow",
            default=0,
            min=-512,
            max=512,
            tooltip="Pixels by which the mask grows; negative ones shrink it.",
        ),
        io.Int.Input(
            "falloff",
            default=0,
            min=0,
            max=1024,
            tooltip="Pixels over which the mask fades to 0 outside its core, which stays 1.",
        ),
    ]


class RefineMask(io.ComfyNode):
    """Masks in, masks ready to paint with out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffRefineMask",
            display_name="Refine Mask",
            category=CATEGORY,
            description="Draws outlines to the picture's edges, fills holes, grows and softens. "
            "Cores stay exactly 1, what is past the falloff exactly 0.",
            inputs=[
                io.Mask.Input("mask", tooltip="Masks [N, H, W]; what is 0.5 or more is inside."),
                io.Image.Input("image", tooltip="The picture of the masks, one or as many."),
                *shape_inputs(),
                io.Boolean.Input("fill_holes", default=False, tooltip="Close holes in the masks."),
                io.Combo.Input(
                    "fall_by",
                    options=list(FALLS),
                    default=FALLS[0],
                    tooltip="What softness follows: the distance alone, or the heat as well.",
                ),
                io.Mask.Input("heat", optional=True, tooltip="From Heat Map, for fall_by heat."),
            ],
            outputs=[output(io.Mask, "mask", "The refined masks.", key="refined")],
            hidden=[io.Hidden.unique_id],
            **found_by("mask blur", "blur mask", "expand", "grow mask", "feather", "fill holes"),
        )

    @classmethod
    def execute(
        cls,
        mask: Tensor,
        image: Tensor,
        edges: str,
        grow: int,
        falloff: int,
        fill_holes: bool,
        fall_by: str,
        heat: Tensor | None = None,
    ) -> io.NodeOutput:
        one_of("fall_by", fall_by, FALLS)
        pictures = pictures_of(image)
        size = (pictures[0].height, pictures[0].width)
        masks = stacked(mask, size) >= 0.5
        if fall_by == "heat" and heat is None:
            raise ValueError("fall_by is heat and no heat is wired in; wire Heat Map's heat.")
        heats = stacked(heat, size) if heat is not None and fall_by == "heat" else None
        out = torch.stack(
            [
                refined(
                    one,
                    _of(pictures, index, len(masks)),
                    edges,
                    grow,
                    falloff,
                    fill_holes,
                    None if heats is None else _of(heats, index, len(masks)),
                )
                for index, one in enumerate(masks)
            ]
        )
        return io.NodeOutput(mask_of(out), ui=shown(cls, gallery(out)))


def _of(items: Sequence[Any] | Tensor, index: int, count: int) -> Any:
    """The item of one of `count` masks, when there is one for all or one for each."""
    if len(items) not in (1, count):
        raise ValueError(
            f"There are {count} masks and {len(items)} pictures or heats; give one or {count}."
        )
    return items[index if len(items) > 1 else 0]


def gallery(masks: Tensor) -> list[Image.Image]:
    """Masks as grey pictures."""
    return [Image.fromarray((one * 255).byte().numpy()).convert("RGB") for one in masks]
