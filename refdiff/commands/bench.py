"""`refdiff bench`: stage times, and the price of watching the attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Debug, Device, Dtype, Json, guarded, print_json, table

if TYPE_CHECKING:
    from ..bench import Timings

DIGITS = 4


def bench(
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A few MB at 128 px instead of SD1.5's size at 512 px.")
    ] = False,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Times to measure.")] = 3,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time the stages of one segmentation, on random weights of Stable Diffusion 1.5's size.

    unet_vs_plain_pass is the UNet's part of the generative half over one plain pass of the same
    UNet (pairs in turn, the median). Needs about 6 GB of memory, or none to speak of with --tiny;
    no weights are downloaded.
    """
    with guarded(debug):
        timings, about = _measure(tiny, runs, device, dtype)
        if as_json:
            print_json(_plain(timings) | about, 2)
        else:
            _show(timings, about)


def _measure(
    tiny: bool, runs: int, device: str | None, dtype: str | None
) -> tuple[Timings, dict[str, Any]]:
    import torch
    from rich.console import Console

    from ..bench import measure
    from ..models import checked_device, checked_dtype
    from ..random_models import random_clip, random_pipeline

    where = checked_device(device)
    kind = checked_dtype(dtype, where)
    with Console(stderr=True).status("building random models") as status:
        pipe, clip = random_pipeline(tiny).to(where), random_clip(tiny)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder, clip.model):
            torch.nn.Module.to(part, where, kind)
        timings = measure(pipe, clip, runs, status.update)
    about = {
        "model": "tiny" if tiny else "Stable Diffusion 1.5's size",
        "pixels": pipe.unet.config.sample_size * pipe.vae_scale_factor,
        "runs": runs,
        "device": str(where),
        "dtype": str(kind).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    return timings, about


def _plain(timings: Timings) -> dict[str, Any]:
    return {
        "ratios": {"unet_vs_plain_pass": round(timings.ratio, DIGITS)},
        "stages": {stage: round(seconds, DIGITS) for stage, seconds in timings.stages.items()},
        "passes": {
            "plain": round(timings.plain, DIGITS),
            "watched": round(timings.watched, DIGITS),
        },
    }


def _show(timings: Timings, about: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    rows: list[list[Any]] = [[*pair] for pair in timings.stages.items()]
    console.print(table(["stage", "seconds"], rows, numbers=True))
    console.print(
        f"unet_vs_plain_pass {timings.ratio:.3f} "
        f"({timings.watched:.3f} s against {timings.plain:.3f} s)"
    )
