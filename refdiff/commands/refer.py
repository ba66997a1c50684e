"""`refdiff eval refer`: a model measured on RefCOCO and its relatives, in their original files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Clip,
    Debug,
    Device,
    Dtype,
    Json,
    Model,
    Profile,
    Ready,
    Seed,
    Size,
    guarded,
    make_ready,
)
from .console import print_json
from .evaluate import Halves, check_halves, progress_bar, with_halves
from .refer_answers import OBJECTS, OWN, asker_of, check_proposals

if TYPE_CHECKING:
    from ..evaluation.datasets import DataSplit, Item
    from ..evaluation.run import Lost

_EVERY_SECONDS = 30.0

DataSet = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder with a data set's original files (refs(...).p and instances.json, "
        "grefs(...).json, refer_<split>.json, *.parquet), a folder of such folders, or the file.",
        show_default=False,
    ),
]
SplitName = Annotated[
    str, typer.Option("--split", help="val, test, testA, testB, train, or what the data set has.")
]
DataSetName = Annotated[
    str,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Which one, where DATA holds several: refcoco, refcoco+, refcocog-umd, "
        "refcocog-google, refclef-unc, grefcoco, ref-zom, phrasecut, hf-jxu124, hf-lmms, ...",
    ),
]
ImageRoots = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        metavar="DIR_OR_ZIP",
        help="Where the pictures are; left out, where releases keep them. May be given several "
        "times.",
    ),
]
First = Annotated[
    int | None, typer.Option("--first", metavar="N", min=1, help="Of these, the first N alone.")
]
Every = Annotated[
    int, typer.Option("--every", metavar="K", min=1, help="Every K-th sentence of the split.")
]
OutDir = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Where predictions and figures go; a run that was stopped goes on from there. Left "
        "out: refdiff-<dataset>-<split>.",
    ),
]
Proposals = Annotated[
    str,
    typer.Option(
        "--proposals",
        metavar="WHICH",
        help="own (cut from the heat), objects (the data set's own masks of the picture's "
        "objects), or a folder with masks for each picture: <picture's name>.npz, .npy or a "
        "folder of PNGs.",
    ),
]


def refer(
    data: DataSet,
    split: SplitName = "val",
    dataset: DataSetName = "auto",
    images: ImageRoots = None,
    first: First = None,
    every: Every = 1,
    out: OutDir = None,
    model: Model = None,
    clip: Clip = None,
    profile: Profile = "default",
    size: Size = None,
    halves: Halves = None,
    proposals: Proposals = OWN,
    masks: Annotated[
        bool, typer.Option("--masks", help="Also write each mask as masks/<id>.png.")
    ] = False,
    table: Annotated[
        bool,
        typer.Option(
            "--table",
            help="The paper's ablation: every profile, half and kind of proposal, one run each.",
        ),
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model on RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, gRefCOCO, PhraseCut or Ref-ZOM.

    Every mask is written to predictions.jsonl as it is made, so that a run may be stopped at any
    time and started again. At the end summary.json, summary.md, report.html and scores.csv are
    written beside it: oIoU, mIoU, Pr@0.5 to 0.9, gIoU, cIoU, N-acc. and T-acc., over all
    sentences and by kind of expression. Nothing is fetched from the network.
    """
    with guarded(debug):
        from ..evaluation.datasets import Selection, read_split
        from ..evaluation.run import check_pictures
        from ..models.catalogue import NO_CLIP

        check_halves(halves)
        check_proposals(proposals)
        selection = Selection(first, every)
        whole = table or proposals == OBJECTS
        found = read_split(data, split, dataset, images or (), selection, everything=whole)
        items, lost = check_pictures(found)
        found = replace(found, items=items)
        folder = out or Path(f"refdiff-{found.dataset}-{found.split}")
        clip = NO_CLIP if halves == "generative" and not table else clip
        ready = make_ready(model, clip, device, dtype, profile, size, seed)
        if table:
            from .refer_table import print_table

            print_table(ready, found, lost, folder, proposals, as_json)
            return
        summary = measure(with_halves(ready, halves), found, lost, folder, halves, proposals, masks)
        print_json(summary, 2) if as_json else _show(summary, folder)


