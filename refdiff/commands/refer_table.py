"""The paper's ablation on a referring data set: profiles, halves and proposals, one run a row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .common import Ready
from .compare import without_clip
from .console import print_json
from .evaluate import with_halves
from .refer import measure
from .refer_answers import OBJECTS, OWN

if TYPE_CHECKING:
    from ..evaluation.datasets import DataSplit
    from ..evaluation.run import Lost

PROFILES = ("default", "paper", "official")
PAGE, TABLE = "table.md", "table.json"


@dataclass(frozen=True)
class Row:
    """One run of the table. proposals: as the option; kind: own, objects or given."""

    profile: str
    halves: str
    proposals: str

    @property
    def kind(self) -> str:
        """How the row's proposals are called: a folder's are "given"."""
        return self.proposals if self.proposals in (OWN, OBJECTS) else "given"

    @property
    def folder(self) -> str:
        """A name for the row's own folder."""
        return re.sub(r"\W+", "-", f"{self.profile}-{self.halves}-{self.kind}")


def print_table(
    ready: Ready, split: DataSplit, lost: Lost, folder: Path, proposals: str, as_json: bool
) -> None:
    """Run every row in a folder of its own, stopped ones going on, and print the table."""
    from ..evaluation.provenance import commit, hardware, versions
    from ..io.files import write_safely

    rows = list(rows_of(ready, split, proposals))
    _check_place(folder, rows)
    found = []
    for row in rows:
        typer.echo(f"note: {row.profile}, {row.halves}, {row.kind} proposals", err=True)
        summary = measure(
            _ready_for(ready, row),
            split,
            lost.copy(),
            folder / row.folder,
            row.halves,
            row.proposals,
        )
        found.append((row, summary))
    plain = {
        "dataset": split.dataset,
        "split": split.split,
        "selection": split.selection.to_dict(),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(ready.models.pipe.device),
        "rows": [figures_of_row(row, summary, split) for row, summary in found],
    }
    page = to_markdown(plain)
    text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    write_safely(folder / PAGE, page.encode())
    write_safely(folder / TABLE, text.encode())
    print_json(plain, 2) if as_json else typer.echo(page)


def _check_place(folder: Path, rows: Sequence[Row]) -> None:
    """ValueError when a table is there and no run of it, so that it is somebody else's."""
    from ..evaluation.run import RUN

    there = [folder / name for name in (PAGE, TABLE) if (folder / name).exists()]
    if there and not any((folder / row.folder / RUN).is_file() for row in rows):
        raise ValueError(f"'{there[0]}' was not written by refdiff; write elsewhere with --out.")


def rows_of(ready: Ready, split: DataSplit, proposals: str) -> Iterator[Row]:
    """Every row that the models and the data set allow."""
    kinds = [OWN]
    if any(item.objects for item in split.items):
        kinds.append(OBJECTS)
    if proposals not in kinds:
        kinds.append(proposals)
    halves = ["generative"] + (["clip", "both"] if ready.models.clip else [])
    own = ready.settings.profile
    for profile in [own, *(name for name in PROFILES if name != own)]:
        for kind in kinds:
            for half in halves:
                yield Row(profile, half, kind)


def _ready_for(ready: Ready, row: Row) -> Ready:
    from ..settings import Settings

    settings = ready.settings
    if row.profile != settings.profile:
        settings = Settings.named(row.profile, ready.capture.family)
        capture = replace(settings.capture, seed=ready.settings.capture.seed)
        settings = replace(settings, capture=capture)
    ready = replace(ready, settings=settings)
    return without_clip(ready) if row.halves == "generative" else with_halves(ready, row.halves)


def figures_of_row(row: Row, summary: dict[str, Any], split: DataSplit) -> dict[str, Any]:
    """A row's figures, and the paper's printed one where it is the whole of the same split."""
    from ..evaluation.datasets.published import ABLATION, is_whole

    printed = ABLATION.get((split.dataset, split.split), {})
    shown = row.profile == "paper" and is_whole(split)
    return {
        "profile": row.profile,
        "halves": row.halves,
        "proposals": row.kind,
        "figures": summary["figures"],
        "paper_miou": printed.get((row.halves, row.kind)) if shown else None,
        "seconds_per_sentence": summary["seconds_per_sentence"],
        "peak_memory_mib": summary["run"].get("peak_memory_mib"),
        "hash": summary["run"]["hash"],
    }


def to_markdown(table: dict[str, Any]) -> str:
    """The table as a page: figures in per cent, the paper's mIoU beside where it printed one."""
    from ..evaluation.referring_metrics import NAMES
    from ..evaluation.report import markdown
    from ..evaluation.summary import percent

    keys = ["oiou", "miou", "pr50", "pr70", "pr90", "giou", "ciou"]
    heads = ["", "n", *(NAMES[key] for key in keys), "the paper's mIoU", "s / sentence", "MiB"]
    rows = []
    for row in table["rows"]:
        figures, seconds, memory = (
            row[key] for key in ("figures", "seconds_per_sentence", "peak_memory_mib")
        )
        name = f"{row['profile']}, {row['halves']}, {row['proposals']} proposals"
        cells = [name, str(figures["n"]), *(percent(figures[key]) for key in keys)]
        cells += [percent(row["paper_miou"])]
        cells += ["-" if seconds is None else f"{seconds:.3f}"]
        rows.append([*cells, "-" if memory is None else f"{memory:.0f}"])
    machine = ", ".join(f"{name} {value}" for name, value in table["hardware"].items())
    head = f"# {table['dataset']}, {table['split']}: profiles, halves, proposals"
    return f"{head}\n\n{markdown(heads, rows)}\nRun on: {machine}.\n"
