"""`refdiff bench`: what an answer costs, stage by stage, and against what would be run instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Debug, Device, Dtype, Json, guarded
from .console import print_json, table

if TYPE_CHECKING:
    from ..benchmark.report import Report

Row = tuple[str, str, str, str, str, str]
# figure, whose seconds, which ratio, what that is a ratio to, the goal
FIGURES = (
    ("UNet, a plain pass", "unet_plain", "", "", ""),
    ("UNet's part, coarse layers", "unet_ours", "ours_vs_plain_pass", "plain pass", "<= 0.62"),
    ("  heat spread, way down", "unet_down", "down_vs_plain_pass", "plain pass", "<= 0.62"),
    ("  as published", "unet_published", "published_vs_plain_pass", "plain pass", "<= 1.05"),
    ("  `fast`: down path and middle", "unet_fast", "fast_vs_plain_pass", "plain pass", "<= 0.38"),
    ("official schedule, UNet (2)", "official", "official_vs_ours", "UNet's part", ">= 35"),
    ("DAAM-style tracing (20)", "daam", "daam_vs_ours", "UNet's part", ""),
    ("first sentence, text to heat", "first_sentence", "", "", ""),
    ("  slowest of the next nine", "next_sentence", "next_sentence", "first", "<= 0.08"),
    ("one warm segmentation", "segment", "", "", ""),
    ("  outside the four networks", "", "overhead", "whole", "<= 0.03"),
    ("CLIPSeg rd64, one text", "clipseg", "clipseg_vs_ours", "whole", ""),
    ("SAM ViT-H, image encoder", "sam", "sam_vs_ours", "whole", ""),
)
EXPLANATION = """\
(2) four evaluations at twice the size: one batch of two is timed, and counted twice.
(20) a sampling of twenty guided steps: one step is timed, and counted twenty times.
The next nine sentences ask the queries that the first has left. The four networks of a
segmentation are vae, text, unet and clip. Peaks are of live tensors beyond the weights."""


def bench(
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A few MB at 128 px instead of SD1.5's size at 512 px.")
    ] = False,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", min=1, help="Turns to time, after a warm-up.")
    ] = 5,
    growth: Annotated[
        bool,
        typer.Option(
            "--growth",
            help="Also time larger pictures, more sentences, proposals and pictures, labelling by "
            "one process and by two Ray workers, and draw it.",
        ),
    ] = False,
    picture: Annotated[
        Path, typer.Option("--picture", metavar="PNG", help="Where --growth draws.")
    ] = Path("refdiff-growth.png"),
    sdxl: Annotated[
        bool, typer.Option("--sdxl", help="Also the memory of SDXL's UNet, which takes minutes.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time one segmentation and what it is made of, on random weights of SD1.5's size.

    Ratios are taken within the run: against a plain pass of the same UNet, against the authors'
    schedule, and against CLIPSeg, SAM and DAAM. Needs about 8 GB of memory, or none to speak of
    with --tiny; no weights are downloaded.
    """
    with guarded(debug):
        from ..benchmark.report import Task, measure
        from ..models.catalogue import checked_device, checked_dtype

        if growth and picture.exists():
            raise ValueError(f"'{picture}' is there already; name another with --picture.")
        where = checked_device(device)
        task = Task(where, checked_dtype(dtype, where), tiny, runs, growth, sdxl)
        with _progress() as progress:
            report = measure(task, progress)
        if growth:
            _draw(report, picture)
        if as_json:
            print_json(report.to_dict(), 2)
        else:
            _show(report)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Says each step on standard error: as one changing line, or as lines where none can change."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("") as status:

        def say(step: str) -> None:
            if console.is_terminal:
                status.update(step)
            else:
                console.print(step)

        yield say


def _draw(report: Report, path: Path) -> None:
    from ..benchmark.chart import draw
    from ..io.files import write_safely

    drawn = draw(report.curves, _machine(report))
    write_safely(path, partial(drawn.save, format="PNG"))
    typer.echo(f"drawn: {path}", err=True)


def _machine(report: Report) -> str:
    return ", ".join(f"{name} {value}" for name, value in report.machine.items())


def _show(report: Report) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_machine(report))
    rows: list[list[Any]] = [[*row] for row in rows_of(report)]
    heads = ["figure", "amount", "TFLOP", "ratio", "to", "goal"]
    console.print(table(heads, rows, numbers=True))
    console.print(EXPLANATION)
    for curve in report.curves:
        for name, points in curve.series.items():
            found = ", ".join(f"{number}: {amount:.2f}" for number, amount in points)
            console.print(f"{curve.title}{name and f', {name}'}, in {curve.unit}: {found}")


def rows_of(report: Report) -> Iterator[Row]:
    """The table's rows: what, how long, how many operations, the ratio, to what, and the goal."""
    for figure, timed, ratio, to, goal in FIGURES:
        amount = f"{report.seconds[timed]:.3f} s" if timed else ""
        operations = f"{report.flops[timed] / 1e12:.3f}" if timed in report.flops else ""
        yield figure, amount, operations, f"{report.ratios[ratio]:.3f}" if ratio else "", to, goal
        if timed == "segment":
            yield from _stages(report)
    for peak in report.memory:
        size = f"peak, {peak.model}, {peak.pixels} px"
        goal = f"<= {1.05 if peak.pixels <= 512 else 1.10:.2f}"
        yield f"{size}, a plain pass", f"{peak.plain / 2**20:.1f} MiB", "", "", "", ""
        ours = f"{peak.ours / 2**20:.1f} MiB"
        yield f"{size}, ours", ours, "", f"{1 + peak.above:.3f}", "plain pass", goal


def _stages(report: Report) -> Iterator[Row]:
    total = report.seconds["segment"]
    for stage, seconds in report.stages.items():
        yield f"    {stage}", f"{seconds:.3f} s", "", f"{seconds / total:.3f}", "whole", ""
