"""How long each stage takes, and what watching the attention adds to a pass of the UNet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from .attention import AttentionRecorder
from .capture import rows_of
from .clip_scorer import ClipScorer
from .diffusers_capture import DiffusersCapture, recording
from .pipeline import Look
from .settings import Settings

TEXT = "the red cat on the left"
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Timings:
    """Medians, in seconds. plain: a pass of the UNet; watched: one that gives the maps.

    ratio: of watched to plain, the median of pairs. stages: of one segmentation.
    """

    ratio: float
    plain: float
    watched: float
    stages: dict[str, float]


def measure(
    pipe: Any, clip: ClipScorer | None, runs: int = 3, progress: Progress = lambda stage: None
) -> Timings:
    """Time a pipeline at its native size on one noisy picture and one sentence.

    runs: pairs of UNet passes, and segmentations; one more of each comes first and is not counted.
    progress: called with what is about to run.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}, wanted 1 or more.")
    capture = DiffusersCapture(pipe, Settings().capture)
    picture = noisy_picture(capture.native)
    progress("passes of the UNet")
    pairs = _pairs(capture, picture, runs)
    looks = []
    for run in range(runs + 1):
        progress(f"segmentation {run + 1} of {runs + 1}")
        looks.append(Look(picture, capture, clip)(TEXT).times)
    stages = {stage: median(times[stage] for times in looks[1:]) for stage in looks[0]}
    return Timings(
        ratio=median(watched / plain for plain, watched in pairs),
        plain=median(plain for plain, _ in pairs),
        watched=median(watched for _, watched in pairs),
        stages=stages,
    )


def noisy_picture(side: int, seed: int = 0) -> Image.Image:
    """A square of coloured blots."""
    blots = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize((side, side), Image.Resampling.BICUBIC)


@torch.no_grad()
def _pairs(capture: DiffusersCapture, picture: Image.Image, runs: int) -> list[tuple[float, float]]:
    """Seconds of a plain and of a watched pass, interleaved; which comes first alternates."""
    unet = capture.pipe.unet
    latent = capture.encode(picture).latent
    sample = latent.to(unet.device, unet.dtype)
    words = torch.zeros(1, 77, unet.config.cross_attention_dim).to(sample)
    at = torch.tensor(capture.settings.timestep, device=unet.device)

    def plain() -> None:
        unet(sample, at, words, return_dict=False)

    def watched() -> None:
        recorder = AttentionRecorder(capture.layers, capture.settings.mode)
        with recording(unet, recorder, (latent.shape[2], latent.shape[3])):
            plain()
        rows_of(recorder, None)

    found = []
    for run in range(runs + 1):
        order = (plain, watched) if run % 2 else (watched, plain)
        seconds = {action: _seconds(action, unet.device) for action in order}
        found.append((seconds[plain], seconds[watched]))
    return found[1:]


def _seconds(action: Callable[[], None], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start
