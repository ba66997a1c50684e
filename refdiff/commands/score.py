"""`refdiff score`: masks that are already made against a data set, or one run against another."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Debug, Json, guarded
from .console import print_json
from .refer import DataSetName, First, ImageRoots, write_figures

if TYPE_CHECKING:
    from ..evaluation.bootstrap import Difference
    from ..evaluation.datasets import Selection


def score(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="predictions.jsonl of a run, or anybody's masks: a picture for each sentence, "
            "named by its id (143.png; PhraseCut's by task id).",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="DATA", help="The data set.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Left out: the one the run was of, else val."),
    ] = None,
    dataset: DataSetName = "auto",
    images: ImageRoots = None,
    first: First = None,
    every: Annotated[int | None, typer.Option("--every", metavar="K", min=1)] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where figures go. Left out: DIR."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Two folders that a run or this command wrote: what B has over A, with 95 % "
            "intervals from a paired bootstrap, over all sentences and by kind.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score masks against a data set without any model, or compare two runs.

    The figures are those of `refdiff eval refer`. Sentences without a mask count as empty masks,
    and the summary says how many.
    """
    with guarded(debug):
        if compare is not None:
            if folder is not None or against is not None:
                raise ValueError("--compare takes two folders and neither DIR nor --against.")
            _compare(*compare, as_json)
            return
        if folder is None or against is None:
            raise ValueError(
                "A folder of masks and its data set are wanted: refdiff score DIR --against DATA, "
                "or refdiff score --compare A B."
            )
        summary = scored(folder, against, split, dataset, images or [], first, every, out or folder)
        if as_json:
            print_json(summary, 2)
        else:
            from ..evaluation.summary import to_markdown

            typer.echo(to_markdown(summary))


def scored(
    folder: Path,
    against: Path,
    split: str | None,
    dataset: str,
    images: list[Path],
    first: int | None,
    every: int | None,
    out: Path,
) -> dict[str, Any]:
    """Read the data set, score the folder's masks against it, write the figures."""
    from ..evaluation.datasets import read_split
    from ..evaluation.predictions import FILE, MaskFolder, read_predictions
    from ..evaluation.run import read_run
    from ..evaluation.summary import check_place

    check_place(out)
    ours = (folder / FILE).is_file()
    masks = None if ours else MaskFolder(folder)
    label, split = _told(folder, dataset, split) if ours else (None, split)
    found = read_split(
        against,
        split or "val",
        _known(against, label, dataset),
        images,
        _selection(folder, first, every),
    )

    def predictions(only: Collection[str] | None) -> Any:
        if masks is not None:
            return masks.of(found.items, only)
        return read_predictions(folder, label or found.dataset, found.split, only)

    if next(iter(predictions({item.id for item in found.items})), None) is None:
        raise ValueError(
            f"No mask in '{folder}' is of a sentence of {found.dataset}, {found.split}; masks are "
            "named by the data set's sentence ids."
        )
    return write_figures(out, found, predictions, read_run(folder))


def _told(folder: Path, dataset: str, split: str | None) -> tuple[str | None, str | None]:
    """The data set and split that a folder's lines speak of; ValueError where these are several."""
    from ..evaluation.datasets import AUTO
    from ..evaluation.predictions import splits_in

    known = [
        (name, part)
        for name, part in splits_in(folder)
        if dataset in (AUTO, name) and split in (None, part)
    ]
    if len(known) > 1:
        told = ", ".join(f"{name} {part}" for name, part in known)
        raise ValueError(f"'{folder}' holds masks of {told}; choose with --dataset and --split.")
    return known[0] if known else (None, split)


def _known(against: Path, label: str | None, dataset: str) -> str:
    """The data set to read: the one named, else the one that the lines speak of if it is there."""
    from ..evaluation.datasets import AUTO, find_release

    if dataset == AUTO and label is not None:
        with suppress(ValueError):
            return find_release(against, label)[0]
    return dataset


def _selection(folder: Path, first: int | None, every: int | None) -> Selection:
    """The part asked for, else the part that the folder's last figures are of."""
    from ..evaluation.datasets import Selection
    from ..evaluation.summary import read_summary

    if first is None and every is None:
        part = read_summary(folder).get("selection") or {}
        return Selection(part.get("first"), part.get("every") or 1)
    return Selection(first, every or 1)


def _compare(a: Path, b: Path, as_json: bool) -> None:
    from ..evaluation.bootstrap import compare_scores
    from ..evaluation.summary import read_scores

    one, other = read_scores(a), read_scores(b)
    found = compare_scores(one, other)
    common = found["all"]["giou"].n
    if common < max(len(one), len(other)):
        typer.echo(f"note: {common} sentences are in both of {len(one)} and {len(other)}", err=True)
    if as_json:
        print_json({kind: {n: _plain(d) for n, d in row.items()} for kind, row in found.items()}, 2)
        return
    typer.echo(_table(found))


def _plain(one: Difference) -> dict[str, Any]:
    return {
        "n": one.n,
        "a": one.a,
        "b": one.b,
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
    }


def _table(found: dict[str, dict[str, Difference]]) -> str:
    """Markdown: a row per kind and figure; a star where the interval leaves zero out."""
    from ..evaluation.referring_metrics import NAMES
    from ..evaluation.report import markdown

    rows = [
        [
            kind,
            NAMES[name],
            str(one.n),
            f"{100 * one.a:.2f}",
            f"{100 * one.b:.2f}",
            f"{100 * one.difference:+.2f}",
            f"{100 * one.low:+.2f} to {100 * one.high:+.2f}" + (" *" if one.clear else ""),
        ]
        for kind, row in found.items()
        for name, one in row.items()
        if kind == "all" or name in ("miou", "giou")
    ]
    heads = ["", "figure", "n", "A", "B", "B - A", "95 % of draws"]
    return markdown(heads, rows)
