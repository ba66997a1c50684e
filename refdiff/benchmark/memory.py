"""Peaks of live tensor bytes, from the profiler, in a process of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

from torch.profiler import ProfilerActivity, profile

from .passes import heat_of, latent_of, plain_pass
from .random_models import random_pipeline, random_xl_pipeline


@dataclass(frozen=True)
class Peak:
    """Bytes of live tensors beyond those there before, at most: of a plain pass and of ours."""

    model: str
    pixels: int
    plain: int
    ours: int

    @property
    def above(self) -> float:
        """Our peak above the plain pass's, as a share of it; below 0 where ours is lower."""
        return self.ours / self.plain - 1


def peaks_in_child(model: str, sides: Sequence[int], tiny: bool, text: str) -> list[Peak]:
    """`peaks` in a new process, so that nothing else is alive; with random weights on the CPU."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peaks, model, sides, tiny, text).result()


def peaks(model: str, sides: Sequence[int], tiny: bool, text: str) -> list[Peak]:
    """Of a plain pass and of reading one text, at each side in pixels.

    model: "sd1" in float32, or "sdxl" in bfloat16.
    """
    from ..attention.diffusers import DiffusersCapture
    from ..settings import Settings

    pipe = random_xl_pipeline() if model == "sdxl" else random_pipeline(tiny)
    family = DiffusersCapture(pipe).family
    capture = DiffusersCapture(pipe, Settings.named("default", family).capture)
    found = []
    for side in sides:
        plain = plain_pass(pipe, side)
        picture = latent_of(pipe, side)
        ours = peak_of(partial(heat_of, capture, picture, [text]))
        found.append(Peak(model, side, peak_of(plain), ours))
    return found


def peak_of(action: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once during one call, beyond those before, on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most
