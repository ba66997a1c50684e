"""One segmentation taken apart, and sentences one after the other on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ..attention.diffusers import DiffusersBackend, DiffusersCapture
from ..attention.reader import Reader
from ..pipeline import Look, segment
from ..scoring.clip import ClipScorer
from ..settings import Settings
from .clock import clocked, now
from .passes import text_encoders

SENTENCES = (
    "the red cat on the left",
    "the small dog behind the chair",
    "a blue car next to the tree",
    "the largest cup on the table",
    "the woman with the umbrella",
    "the second bottle from the right",
    "two green apples",
    "the bird above the house",
    "the white horse in the middle",
    "the boy who holds a kite",
)
NETWORKS = ("vae", "text", "unet", "clip")
TO_HEAT = ("picture", "parse", "attention", "heat")


def noisy_picture(side: int, seed: int = 0) -> Image.Image:
    """A square of coloured blots."""
    blots = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize((side, side), Image.Resampling.BICUBIC)


class TimedBackend(DiffusersBackend):
    """Says how many seconds the UNet was running."""

    seconds = 0.0

    def run(self, *args: Any) -> None:
        start = now(self.pipe.unet.device)
        super().run(*args)
        self.seconds += now(self.pipe.unet.device) - start


def stages(pipe: Any, clip: ClipScorer, picture: Image.Image, text: str) -> dict[str, float]:
    """Seconds of one `segment` from a picture to its mask; they add up to its whole time.

    vae, text and clip are the networks alone, unet its pass with the reduction of the attention
    within it and the noise; the rest is what is added around them.
    clip_input is the cutting out of proposals for CLIP, other what no stage is named for.
    """
    networks = {
        "vae": [pipe.vae],
        "text": text_encoders(pipe),
        "clip": [clip.model],
    }
    device, backend = pipe.unet.device, TimedBackend(pipe)
    capture = Reader(backend)
    with clocked(networks, device) as spent:
        start = now(device)
        times = segment(picture, text, capture, clip).times
        total = now(device) - start
    spent["unet"] = backend.seconds
    inside = {
        "parse": times["parse"],
        **spent,
        "picture": times["picture"] - spent["vae"],
        "token_maps": times["attention"] - spent["text"] - spent["unet"],
        "heat": times["heat"],
        "proposals": times["proposals"],
        "clip_input": times["clip"] - spent["clip"],
        "fusion": times["fusion"],
        "mask": times["mask"],
    }
    return {**inside, "other": total - sum(inside.values())}


def overhead(found: dict[str, float]) -> float:
    """The share of one segmentation's seconds that no network takes."""
    total = sum(found.values())
    return (total - sum(found[name] for name in NETWORKS)) / total


def to_heat(
    pipe: Any, picture: Image.Image, texts: Sequence[str], settings: Settings | None = None
) -> list[float]:
    """Seconds from each sentence to its heat, without CLIP; the first also pays for the picture."""
    look = Look(picture, DiffusersCapture(pipe), None, settings)
    found: list[float] = []
    for text in texts:
        times = look(text).times
        stages = TO_HEAT[1:] if found else TO_HEAT
        found.append(sum(times[stage] for stage in stages))
    return found


def stored(settings: Settings | None = None) -> Settings:
    """The same with the queries of the first sentence's pass kept for the others."""
    settings = settings or Settings()
    return replace(settings, capture=replace(settings.capture, queries="first"))
