"""The families of models, told from their text's width, and the settings published for each.

Data, not code: `Settings.named` takes what stands here for a model's family. What the stickers
alone decided stands under "stickers" and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

BACKGROUND = " and other object and background"
"""What is read behind a text, so that there is a word for everything else (iSeg, 2409.03209)."""

Family = Literal["stickers", "sd1", "sd2", "sdxl", "other"]
FAMILIES: tuple[Family, ...] = get_args(Family)
NAMES: dict[Family, str] = {
    "stickers": "the built-in stickers",
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "other": "another model",
}
_TEXT_WIDTHS: dict[int, Family] = {128: "stickers", 768: "sd1", 1024: "sd2", 2048: "sdxl"}

PHOTOGRAPHS: dict[str, Any] = {
    "beta": 0.3,  # the paper; the authors' code
    # CLIP that was not trained on crops: blurred surroundings 67.6 against 61.8 for black ones
    # (mIoU on VOC, CLIP as RNN, arXiv 2312.07661)
    "crop": {"surroundings": "blur", "margin": 0.05},
    # no figure published; on maps of 16x16 places noise of a tenth of the peak makes eleven things
    # at 0.25 and few at 0.5
    "prominence": 0.5,
}
# the words that compete with what is looked for: shares of content words +8.3 mIoU on VOC with
# SD1.5 (GoCA, arXiv 2603.06178), the background's words as in iSeg (arXiv 2409.03209)
COMPETING: dict[str, Any] = {"compete": True}
UNETS = PHOTOGRAPHS | COMPETING
# the layer that says what is alike where layers weigh by that (`CaptureSettings.reference`): GoCA's
# for Stable Diffusion 1 and XL. On where its gain is published: with all layers of Stable Diffusion
# 1, 44.3 to 52.1 mIoU on VOC, against 51.1 for the coarse ones alone, which need no self-attention
REFERENCES: dict[Family, tuple[int, int]] = {
    "stickers": (16, 1),  # their first on the way up
    "sd1": (16, 3),  # up_blocks.2.attentions.1
    "sd2": (16, 3),  # the same UNet; nothing published
    "sdxl": (16, 4),  # up_blocks.1.attentions.0, its first block
}
PROFILES: dict[Family, dict[str, Any]] = {
    "stickers": {  # all chosen on the stickers' validation split
        "capture": {"strides": (32, 16)},
        "stride_weights": ((32, 0.2), (16, 0.8)),
        "prominence": 0.15,
        "faintest": 0.15,
        "unions": False,  # no sticker is seen as two; with them 0.007 fewer right objects
        "edge_reach": 0.125,
        "empty_below": 0.25,  # notices 64 % of absent things, loses 0.7 % of the present ones
    },
    "sd1": UNETS
    | {
        # 16x16 and 32x32 of 512 px by 0.7 and 0.3 (iSeg); the heads' mean, whose weights are worth
        # half a point here (GoCA). Self-attention of 64x64: down_blocks.0.1, up_blocks.3.0 and 3.1,
        # order 2 (GoCA; coarser ones cost 5.8 mIoU, order 3 0.9)
        "capture": {
            "timestep": 100,  # DiffSegmenter, iSeg, GoCA
            "strides": (32, 16),
            "background": BACKGROUND,
            "places": 8,
            "places_at": (1, 2, 3),
        },
        "stride_weights": ((32, 0.7), (16, 0.3)),
        "spread": "mean",
        # the outline's edges after propagation, a small radius (PAMR and dense CRF; no figure)
        "edges": 0.5,
        "edge_reach": 1 / 40,
    },
    "sd2": UNETS
    | {
        # iSeg on SD2.1-base, as for sd1: 68.6 mIoU on VOC with entropy-reduced self-attention, ten
        # rounds. None published for the 768 px model, whose grids are named by the same strides
        "capture": {
            "timestep": 100,
            "strides": (32, 16),
            "background": BACKGROUND,
            "places": 8,
            "places_at": (1, 2, 3),
        },
        "stride_weights": ((32, 0.7), (16, 0.3)),
        "spread": "sharp",
        "edges": 0.5,
        "edge_reach": 1 / 40,
    },
    "sdxl": UNETS
    | {
        # every layer alike, which is 6 to 1 for 1/32 of the picture, and heads by their say: 51.1
        # to 56.1 mIoU on VOC. Self-attention of 64x64 of 1024 px, order 2 (GoCA)
        "capture": {
            "timestep": 100,
            "strides": (32, 16),
            "background": BACKGROUND,
            "heads": "output",
            "places": 16,
            "places_at": (0, 1, 4, 5, 6, 7, 8),  # as their configuration names them
        },
        "stride_weights": None,
        "spread": "mean",
        "edges": 0.5,
        "edge_reach": 1 / 40,
    },
    "other": {},
}


@dataclass(frozen=True)
class Brush:
    """How a family paints where nothing is said.

    context: how much the painter sees around what is painted, in its long sides; no figure is
    published. guidance: how closely it follows the words; 7.5 is diffusers' own.
    """

    context: float = 2.0
    guidance: float = 7.5


# the stickers' painter was taught with so much around; of forty swaps on validation scenes 0.975 at
# guidance 3 and 5, 0.95 at 7.5, and 3 removes cleaner
BRUSHES: dict[Family, Brush] = {"stickers": Brush(1.25, 3.0)}

# of `fusion="calibrated"`, the weights of ln s^G, ln s^D and ln area: fitted on 240 sentences over
# 120 sticker scenes drawn in the training styles, which CLIP knows by heart
# (`python -m refdiff.stickers.training.fusion`). Other families only borrow them
CALIBRATED = (0.27, 1.97, 0.81)


def brush_of(config: Any) -> Brush:
    """How the family of a diffusers UNet paints, from its config."""
    return BRUSHES.get(family_of(config), Brush())


def family_of(config: Any) -> Family:
    """The family of a diffusers UNet, from its config."""
    return family_of_width(int(config.cross_attention_dim or 0))


def family_of_width(width: int) -> Family:
    """The family whose UNet reads text `width` numbers wide; "other" for a width not known."""
    return _TEXT_WIDTHS.get(width, "other")
