"""The benchmark from top to bottom: models are built, timed and freed one after the other."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from ..attention.diffusers import DiffusersCapture
from ..attention.text_encoding import encode_texts
from ..scoring.clip import ClipScorer
from .clock import flops, interleaved, ratio, seconds
from .curve import Curve
from .growth import growth
from .look import SENTENCES, noisy_picture, overhead, stages, stored, to_heat
from .memory import Peak, peaks_in_child
from .passes import heat_of, latent_of, plain_pass, readings, traced_step, unet_part
from .random_models import random_clip, random_clipseg, random_pipeline, random_sam

OFFICIAL_BATCHES = 2  # the authors' two DDIM steps, each one batch: without the text, and with it
SAMPLING_STEPS = 20
SEGMENTATIONS = 3
LABELLINGS = 3
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Task:
    """What is measured. runs: turns of the UNet's passes; at most 3 segmentations are timed."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    tiny: bool = False
    runs: int = 5
    growth: bool = False
    sdxl: bool = False

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ValueError(f"runs is {self.runs}, wanted 1 or more.")


@dataclass
class Report:
    """Figures found so far. ratios are numbers, not percentages; seconds are medians.

    flops: of matrix products, convolutions and attention. stages: seconds of one warm
    segmentation. machine: where it ran.
    """

    machine: dict[str, Any]
    ratios: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    memory: list[Peak] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; shares of memory are worked out."""
        plain = asdict(self)
        plain["memory"] = [asdict(peak) | {"above": peak.above} for peak in self.memory]
        return plain


def measure(task: Task, progress: Progress = lambda step: None) -> Report:
    """Every figure of the table. progress: called with what is about to be measured."""
    report = Report(machine(task))
    progress("building random models of Stable Diffusion and CLIP")
    pipe = random_pipeline(task.tiny)
    clip = random_clip(task.tiny)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, clip.model):
        _placed(part, task)
    _passes(report, pipe, task.runs, progress)
    _segmentation(report, pipe, clip, task.runs, progress)
    _schedules(report, pipe, progress)
    if task.growth:
        scale, turns = 0.35 if task.tiny else 1.0, min(task.runs, LABELLINGS)
        report.curves = growth(pipe, clip, progress, scale, turns)
    del pipe, clip
    gc.collect()  # what is measured next needs the room
    _rivals(report, task, progress)
    _memory(report, task, progress)
    return report


def machine(task: Task) -> dict[str, Any]:
    """What the figures depend on: processor, threads, device, number format, model size."""
    there = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    name = torch.cuda.get_device_name(task.device) if task.device.type == "cuda" else None
    return {
        "cpu": _processor(),
        "cores": len(there(0)),
        "threads": torch.get_num_threads(),
        "device": name or str(task.device),
        "dtype": str(task.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "model": "tiny" if task.tiny else "Stable Diffusion 1.5's size, random weights",
        "runs": task.runs,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _placed(module: nn.Module, task: Task) -> Any:
    return nn.Module.to(module, task.device, task.dtype)


@torch.no_grad()
def _passes(report: Report, pipe: Any, runs: int, progress: Progress) -> None:
    """A plain pass of the UNet against its part in reading a text, in each of `readings`."""
    captures = {name: DiffusersCapture(pipe, own) for name, own in readings(pipe).items()}
    report.machine["pixels"] = captures["ours"].native
    picture, texts = latent_of(pipe, captures["ours"].native), [SENTENCES[0]]
    plain = plain_pass(pipe, captures["ours"].native)
    progress("counting operations")
    encoding = flops(lambda: encode_texts(pipe, texts))
    report.flops["unet_plain"] = flops(plain)
    for name, capture in captures.items():
        counted = flops(partial(heat_of, capture, picture, texts))
        report.flops[f"unet_{name}"] = counted - encoding
    progress("passes of the UNet, in turn")
    actions = {"unet_plain": partial(seconds, plain, pipe.unet.device)}
    for name, capture in captures.items():
        actions[f"unet_{name}"] = partial(unet_part, pipe, capture, picture, texts)
    found = interleaved(actions, runs)
    report.seconds |= {name: median(each) for name, each in found.items()}
    for name in captures:
        report.ratios[f"{name}_vs_plain_pass"] = ratio(found, f"unet_{name}", "unet_plain")
        report.ratios[f"{name}_flops_vs_plain_pass"] = (
            report.flops[f"unet_{name}"] / report.flops["unet_plain"]
        )


def _segmentation(
    report: Report, pipe: Any, clip: ClipScorer, runs: int, progress: Progress
) -> None:
    """The stages of one warm segmentation, then further sentences from stored queries."""
    picture = noisy_picture(report.machine["pixels"])
    runs, found = min(runs, SEGMENTATIONS), []
    for run in range(runs + 1):
        progress(f"segmentation {run} of {runs}" if run else "segmentation, to warm up")
        found.append(stages(pipe, clip, picture, SENTENCES[0]))
    found = found[1:]
    report.stages = {name: median(one[name] for one in found) for name in found[0]}
    report.seconds["segment"] = median(sum(one.values()) for one in found)
    report.ratios["overhead"] = median(map(overhead, found))
    progress("ten sentences, queries stored")
    first, *others = to_heat(pipe, picture, SENTENCES, stored())
    report.seconds |= {"first_sentence": first, "next_sentence": max(others)}
    report.ratios["next_sentence"] = max(others) / first


def _schedules(report: Report, pipe: Any, progress: Progress) -> None:
    """The official schedule and a traced sampling: one batch of each is timed and multiplied."""
    pixels, device = report.machine["pixels"], pipe.unet.device
    progress(f"official schedule: one batch of 2 at {2 * pixels} px")
    official = seconds(plain_pass(pipe, 2 * pixels, rows=2), device)
    progress("DAAM-style tracing: one step of a guided sampling")
    step = seconds(traced_step(pipe, pixels), device)
    report.seconds |= {"official": OFFICIAL_BATCHES * official, "daam": SAMPLING_STEPS * step}
    for name in ("official", "daam"):
        report.ratios[f"{name}_vs_ours"] = report.seconds[name] / report.seconds["unet_ours"]


def _rivals(report: Report, task: Task, progress: Progress) -> None:
    """Networks that a user would run instead, against one whole segmentation of ours."""
    progress("CLIPSeg rd64, one picture and one text")
    report.seconds["clipseg"] = _clipseg(task)
    progress("SAM ViT-H, its image encoder")
    report.seconds["sam"] = _sam(task)
    for name in ("clipseg", "sam"):
        report.ratios[f"{name}_vs_ours"] = report.seconds[name] / report.seconds["segment"]


@torch.no_grad()
def _clipseg(task: Task) -> float:
    """Seconds of one picture and one text, at the 352 px that CLIPSeg's processor makes."""
    model = _placed(random_clipseg(task.tiny), task)
    pixels = torch.rand(1, 3, 352, 352).to(task.device, task.dtype)
    words = torch.tensor([[49406, 518, 736, 2368, 525, 518, 1823, 49407]], device=task.device)

    def run() -> None:
        model(pixel_values=pixels, input_ids=words, interpolate_pos_encoding=True)

    run()
    return median(seconds(run, task.device) for _ in range(task.runs))


@torch.no_grad()
def _sam(task: Task) -> float:
    """Seconds of one picture through the image encoder, once."""
    model = _placed(random_sam(task.tiny), task)
    side = model.config.image_size
    picture = torch.rand(1, 3, side, side).to(task.device, task.dtype)
    return seconds(lambda: model(picture), task.device)


def _memory(report: Report, task: Task, progress: Progress) -> None:
    """Peaks of a plain pass and of ours at two sizes."""
    wanted: dict[str, tuple[int, ...]] = {"sd1": (128, 256) if task.tiny else (512, 1024)}
    if task.sdxl:
        wanted["sdxl"] = (128,) if task.tiny else (512, 1024)
    for model, sides in wanted.items():
        progress(f"memory of {model} at {' and '.join(map(str, sides))} px")
        report.memory += peaks_in_child(model, sides, task.tiny, SENTENCES[0])
