"""Candidates drawn over the picture, each with the number by which it is chosen."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..refdiff.masks.instances import best_of_each, same_object
from ..refdiff.result import Segmentation
from .pictures import data_url, image_of, middles_of, only_picture, shown, stacked
from .types import CATEGORY, SCORES, Scores, found_by, output

MOST = 64
"""Candidates that are drawn; the first of them."""
SIDE = 512
"""Long side in pixels of the maps that are sent."""
CANDIDATES = "refdiff_candidates"
"""Where a front end finds the maps among what a node shows."""
_TURN = 0.381966  # of the colour circle from one candidate to the next: the golden angle
_BLUE, _YELLOW = 0.6, 0.15
_INK = (18, 18, 26)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Candidates over their picture, and where each of them is.

    labels: small, mode L: at each pixel the number of a candidate, 0 for none.
    """

    picture: Image.Image
    labels: Image.Image


def ranked(result: Segmentation) -> Tensor:
    """The different candidates of an answer, best first: bool [N, h, w], as `choice` counts."""
    scores = torch.tensor([candidate.score for candidate in result.candidates])
    return result.masks[best_of_each(scores, same_object(result.masks, scores))]


def numbered(picture: Image.Image, masks: Tensor, chosen: Tensor | None = None) -> Drawn:
    """The picture under its candidates bool [N, H, W], the first called 1.

    chosen: bool [H, W], framed in white.
    """
    canvas = np.asarray(picture.convert("RGB")).astype(float) * 0.6
    masks = masks[:MOST]
    for index, mask in reversed(list(enumerate(masks.numpy()))):
        canvas[mask] = 0.55 * canvas[mask] + 0.45 * np.array(colour(index))
        canvas[_edge(mask)] = colour(index)
    if chosen is not None:
        canvas[_edge(chosen.numpy())] = 255
    drawn = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    labels = _labels(masks)
    for index, place in enumerate(middles_of(masks)):
        if place is not None:
            _write(drawn, str(index + 1), place, colour(index))
            ImageDraw.Draw(labels).ellipse(_disc(drawn, place), fill=index + 1)
    labels.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    return Drawn(drawn, labels)


def clickable(told: dict[str, Any], drawn: Sequence[Drawn], first: int = 0) -> dict[str, Any]:
    """What a node shows, with the maps of its pictures from `first` on, known by their files."""
    files = [one["filename"] for one in told["images"][first : first + len(drawn)]]
    maps = [
        {"filename": file, "labels": data_url(one.labels, "png")}
        for file, one in zip(files, drawn, strict=True)
    ]
    return {**told, CANDIDATES: maps}


def _labels(masks: Tensor) -> Image.Image:
    """The number of the smallest candidate at each pixel, so that none hides another."""
    labels = np.zeros(masks.shape[1:], np.uint8)
    for index in masks.flatten(1).sum(1).argsort(descending=True).tolist():
        labels[masks[index].numpy()] = index + 1
    return Image.fromarray(labels)


def colour(index: int) -> tuple[int, int, int]:
    """A bright colour for each candidate, far from those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb((_BLUE + index * _TURN) % 1, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _edge(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    width = max(1, max(mask.shape) // 300)
    return mask & ~ndimage.binary_erosion(mask, iterations=width)


def _disc(picture: Image.Image, place: tuple[int, int]) -> tuple[float, float, float, float]:
    """left, top, right, bottom of the disc of a number, kept inside the picture; place: (x, y)."""
    reach = _size(picture) * 0.75
    x, y = (
        min(max(at, reach), side - 1 - reach) for at, side in zip(place, picture.size, strict=True)
    )
    return x - reach, y - reach, x + reach, y + reach


def _size(picture: Image.Image) -> int:
    """Of the numbers, in pixels."""
    return max(12, min(picture.size) // 18)


def _write(picture: Image.Image, text: str, place: tuple[int, int], tint: tuple) -> None:
    """A number in a disc; place: its (x, y)."""
    left, top, right, bottom = disc = _disc(picture, place)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_size(picture))
    draw.ellipse(disc, fill=_INK, outline=tint, width=2)
    middle = (left + right) / 2, (top + bottom) / 2
    draw.text(middle, text, fill=(255, 255, 255), font=font, anchor="mm")


class ShowCandidates(io.ComfyNode):
    """Masks in, the picture with each of them numbered out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffShowCandidates",
            display_name="Show Candidates",
            category=CATEGORY,
            description="Draws masks over their picture, each with its number: its place among "
            "the masks, or with scores wired in its rank, as Choose Mask's rank counts.",
            inputs=[
                io.Image.Input("image", tooltip="The picture of the masks."),
                io.Mask.Input("masks", tooltip="Candidates [N, H, W], from any segmenter."),
                SCORES.Input("scores", optional=True, tooltip="From Score Proposals."),
            ],
            outputs=[output(io.Image, "drawn", "The picture with numbered candidates.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **found_by("numbered masks", "mask preview", "set of mark", "pick mask"),
        )

    @classmethod
    def execute(cls, image: Tensor, masks: Tensor, scores: Scores | None = None) -> io.NodeOutput:
        picture = only_picture(image, "Show Candidates")
        full = stacked(masks, (picture.height, picture.width)) >= 0.5
        if scores is not None:
            if len(scores.kept) != len(full):
                raise ValueError(
                    f"There are {len(full)} masks and scores for {len(scores.kept)}; wire the "
                    "masks that were scored."
                )
            found = scores.found[0].scored
            order = best_of_each(found.total, same_object(found.masks, found.total))
            full = full[scores.kept.nonzero()[order, 0]]
        drawn = numbered(picture, full)
        words = "" if len(full) else "The segmenter found nothing: there are no candidates."
        told = shown(cls, [drawn.picture], words) or {}
        ranks = [] if scores is None else [drawn]  # Choose Mask knows no places, only ranks
        return io.NodeOutput(image_of([drawn.picture]), ui=clickable(told, ranks))
