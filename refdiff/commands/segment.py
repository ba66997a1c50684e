"""`refdiff segment`: pictures and a sentence in; a mask, an overlay and a report each out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
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
    print_json,
)

if TYPE_CHECKING:
    from ..models import Models
    from ..result import Segmentation

SAMPLE = "sample"
ENDINGS = {"mask": ".mask.png", "overlay": ".overlay.png", "report": ".json"}


@dataclass(frozen=True)
class Job:
    """A picture, what was typed for it, and the files to write."""

    typed: str
    picture: Path
    files: dict[str, Path]


Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE...",
        help="Pictures of any kind that PIL reads; 'sample' is a sticker picture that comes with "
        "refdiff.",
        show_default=False,
    ),
]
Text = Annotated[
    str,
    typer.Argument(
        metavar="TEXT", help='What to find, such as "the red cat on the left".', show_default=False
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the files.")]
Proposals = Annotated[
    list[Path] | None,
    typer.Option(
        "--proposals",
        metavar="MASKS",
        help="Masks to choose from instead of cutting the heat: a picture per mask, a folder of "
        "those, .npy or .npz. May be given several times.",
    ),
]
Word = Annotated[
    str | None, typer.Option("--word", metavar="W", help="Look for this word of the text.")
]
Choice = Annotated[
    int, typer.Option("--choice", metavar="K", min=1, help="2 takes the runner-up, and so on.")
]
FailIfEmpty = Annotated[
    bool, typer.Option("--fail-if-empty", help="Exit with 1 when nothing was found.")
]


def segment(
    images: Images = None,
    text: Text = "",
    out: Out = Path("."),
    model: Model = None,
    clip: Clip = None,
    profile: Profile = "default",
    size: Size = None,
    proposals: Proposals = None,
    word: Word = None,
    choice: Choice = 1,
    fail_if_empty: FailIfEmpty = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Segment pictures by a sentence.

    Writes three files for each picture: photo.mask.png (8 bits, 255 inside, the picture's size),
    photo.overlay.png (heat, outline, the word looked for) and photo.json (how the sentence was
    understood, every candidate with its scores, the choice, seconds per stage).

    Exits with 0, with 1 when nothing was found and --fail-if-empty is set, with 2 for bad input;
    then nothing is written for that picture. With --json, one report a line for each picture.
    """
    with guarded(debug):
        jobs = plan(images or [], text, out, word)
        masks = _given(proposals, jobs)
        ready = make_ready(model, clip, device, dtype, profile, size, seed)
        found = [_run(job, text, ready, masks, word, choice, as_json) for job in jobs]
    if fail_if_empty and not all(found):
        raise typer.Exit(1)


def plan(images: Sequence[str], text: str, out: Path, word: str | None = None) -> list[Job]:
    """What to read and where to write, everything checked that needs no model.

    Raises ValueError for a missing picture or sentence, a sentence that is a file, a picture that
    is none, and output that would replace a picture; WordError for a word that is not there.
    """
    from ..expression import parse, with_root
    from ..pictures import picture_size

    if os.path.isfile(text):
        raise ValueError(f"{text!r} is a file; did you forget the sentence? It comes last.")
    if not images:
        wanted = 'refdiff segment photo.png "the red cat on the left"'
        raise ValueError(f"A picture and a sentence are wanted, such as: {wanted}.")
    expression = parse(text)
    if word is not None:
        with_root(expression, word)
    pictures = [_picture(typed) for typed in images]
    for picture in pictures:
        picture_size(picture)
    stems = _distinct([picture.stem for picture in pictures])
    jobs = [
        Job(typed, picture, {kind: out / (stem + ending) for kind, ending in ENDINGS.items()})
        for typed, picture, stem in zip(images, pictures, stems, strict=True)
    ]
    _check_kept(jobs)
    return jobs


def _picture(typed: str) -> Path:
    from ..stickers import SAMPLE as packaged

    if typed != SAMPLE or os.path.exists(typed):
        return Path(typed)
    if not packaged.is_file():
        raise ValueError(f"The sample picture is not at {packaged}; install refdiff again.")
    return packaged


def _distinct(stems: Sequence[str]) -> list[str]:
    """Each stem, with -2, -3 ... where an earlier picture has it already, whatever its case."""
    given = {stem.casefold() for stem in stems}
    taken: set[str] = set()
    found = []
    for stem in stems:
        name, count = stem, 2
        while name.casefold() in taken or (name != stem and name.casefold() in given):
            name, count = f"{stem}-{count}", count + 1
        if name != stem:
            typer.echo(f"note: another picture is called {stem}, so files are {name}.*", err=True)
        taken.add(name.casefold())
        found.append(name)
    return found


def _check_kept(jobs: Sequence[Job]) -> None:
    pictures = {job.picture.resolve(): job.typed for job in jobs}
    for job in jobs:
        for path in job.files.values():
            if (lost := pictures.get(path.resolve())) is not None:
                raise ValueError(
                    f"A file for {job.typed!r} would replace the picture {lost!r}; write "
                    "elsewhere with -o."
                )


def _given(proposals: list[Path] | None, jobs: Sequence[Job]) -> Any:
    """The masks to choose from, or None."""
    from ..pictures import read_masks

    if not proposals:
        return None
    if len(jobs) > 1:
        raise ValueError(f"--proposals are of one picture, but {len(jobs)} were given.")
    return read_masks(proposals)


def _run(
    job: Job, text: str, ready: Ready, masks: Any, word: str | None, choice: int, as_json: bool
) -> bool:
    """Segment one picture; whether something was found."""
    from ..pipeline import Look

    look = Look(job.picture, ready.capture, ready.models.clip, ready.settings, masks)
    result = look(text, word, choice)
    if caution := ready.models.caution(result.expression):
        result = replace(result, notes=(*result.notes, caution))
    report = _write(job, result, ready.models)
    print_json(report) if as_json else _summary(job, result)
    return not result.empty


def _write(job: Job, result: Segmentation, models: Models) -> dict[str, Any]:
    """Write the three files, all or none, and return the report."""
    from ..pictures import write_all

    report = {
        "image": str(job.picture),
        "size": [result.image.height, result.image.width],
        "model": models.source,
        "clip": models.clip_source,
        "files": {kind: str(path) for kind, path in job.files.items()},
        **result.report(),
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    contents: dict[str, Any] = {
        "mask": partial(result.mask_image.save, format="PNG"),
        "overlay": partial(result.overlay().save, format="PNG"),
        "report": text.encode(),
    }
    write_all({job.files[kind]: content for kind, content in contents.items()})
    return report


def _summary(job: Job, result: Segmentation) -> None:
    from rich.console import Console
    from rich.text import Text

    root = result.expression.root.word.text
    share = float(result.mask.float().mean())
    best = max((c.score for c in result.candidates if c.chosen), default=0.0)
    verdict = "nothing found" if result.empty else f"{share:.1%} of the picture"
    head = Text(f"{job.typed}: ")
    head.append(root, "bold")
    head.append(f", {verdict}, presence {result.presence:.2f}, score {best:.2f}")
    lines = [
        head,
        Text(f"  {result.expression.summary()}"),
        *(Text(f"  note: {note}", "yellow") for note in result.notes),
        *(Text(f"  {path}", "green") for path in job.files.values()),
    ]
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)
