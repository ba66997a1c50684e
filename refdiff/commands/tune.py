"""`refdiff tune`: settings for a model of yours, searched on one half of the pictures."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Clip, Debug, Device, Dtype, Json, Profile, Ready, guarded, make_ready
from .console import print_json
from .refer import DataSetName, Every, First, ImageRoots, progress

if TYPE_CHECKING:
    from ..evaluation.datasets import DataSplit
    from ..evaluation.remembered import Studied
    from ..evaluation.tune import Tuned
    from ..settings import Settings

SHOWN = ("giou", "miou", "oiou", "pr50", "n_acc", "t_acc")


def tune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="What --model takes elsewhere; 'stickers' is the built-in one."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="A referring data set as in `refdiff eval refer`, or a folder with scenes.json. "
            "Left out: the sticker validation scenes.",
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Never the one you report.")] = "val",
    dataset: DataSetName = "auto",
    images: ImageRoots = None,
    first: First = None,
    every: Every = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Left out: <the model's name>.refdiff.toml here."
        ),
    ] = None,
    clip: Clip = None,
    profile: Profile = "default",
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search the settings that fit a model, and write them to NAME.refdiff.toml.

    Half of the pictures are searched, the other half judges; the figures of both are printed.
    Settings are tried on what was kept of the UNet and CLIP, which run again only where a setting
    asks them otherwise. A setting changes when that gains more than the noise. Nothing is written
    when the half that was not searched is worse than before. Use the file with --profile NAME.
    """
    with guarded(debug):
        from ..evaluation.datasets import Selection, read_split
        from ..evaluation.run import check_pictures
        from ..stickers import DATA

        file = _file(out, model)
        place = data or DATA / "validation"
        found = read_split(place, split, dataset, images or (), Selection(first, every))
        items, lost = check_pictures(found)
        if lost.sentences:
            typer.echo(f"note: {lost.sentences} sentences have no picture, left out", err=True)
        ready = make_ready(model, clip, device, dtype, profile, None, 0)
        report = tuned(ready, replace(found, items=items), file)
        print_json(report, 2) if as_json else typer.echo(to_markdown(report))
    if report["file"] is None:
        raise typer.Exit(1)


def _file(out: Path | None, model: str) -> Path:
    """Where the settings go; ValueError when something is there, or the ending is another."""
    from ..settings_file import ENDING

    file = out or Path(f"{Path(model).name.removesuffix('.safetensors')}{ENDING}")
    if not file.name.endswith(ENDING) or file.name == ENDING:
        raise ValueError(f"--out is '{file}', wanted a NAME{ENDING}; name it so.")
    if file.exists():
        raise ValueError(f"'{file}' is there already; name another with --out, or delete it.")
    return file


def tuned(ready: Ready, split: DataSplit, file: Path) -> dict[str, Any]:
    """Read, search, judge, and write the file if the unseen half is no worse; the report."""
    from ..evaluation.bootstrap import compare_scores
    from ..evaluation.referring_metrics import figures
    from ..evaluation.tune import Search, giou, halves_of, scores_of

    pictures = _studied(ready, split)
    searched, unseen = halves_of(pictures)
    if not unseen:
        raise ValueError("Both halves need a picture; give more sentences.")
    before = ready.settings
    with progress(1) as advance:
        found = Search(searched, ready.models.clip is not None).run(before, advance)
    report: dict[str, Any] = {
        "model": ready.models.source,
        "clip": ready.models.clip_source,
        "dataset": f"{split.dataset} {split.split}",
        "tried": found.tried,
        "steps": [vars(step) for step in found.steps],
    }
    for name, half in (("searched", searched), ("unseen", unseen)):
        one, two = scores_of(half, before), scores_of(half, found.settings)
        gap = compare_scores(one, two)["all"]["giou"]
        report[name] = {
            "before": figures(one),
            "tuned": figures(two),
            "gain": gap.difference,
            "interval": [gap.low, gap.high],
        }
        worse = giou(two) < giou(one)
    report["file"] = None if worse else str(_write(file, found, report))
    return report


def _studied(ready: Ready, split: DataSplit) -> list[Studied]:
    """Every picture with its attention read."""
    from ..evaluation.remembered import Studied

    groups = [list(group) for _, group in groupby(split.items, lambda item: item.image)]
    found = []
    with progress(len(groups)) as advance:
        for number, items in enumerate(groups, 1):
            picture = split.pictures.read(items[0].image)
            studied = Studied(picture, items, ready.capture, ready.models.clip)
            studied.answers(ready.settings)
            found.append(studied)
            advance(number, len(groups))
    return found


def _write(file: Path, found: Tuned, report: dict[str, Any]) -> Path:
    from ..settings_file import write_settings

    told = {
        "model": report["model"],
        "clip": report["clip"] or "none",
        "dataset": report["dataset"],
        "giou_searched": [report["searched"][name]["giou"] for name in ("before", "tuned")],
        "giou_unseen": [report["unseen"][name]["giou"] for name in ("before", "tuned")],
    }
    return write_settings(file, _named_default(found.settings), told)


def _named_default(settings: Settings) -> Settings:
    """Settings that came from a file, as changes of the default."""
    from ..settings import PROFILES

    return settings if settings.profile in PROFILES else replace(settings, profile="default")


def to_markdown(report: dict[str, Any]) -> str:
    """Figures of both halves before and after, what was changed, and where it was written."""
    from ..evaluation.referring_metrics import NAMES
    from ..evaluation.report import markdown
    from ..evaluation.summary import percent

    rows = [
        [f"{half}, {state}", str(figures["n"]), *(percent(figures[key]) for key in SHOWN)]
        for half in ("searched", "unseen")
        for state in ("before", "tuned")
        if (figures := report[half][state])
    ]
    lines = [markdown(["half", "n", *(NAMES[key] for key in SHOWN)], rows)]
    for half in ("searched", "unseen"):
        low, high = report[half]["interval"]
        gain = f"{100 * report[half]['gain']:+.2f} gIoU on the {half} half"
        lines.append(f"{gain} (95 % of draws: {100 * low:+.2f} to {100 * high:+.2f})")
    lines += [
        f"{step['field']} = {step['value']} ({100 * step['gain']:+.2f} there)"
        for step in report["steps"]
    ] or ["Nothing was better by more than noise; the settings stay."]
    wrote = f"Written: {report['file']}; use it with --profile {_name(report['file'])}"
    worse = "Nothing was written: the half that was not searched is worse with these settings."
    return "\n".join([*lines, "", wrote if report["file"] else worse])


def _name(file: str | None) -> str:
    from ..settings_file import ENDING

    path = Path(file or "")
    return path.name.removesuffix(ENDING) if path.parent == Path() else str(path)
