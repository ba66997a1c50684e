"""`refdiff segment`: pictures and a sentence in; a mask, an overlay and a report each out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .after import NUMBERED, After
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
from .console import note, plain, print_json, printing

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..models.catalogue import Models
    from ..result import Segmentation

SAMPLE = "sample"
ENDING = ".refdiff"
NAMES = {
    "mask": "mask.png",
    "runner_up": "runner_up.png",
    "overlay": "overlay.png",
    "report": "report.json",
}


@dataclass(frozen=True)
class Job:
    """A picture, what was typed for it, and the folder to write."""

    typed: str
    picture: Path
    folder: Path

    @property
    def files(self) -> dict[str, Path]:
        return {kind: self.folder / name for kind, name in NAMES.items()}


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
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the answers.")]
Proposals = Annotated[
    list[str] | None,
    typer.Option(
        "--proposals",
        metavar="MASKS",
        help="Masks to choose from instead of cutting the heat: a picture per mask, a folder of "
        "those, .npy or .npz, labels:FILE.png (a number per thing), COCO's .json, boxes as .json, "
        "or sam:MODEL, sam2:MODEL, sam3:MODEL. May be given several times.",
    ),
]
Word = Annotated[
    str | None, typer.Option("--word", metavar="W", help="Look for this word of the text.")
]
Choice = Annotated[
    int, typer.Option("--choice", metavar="K", min=1, help="2 takes the runner-up, and so on.")
]
Everything = Annotated[
    bool,
    typer.Option(
        "--everything",
        help="Also draw all candidates, numbered: candidates.png (see --pick).",
    ),
]
Pick = Annotated[
    int | None, typer.Option("--pick", metavar="N", min=1, help="Take candidate N, by its number.")
]
Refine = Annotated[
    str | None,
    typer.Option(
        "--refine", metavar="sam2:MODEL", help="Let SAM outline what was found: sam:, sam2:, sam3:."
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        "--rounds", metavar="N", min=1, help="With --refine, looks at what is left for a plural."
    ),
]
FailIfEmpty = Annotated[
    bool, typer.Option("--fail-if-empty", help="Exit with 1 when nothing was found.")
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace files that refdiff did not write, or not as is."),
]


def segment(
    images: Images = None,
    text: Text = "",
    out: Out = Path("."),
    model: Model = None,
    clip: Clip = None,
    embedding: Embeddings = None,
    lora: Loras = None,
    profile: Profile = "default",
    size: Size = None,
    proposals: Proposals = None,
    word: Word = None,
    choice: Choice = 1,
    everything: Everything = False,
    pick: Pick = None,
    refine: Refine = None,
    rounds: Rounds = 1,
    fail_if_empty: FailIfEmpty = False,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Segment pictures by a sentence.

    Writes a folder for each picture, photo.refdiff, with four files: mask.png (8 bits, 255 inside,
    the picture's size), runner_up.png (the second best answer, as --choice 2 gives it; all 0 where
    there is none), overlay.png (heat, outline, the word looked for) and report.json (how the
    sentence was understood, every candidate with its scores, the choice, how close the runner-up
    comes, seconds per stage). They replace an earlier answer of refdiff, and nothing else unless
    --overwrite is given.

    Exits with 0, with 1 when nothing was found and --fail-if-empty is set, with 2 for bad input;
    then nothing is written for that picture. With --json, one report a line for each picture.
    """
    with guarded(debug):
        jobs = plan(images or [], text, out, word)
        _check_kept(jobs, proposals or [], everything, overwrite)
        masks = _given(proposals, jobs)
        ready = make_ready(model, clip, device, dtype, profile, size, seed, embedding, lora)
        after = After(ready, everything, pick, refine, rounds)
        found = [_run(job, text, ready, masks, word, choice, after, as_json) for job in jobs]
    if fail_if_empty and not all(found):
        raise typer.Exit(1)


def plan(images: Sequence[str], text: str, out: Path, word: str | None = None) -> list[Job]:
    """What to read and where to write, everything checked that needs no model.

    Raises ValueError for a missing picture or sentence, a sentence that is a file, and a picture
    that is none; WordError for a word that is not there.
    """
    from ..expression import parse, with_root
    from ..io.pictures import picture_size

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
    return [
        Job(typed, picture, out / (stem + ENDING))
        for typed, picture, stem in zip(images, pictures, stems, strict=True)
    ]


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
            note(f"another picture is called {stem}, so its folder is {name}{ENDING}")
        taken.add(name.casefold())
        found.append(name)
    return found


