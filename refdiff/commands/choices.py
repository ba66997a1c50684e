"""`refdiff eval choices`: the default against itself with one choice changed, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..families import BACKGROUND, REFERENCES
from .common import Clip, Debug, Device, Dtype, Model, Ready, guarded, make_ready
from .compare import Variant, limited, measured, without_clip
from .console import say
from .evaluate import Data, Limit, Split, folder_of

if TYPE_CHECKING:
    from ..settings import Settings

CAPTURE: dict[str, dict[str, Any]] = {
    "t = 50": {"timestep": 50},
    "t = 200": {"timestep": 200},
    "t = 300": {"timestep": 300},
    "1/32 of the picture alone": {"strides": (32,)},
    "1/16 of the picture alone": {"strides": (16,)},
    "logarithms of probabilities": {"mode": "log_probabilities"},
    "logits, guidance 9": {"mode": "logits", "guidance": 9.0},
    "fast: down path and middle only": {"layers": "down"},
    "queries kept from the first sentence": {"queries": "first"},
    "queries kept from an empty sentence": {"queries": "empty"},
    "4 noises averaged": {"seeds": 4},
    "t = 50, 150, 250 averaged": {"timesteps": (50, 150, 250)},
    "mirrored picture averaged": {"flip": True},
}
METHOD: dict[str, dict[str, Any]] = {
    "every layer weighs alike": {"stride_weights": None},
    "edges not followed": {"edges": 0.0},
    "edges half followed": {"edges": 0.5},
    "peaks told apart from a prominence of 0.5": {"prominence": 0.5},
    "19 cuts, contrast (the paper)": {"proposals": "cuts", "score": "contrast"},
    "19 cuts, Otsu": {"proposals": "cuts", "score": "otsu"},
    "19 cuts and their parts, Otsu": {"proposals": "parts", "score": "otsu"},
    "the paper's sum of raw scores": {"fusion": "sum", "place_weight": 0.2},
    "product of ranks": {"fusion": "rank"},  # the default is the product of shares
    "calibrated on training scenes": {"fusion": "calibrated"},
    "alpha = 0.1": {"alpha": 0.1},
    "alpha = 0.5": {"alpha": 0.5},
    "beta = 0 (crops alone)": {"beta": 0.0},
    "beta = 1 (masked attention alone)": {"beta": 1.0},
    "CLIP reads sentence and phrase": {"clip_text": "paper"},
    "CLIP reads 'a photo of a ...'": {"clip_templates": ("a photo of a {}",)},
    "a red circle around the crop": {"crop": {"circle": True}},
    "crop on a blurred ground": {"crop": {"surroundings": "blur"}},
    "crop on the mean colour": {"crop": {"surroundings": "mean"}},
    "crop on it, from near and from farther": {"crop": {"surroundings": "mean", "wider": 0.2}},
    "place weighs half": {"place_weight": 1.0},
    "place weighs double": {"place_weight": 4.0},
    "no place, size, order, relation": {"place_rule": "none"},
}
PUBLISHED: dict[str, dict[str, Any]] = {  # of maps; see `families`
    "words compete": {"compete": True, "capture": {"background": BACKGROUND}},
    "spread along self-attention, order 2": {"spread": "mean", "capture": {"places": 16}},
    "spread along sharpened self-attention": {"spread": "sharp", "capture": {"places": 16}},
    "regions of self-attention are candidates": {
        "proposals": "regions",
        "capture": {"places": 16},
    },
    "heads by what they say": {"capture": {"heads": "output"}},
    "all but sharpened": {
        "compete": True,
        "spread": "mean",
        "capture": {"background": BACKGROUND, "places": 16, "heads": "output"},
    },
}
HEADS = ("generative: mIoU", "right", "both: mIoU", "right", "given masks: right")


def choices(
    data: Data = None,
    split: Split = "validation",
    model: Model = None,
    clip: Clip = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    debug: Debug = False,
) -> None:
    """Print what each choice of the default profile is worth, one changed at a time.

    Columns: own proposals by the generative half alone and by both halves, and the objects' own
    masks by both. Rows that differ in nothing the UNet sees share its passes. The output is
    markdown.
    """
    with guarded(debug):
        from ..evaluation import read_scenes

        scenes = limited(read_scenes(folder_of(data, split)), limit)
        ready = make_ready(model, clip, device, dtype, "default", None, 0)
        rows = {name: _cells(name, own) for name, own in variants(ready)}
        plain = measured(scenes, [cell for cells in rows.values() for cell in cells])
        say(_table(rows, plain))


def variants(ready: Ready) -> Iterator[tuple[str, Ready]]:
    """The default, then the default with one choice changed; equal captures are shared."""
    from ..evaluation.shared_capture import SharedCapture

    base = ready.settings
    rows: dict[str, Settings] = {"default": base}
    rows |= {name: base.changed(changes) for name, changes in {**METHOD, **PUBLISHED}.items()}
    rows |= {name: base.changed({"capture": changes}) for name, changes in CAPTURE.items()}
    if base.family in REFERENCES:
        named = {"reference": REFERENCES[base.family]}
        rows["layers by what they link"] = base.changed({"capture": named})
    shared = {
        settings.capture: SharedCapture(ready.capture, settings.capture)
        for settings in rows.values()
    }
    for name, settings in rows.items():
        if name != "default" and settings == base:
            continue  # this family's own choice
        yield name, replace(ready, capture=shared[settings.capture], settings=settings)


def _cells(name: str, ready: Ready) -> list[Variant]:
    """Generative and both with own proposals, both with given masks."""
    return [
        Variant(f"{name}, generative", without_clip(ready), False),
        Variant(f"{name}, both", ready, False),
        Variant(f"{name}, given", ready, True),
    ]


def _table(rows: dict[str, list[Variant]], plain: dict[str, dict[str, Any]]) -> str:
    from ..evaluation.report import markdown

    written = []
    for name, cells in rows.items():
        own, both, given = (plain[cell.name]["overall"] for cell in cells)
        figures = (own["miou"], own["right_object"], both["miou"], both["right_object"])
        texts = [f"{figure:.3f}" for figure in (*figures, given["right_object"])]
        written.append([name, *texts])
    return markdown(["", *HEADS], written)