def measure(
    ready: Ready,
    split: DataSplit,
    lost: Lost,
    folder: Path,
    halves: str | None,
    proposals: str = OWN,
    masks: bool = False,
) -> dict[str, Any]:
    """Answer what is not answered yet, write everything into the folder; the summary."""
    from ..evaluation.predictions import Log, read_predictions
    from ..evaluation.provenance import PeakMemory
    from ..evaluation.run import answer_all, begin

    run = described(ready, halves, proposals)
    begin(folder, run)
    memory = PeakMemory(ready.models.pipe.device)
    with Log(folder, split.dataset, split.split) as log, progress(len(split.items)) as advance:
        done = sum(item.id in log.done for item in split.items)
        if done:
            typer.echo(
                f"note: {done} of {len(split.items)} sentences were answered before", err=True
            )
        try:
            answer_all(
                split.items,
                split.pictures,
                asker_of(ready, proposals),
                log,
                lost,
                advance,
                folder / "masks" if masks else None,
            )
        except KeyboardInterrupt:
            kept = f"stopped; {len(log.done)} masks are kept in {folder}"
            typer.echo(f"note: {kept}, and the same command goes on from there", err=True)
            raise typer.Exit(130) from None
    run = run | {"peak_memory_mib": memory.mib()}
    split = replace(split, items=_readable(split, lost))
    return write_figures(
        folder,
        split,
        lambda only: read_predictions(folder, split.dataset, split.split, only),
        run,
        lost,
    )


def write_figures(
    folder: Path,
    split: DataSplit,
    predictions: Callable[[Collection[str] | None], Any],
    run: dict[str, Any],
    lost: Lost | None = None,
) -> dict[str, Any]:
    """Score the masks and write summary, page, report and scores; the summary.

    predictions: gives the masks anew each time, so that they need not be held; all of them, or
    those of some ids.
    """
    from ..evaluation.html import to_html
    from ..evaluation.referring_metrics import score_all
    from ..evaluation.summary import REPORT, summarise_split, write_summary
    from ..io.files import write_safely

    scores = score_all(split.items, predictions(None))
    summary = summarise_split(split, scores, run, lost.to_dict() if lost else None)
    write_summary(folder, summary, scores)
    page = to_html(summary, split, scores, predictions)
    write_safely(folder / REPORT, page.encode())
    return summary


def described(ready: Ready, halves: str | None, proposals: str) -> dict[str, Any]:
    """What makes the masks, with its hash, and where it runs."""
    from ..evaluation.provenance import commit, digest, hardware, versions

    made_by = {
        "model": ready.models.source,
        "clip": ready.models.clip_source,
        "dtype": str(ready.models.pipe.dtype),
        "halves": halves or ("both" if ready.models.clip else "generative"),
        "proposals": proposals,
        "settings": ready.settings.to_dict(),
    }
    return {
        "hash": digest(made_by),
        "made_by": made_by,
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(ready.models.pipe.device),
    }


@contextmanager
def progress(total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left; off a terminal, a line every half minute instead."""
    if sys.stderr.isatty():
        with progress_bar() as advance:
            yield advance
        return
    begun = last = time.monotonic()
    first: int | None = None

    def tell(done: int, count: int) -> None:
        nonlocal last, first
        first = done - 1 if first is None else first
        now = time.monotonic()
        if now - last >= _EVERY_SECONDS and done < count:
            each = (now - begun) / (done - first)
            left = each * (count - done) / 60
            typer.echo(f"note: {done} of {count}, {each:.2f} s each, {left:.0f} min left", err=True)
            last = now

    yield tell


def _readable(split: DataSplit, lost: Lost) -> tuple[Item, ...]:
    return tuple(item for item in split.items if item.image not in lost.unreadable)


def _show(summary: dict[str, Any], folder: Path) -> None:
    from ..evaluation.summary import to_markdown

    typer.echo(to_markdown(summary))
    typer.echo(f"{folder / 'report.html'}", err=True)