def _check_kept(
    jobs: Sequence[Job], proposals: Sequence[str], everything: bool, overwrite: bool
) -> None:
    """ValueError where an answer would replace what was given, or what refdiff did not write."""
    from ..io.files import not_ours

    pictures = (str(job.picture) for job in jobs)
    given = [Path(path).resolve() for path in (*pictures, *proposals)]
    for job in jobs:
        places = {path.resolve() for path in (job.folder, *job.files.values())}
        if lost := next((path for path in given if path in places), None):
            raise ValueError(
                f"The answer for {job.typed!r} would replace {str(lost)!r}, which was given; write "
                "elsewhere with -o."
            )
        if overwrite:
            continue
        in_the_way = os.path.lexists(job.folder) and (
            job.folder.is_symlink() or not job.folder.is_dir()
        )
        names = [*NAMES.values(), *([NUMBERED] if everything else [])]
        foreign = [""] if in_the_way else not_ours(job.folder, names)
        if foreign:
            raise ValueError(
                f"'{job.folder / foreign[0]}' was not written by refdiff, or was changed since; "
                "write elsewhere with -o, or replace it with --overwrite."
            )


def _given(proposals: list[str] | None, jobs: Sequence[Job]) -> Any:
    """The masks to choose from, read before any model is; or, with a SAM, where they come from."""
    from ..masks.sam import KINDS

    if not proposals:
        return None
    own = [name for name in proposals if name.partition(":")[0] not in KINDS]
    if own and len(jobs) > 1:
        raise ValueError(f"--proposals are of one picture, but {len(jobs)} were given.")
    if len(own) < len(proposals):
        return proposals
    from ..masks.sources import candidates_of

    return candidates_of(proposals, jobs[0].picture)


def _run(
    job: Job,
    text: str,
    ready: Ready,
    masks: Any,
    word: str | None,
    choice: int,
    after: After,
    as_json: bool,
) -> bool:
    """Segment one picture; whether something was found."""
    from ..pipeline import Look

    given = after.candidates(job.picture, masks)
    look = Look(job.picture, ready.capture, ready.models.clip, ready.settings, given)
    result = after(look(text, word, choice), given)
    if caution := ready.models.caution(result.expression):
        result = replace(result, notes=(*result.notes, caution))
    report = _write(job, result, ready.models, after.drawn(result))
    with printing():  # the answer is on the disk, whatever becomes of standard output
        print_json(report) if as_json else _summary(job, result, report["files"].values())
    return not result.empty


def _write(
    job: Job, result: Segmentation, models: Models, numbered: Image | None
) -> dict[str, Any]:
    """Write the folder, whole or not at all, and return the report."""
    from ..io.files import not_ours, signed, write_folder

    places = job.files | ({} if numbered is None else {"candidates": job.folder / NUMBERED})
    report = {
        "image": str(job.picture),
        "size": [result.image.height, result.image.width],
        "model": models.source,
        "clip": models.clip_source,
        "files": {kind: str(path) for kind, path in places.items()},
        **result.report(),
    }
    drawn = {
        "mask": result.mask_image,
        "runner_up": result.runner_up_image,
        "overlay": result.overlay(),
    }
    pictures = {NAMES[kind]: _png(picture) for kind, picture in drawn.items()}
    if numbered is not None:
        pictures[NUMBERED] = _png(numbered)
    drawn_before = numbered is None and not not_ours(job.folder, [NUMBERED])
    files = {**pictures, "report.json": signed(report, pictures)}
    write_folder(job.folder, files, gone=[NUMBERED] if drawn_before else [])
    return report


def _png(picture: Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _summary(job: Job, result: Segmentation, files: Iterable[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    root = plain(result.expression.root.word.text)
    share = float(result.mask.float().mean())
    verdict = "nothing found" if result.empty else f"{share:.1%} of the picture"
    head = Text(f"{plain(job.typed)}: ")
    head.append(root, "bold")
    head.append(f", {verdict}, presence {result.presence:.2f}, score {result.score:.2f}")
    lines = [
        head,
        Text(f"  {plain(result.expression.summary())}"),
        *(Text(f"  note: {plain(said)}", "yellow") for said in result.notes),
        *(Text(f"  {plain(path)}", "green") for path in files),
    ]
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)
