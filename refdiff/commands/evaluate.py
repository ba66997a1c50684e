"""`refdiff eval stickers`: masks measured against scenes whose objects are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    Embeddings,
    Json,
    Loras,
    Model,
    Profile,
    Ready,
    Seed,
    Size,
    guarded,
    make_ready,
)
from .console import note, print_json, table

if TYPE_CHECKING:
    import torch

    from ..evaluation import Report, Scene, Segmenter, Sentence
    from ..evaluation.report import Finder

HALVES = ("generative", "clip", "both")

app = typer.Typer(no_args_is_help=True)


Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="A folder with pictures and scenes.json, instead of --split."
    ),
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        help="validation (to choose by), test (to report, run last), or language (exclusions, "
        "lists, counts, halves and texts without a noun).",
    ),
]
Halves = Annotated[
    str | None,
    typer.Option(
        "--halves",
        help="generative (no CLIP), clip (attention only proposes), or both. Left out: both where "
        "there is a CLIP.",
    ),
]
GivenMasks = Annotated[
    bool,
    typer.Option("--given-masks", help="Choose among the objects' own masks, cutting nothing."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="The first N sentences.")
]


@app.callback()
def about() -> None:
    """Measure masks against scenes whose objects are known."""


@app.command()
def stickers(
    data: Data = None,
    split: Split = "validation",
    model: Model = None,
    clip: Clip = None,
    embedding: Embeddings = None,
    lora: Loras = None,
    profile: Profile = "default",
    size: Size = None,
    halves: Halves = None,
    given_masks: GivenMasks = False,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a profile on sticker scenes, or on any scenes of the same format.

    miou: mean IoU with the objects meant; oiou: sum of intersections over sum of unions; pr50:
    share above an IoU of 0.5; right_object: share whose mask overlaps what is meant more than any
    other object. Sentences about things that are not there count apart, by the share of empty
    masks. A sentence that cannot be understood counts as an empty mask.
    """
    with guarded(debug):
        from ..evaluation import evaluate, read_scenes
        from ..models.catalogue import NO_CLIP

        scenes = read_scenes(folder_of(data, split))
        check_halves(halves)
        clip = NO_CLIP if halves == "generative" else clip
        ready = with_halves(
            make_ready(model, clip, device, dtype, profile, size, seed, embedding, lora), halves
        )
        failures: list[str] = []
        with progress_bar() as advance:
            report = evaluate(
                scenes, segmenter_of(ready, given_masks, failures), profile, limit, advance
            )
        if failures:
            count = f"{len(failures)} sentences were not understood and count as empty masks"
            note(f"{count}; the first: {failures[0]}")
        print_json(report.to_dict(), 2) if as_json else _show(report)


def folder_of(data: Path | None, split: str) -> Path:
    from ..stickers import DATA, SPLITS

    if data is None and split not in SPLITS:
        raise ValueError(f"--split is {split!r}, wanted one of {', '.join(SPLITS)}; or --data.")
    return DATA / split if data is None else data


def check_halves(halves: str | None) -> None:
    """ValueError when it is not one of `HALVES`."""
    if halves is not None and halves not in HALVES:
        raise ValueError(f"--halves is {halves!r}, wanted one of {', '.join(HALVES)}.")


def with_halves(ready: Ready, halves: str | None) -> Ready:
    """The settings for the halves asked for; "clip" leaves the heat no say in the scores."""
    if ready.models.clip is None and halves in ("clip", "both"):
        raise ValueError(f"--halves {halves} needs a CLIP model; name one with --clip.")
    fusion = "log" if ready.settings.fusion == "calibrated" else ready.settings.fusion
    alone = replace(ready.settings, alpha=0.0, fusion=fusion)  # alpha has no say in "calibrated"
    return replace(ready, settings=alone) if halves == "clip" else ready


def segmenter_of(ready: Ready, given: bool, failures: list[str]) -> Segmenter:
    """What `evaluate` asks; sentences that cannot be read are added to `failures`."""
    import torch

    from ..errors import WordError
    from ..expression import parse
    from ..pipeline import Look

    def look_at(scene: Scene) -> Finder:
        picture = scene.picture()
        masks = scene.masks() if given else None
        nothing = torch.zeros(picture.height, picture.width, dtype=torch.bool)
        if masks is not None and not masks.any():
            return lambda sentence: nothing
        look = Look(picture, ready.capture, ready.models.clip, ready.settings, masks)

        def find(sentence: Sentence) -> torch.Tensor:
            try:
                expression = parse(sentence.text)
            except ValueError as error:
                failures.append(str(error))
                return nothing
            try:
                return look(expression).mask
            except WordError as error:  # the tokenizer has no piece of it
                failures.append(str(error))
                return nothing

        return find

    return look_at


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; what it gives is called with (done, total)."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("sentences", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(report: Report) -> None:
    from rich.console import Console

    plain = report.to_dict()
    keys = ("n", "miou", "oiou", "pr50", "right_object", "empty_rate")
    rows = [
        [name, *(_cell(figures.get(key)) for key in keys)]
        for name, figures in (*plain["kinds"].items(), ("overall", plain["overall"]))
    ]
    console = Console(highlight=False)
    console.print(f"profile {report.profile}, {plain['seconds_per_sentence']} s a sentence")
    console.print(table(["kind", *keys], rows, numbers=True))


def _cell(value: Any) -> Any:
    return "-" if value is None else value
