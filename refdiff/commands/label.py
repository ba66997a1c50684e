"""`refdiff label`: masks for a folder of pictures, as a data set or for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Clip, Debug, Device, Dtype, Model, Profile, Seed, Size, guarded, make_ready

if TYPE_CHECKING:
    from ..labelling.labeller import Labeller
    from ..labelling.pictures import Item
    from ..labelling.records import Record

Folder = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="Pictures, in folders too.", show_default=False),
]
Text = Annotated[
    str | None,
    typer.Argument(
        metavar="[TEXT]",
        help='What to mask, such as "a person; the red car": one mask each. Left out: the lines '
        "of the caption beside each picture, photo.txt for photo.png.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the labels.")]
Kind = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        help="coco, masks, yolo, kohya (a folder for conditioning_data_dir), onetrainer "
        "(photo-masklabel.png beside photo.png) or parquet.",
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", metavar="N", min=1, help="Pictures of one size at a time.")
]
Workers = Annotated[
    int,
    typer.Option("--workers", metavar="N", min=1, help="Models at work; above 1 with Ray."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Of a Ray cluster that sees the same folders, or 'auto'."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are no labels of this folder.")
]


@dataclass(frozen=True)
class Options:
    """What a worker needs to load the models."""

    model: str | None
    clip: str | None
    device: str | None
    dtype: str | None
    profile: str
    size: str | None
    seed: int

    def how(self) -> dict[str, Any]:
        """What the labels depend on."""
        import os

        from ..models.catalogue import STICKERS, VARIABLE

        model = self.model or os.environ.get(VARIABLE) or STICKERS
        return {
            "model": model,
            "clip": self.clip,
            "profile": self.profile,
            "size": self.size,
            "seed": self.seed,
        }


def label(
    folder: Folder,
    text: Text = None,
    out: Out = Path("labels"),
    kind: Kind = "coco",
    batch: Batch = 8,
    workers: Workers = 1,
    address: Address = None,
    overwrite: Overwrite = False,
    model: Model = None,
    clip: Clip = None,
    profile: Profile = "default",
    size: Size = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Mask every picture of a folder.

    Besides the labels, DIR gets labels.jsonl (the journal: a line per picture, written when it is
    done), report.csv (the least certain first) and sheet.jpg (these, drawn). A run that was
    stopped goes on where it was; a picture that changed is labelled anew; another --format is
    written from the journal, without a model.

    Exits with 0, with 1 when a picture could not be labelled, with 2 for bad input.
    """
    options = Options(model, clip, device, dtype, profile, size, seed)
    with guarded(debug):
        items, failures = _run(options, folder, text, out, kind, batch, workers, address, overwrite)
    if failures:
        typer.echo(f"{failures} of {items} pictures could not be labelled", err=True)
        raise typer.Exit(1)


def _run(
    options: Options,
    folder: Path,
    text: str | None,
    out: Path,
    kind: str,
    batch: int,
    workers: int,
    address: str | None,
    overwrite: bool,
) -> tuple[int, int]:
    """How many pictures there are, and how many of them could not be labelled."""
    from ..labelling.formats import Place, check_names
    from ..labelling.journal import Journal
    from ..labelling.pictures import batches, classes_of, find_pictures, items_of
    from ..labelling.writing import Writer

    items = items_of(folder, find_pictures(folder, out), text)
    writer = Writer(kind, Place(folder, out, classes_of(items)), overwrite)
    check_names(items, kind)
    with Journal(out, options.how()) as journal:
        known = journal.read()
        done = {i.name: known[i.name] for i in items if i.name in known}
        done = {i.name: done[i.name] for i in items if i.name in done and done[i.name].answers(i)}
        writer.check(items, known, journal.made)
        for record in done.values():
            writer.add(record, again=False)
        todo = [item for item in items if item.name not in done]
        with _progress(len(items), len(done)) as advance:
            for record in _records(options, batches(todo, batch), workers, address):
                journal.add(record)
                done[record.name] = record
                writer.add(record)
                advance()
        records = [done[item.name] for item in items]
        for path in writer.finish(records, journal.wrote):
            typer.echo(path)
    return len(items), sum(record.error is not None for record in records)


def _records(
    options: Options, work: Sequence[Sequence[Item]], workers: int, address: str | None
) -> Iterator[Record]:
    from ..labelling.labeller import in_one_process

    if not work:
        return
    make = partial(make_labeller, options)
    if workers == 1 and address is None:
        yield from in_one_process(make(), work)
        return
    from ..labelling.cluster import on_ray
    from ..models.catalogue import checked_device

    on_gpu = address is None and checked_device(options.device).type == "cuda"
    yield from on_ray(make, work, workers, address, gpus=1.0 if on_gpu else 0.0)


def make_labeller(options: Options) -> Labeller:
    """Load the models and hold them ready."""
    from ..labelling.labeller import Labeller

    ready = make_ready(
        options.model,
        options.clip,
        options.device,
        options.dtype,
        options.profile,
        options.size,
        options.seed,
    )
    return Labeller(ready.capture, ready.models.clip, ready.settings)


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar with the time left on standard error, or a line now and then where none can be."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    lines = _Lines(total, done)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("pictures", total=total, completed=done)

        def advance() -> None:
            bar.advance(task)
            if not console.is_terminal:
                lines.advance()

        yield advance


class _Lines:
    """Says every half minute, and at the end, how far it is and how long it will take."""

    EVERY = 30.0

    def __init__(self, total: int, done: int) -> None:
        import time

        self._clock = time.monotonic
        self.total, self.done, self.before = total, done, done
        self.start = self.said = self._clock()

    def advance(self) -> None:
        self.done += 1
        now = self._clock()
        if now - self.said < self.EVERY and self.done < self.total:
            return
        self.said = now
        each = (now - self.start) / (self.done - self.before)
        left = round(each * (self.total - self.done))
        minutes, seconds = divmod(left, 60)
        typer.echo(f"{self.done} of {self.total} pictures, {minutes}:{seconds:02} left", err=True)
