"""The figures of a run as one JSON file, one Markdown page, and a CSV of every sentence."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..io.files import write_safely
from .datasets.items import DataSplit
from .datasets.published import PAPER, count_warning, is_whole
from .referring_metrics import NAMES, Score, by_kind, figures
from .report import markdown

SUMMARY, PAGE, SCORES, REPORT = "summary.json", "summary.md", "scores.csv", "report.html"
_COLUMNS = ("id", "image", "kinds", "targets", "intersection", "predicted", "truth", "answered")
_HEAD = [*_COLUMNS, "iou"]


def summarise_split(
    split: DataSplit,
    scores: Sequence[Score],
    run: Mapping[str, Any],
    lost: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything about a run's figures as plain data. run: what made the masks, may be {}."""
    times = [one.seconds for one in scores if one.seconds is not None]
    warning = count_warning(split.dataset, split.split, split.total)
    unanswered = sum(not one.answered for one in scores)
    warnings = [note for note in (warning, split.lossy, *split.notes) if note]
    if unanswered:
        warnings.append(f"{unanswered} sentences have no mask and count as empty ones")
    if lost and lost["sentences"]:
        names = [*lost["missing"], *lost["unreadable"]]
        warnings.append(
            f"{lost['sentences']} sentences are left out, because {len(names)} pictures are not "
            f"there or cannot be read, such as {names[0]}"
        )
    return {
        "format": 1,
        "dataset": split.dataset,
        "split": split.split,
        "selection": split.selection.to_dict(),
        "sentences_in_split": split.total,
        "figures": figures(scores),
        "kinds": dict(by_kind(scores)),
        "paper": PAPER.get((split.dataset, split.split)) if is_whole(split) else None,
        "seconds_per_sentence": sum(times) / len(times) if times else None,
        "warnings": warnings,
        "lost_pictures": dict(lost or {}),
        "run": dict(run),
    }


def check_place(folder: Path) -> None:
    """ValueError when figures in this folder would replace files that refdiff did not write."""
    there = [name for name in (SCORES, PAGE, SUMMARY, REPORT) if os.path.lexists(folder / name)]
    if there and not _is_ours(folder):
        raise ValueError(
            f"'{folder / there[0]}' was not written by refdiff; write elsewhere with --out."
        )


def _is_ours(folder: Path) -> bool:
    """Whether the scores there, which are written first, are such as refdiff writes."""
    try:
        with open(folder / SCORES, encoding="utf-8", newline="") as file:
            return next(csv.reader(file), []) == _HEAD
    except (OSError, ValueError, csv.Error):
        return False


def write_summary(folder: Path, summary: Mapping[str, Any], scores: Sequence[Score]) -> None:
    """Write scores.csv, summary.md and, last, summary.json; each whole or not at all."""
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    write_safely(folder / SCORES, _csv(scores).encode())
    write_safely(folder / PAGE, to_markdown(summary).encode())
    write_safely(folder / SUMMARY, text.encode())


def read_summary(folder: Path) -> dict[str, Any]:
    """What `write_summary` wrote; {} where there is none. ValueError when it is damaged."""
    path = folder / SUMMARY
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (OSError, ValueError, RecursionError):
        pass
    raise ValueError(f"'{path}' is not a summary that refdiff wrote; delete it, or score again.")


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The figures over all and by kind, in per cent, with what made them below."""
    part = summary["selection"]
    chosen = [f"{name} {value}" for name, value in part.items() if value not in (None, 1)]
    lines = [
        f"# {summary['dataset']}, {summary['split']}"
        + (f" ({', '.join(chosen)} of {summary['sentences_in_split']})" if chosen else ""),
        "",
        table_of({"**all**": summary["figures"], **summary["kinds"]}, summary.get("paper")),
        "Per cent, per sentence, at the pictures' own size. oIoU, mIoU and Pr are over sentences "
        "with a target; gIoU and cIoU over all. A sentence of several kinds counts in each.",
        "",
    ]
    lines += [f"- Note: {note}." for note in summary["warnings"]]
    return "\n".join(lines + made_by(summary)) + "\n"


def table_of(
    rows: Mapping[str, Mapping[str, Any]], paper: Mapping[str, float] | None = None
) -> str:
    """Markdown with a row of figures for each name; figures that no row has are left out."""
    keys = [key for key in NAMES if any(row.get(key) is not None for row in rows.values())]
    cells = [
        [name, str(row["n"]), *(percent(row.get(key)) for key in keys)]
        for name, row in rows.items()
    ]
    if paper:
        cells.insert(1, ["the paper", "", *(percent(paper.get(key)) for key in keys)])
    return markdown(["", "n", *(NAMES[key] for key in keys)], cells)


def made_by(summary: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: model, settings hash, versions, hardware, time and memory."""
    run, seconds = summary["run"], summary["seconds_per_sentence"]
    made = run.get("made_by") or {}
    found = {
        "Model": made.get("model"),
        "CLIP": made.get("clip"),
        "Profile": (made.get("settings") or {}).get("profile"),
        "Halves": made.get("halves"),
        "Proposals": made.get("proposals"),
        "Settings hash": run.get("hash"),
        "Commit": run.get("commit"),
        "Versions": ", ".join(f"{k} {v}" for k, v in (run.get("versions") or {}).items()),
        "Hardware": ", ".join(f"{k} {v}" for k, v in (run.get("hardware") or {}).items()),
        "Seconds a sentence": None if seconds is None else f"{seconds:.3f}",
        "Peak memory, MiB": run.get("peak_memory_mib"),
    }
    return [f"- {name}: {value}" for name, value in found.items() if value]


def percent(value: Any) -> str:
    """A share of 1 in per cent with two digits; "-" for none."""
    return "-" if value is None else f"{100 * value:.2f}"


def _csv(scores: Sequence[Score]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    for one in scores:
        row = {name: getattr(one, name) for name in _COLUMNS}
        row |= {
            "kinds": ";".join(one.kinds),
            "answered": int(one.answered),
        }
        writer.writerow([*row.values(), f"{one.iou:.6f}"])
    return text.getvalue()


def read_scores(folder: Path) -> list[Score]:
    """The scores that a summary was made of; ValueError naming the file when it is not whole."""
    path = folder / SCORES
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [_score(row, number, path) for number, row in enumerate(csv.DictReader(file), 2)]
    except OSError as error:
        raise ValueError(
            f"There is no readable '{path}'; name a folder that `refdiff eval refer` or "
            "`refdiff score` wrote."
        ) from error


def _score(row: Mapping[str, Any], number: int, path: Path) -> Score:
    try:
        kinds = tuple(kind for kind in row["kinds"].split(";") if kind)
        counts = {name: int(row[name]) for name in _COLUMNS[3:7]}
        return Score(row["id"], row["image"], kinds, **counts, answered=row["answered"] == "1")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Line {number} of '{path}' is not one of refdiff's scores; score the masks again."
        ) from error
