"""Run a segmenter over scenes and report its figures, overall and by kind of sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..io.pictures import is_tensor
from .metrics import Figures, Outcome, judge, summarise, summarise_kind
from .scenes import Scene, Sentence

if TYPE_CHECKING:
    import torch

Finder = Callable[[Sentence], "np.ndarray | torch.Tensor"]
Segmenter = Callable[[Scene], Finder]
Progress = Callable[[int, int], object]

COLUMNS = {"miou": "mIoU", "oiou": "oIoU", "pr50": "Pr@0.5", "right_object": "right object"}


@dataclass(frozen=True)
class Report:
    """The outcomes of one profile, in the order of the sentences, and the time they took."""

    profile: str
    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0

    @property
    def overall(self) -> Figures:
        """Figures over all sentences that mean at least one object."""
        return summarise(self.outcomes)

    @property
    def kinds(self) -> dict[str, Figures]:
        """Figures by kind, in the order in which the kinds first appear."""
        names = dict.fromkeys(outcome.kind for outcome in self.outcomes)
        return {
            name: summarise_kind([outcome for outcome in self.outcomes if outcome.kind == name])
            for name in names
        }

    def to_dict(self) -> dict[str, Any]:
        """Profile, overall, kinds and seconds_per_sentence, as plain data for JSON."""
        count = len(self.outcomes)
        return {
            "profile": self.profile,
            "overall": self.overall,
            "kinds": self.kinds,
            "seconds_per_sentence": round(self.seconds / count, 6) if count else None,
        }

    def to_markdown(self) -> str:
        """A table with one row per kind and one for all."""
        rows = [(name, figures) for name, figures in self.kinds.items()]
        rows.append(("**overall**", self.overall))
        heads = ["kind", "n", *COLUMNS.values(), "empty"]
        keys = ["n", *COLUMNS, "empty_rate"]
        return markdown(heads, [[name, *_cells(figures, keys)] for name, figures in rows])


def evaluate(
    scenes: Sequence[Scene],
    segmenter: Segmenter,
    profile: str = "default",
    limit: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Ask the segmenter for the mask of every sentence, and judge the masks.

    segmenter: called once per scene, so that the picture's own work is done once, it returns a
    function from a sentence to a mask [H, W] bool. limit: the first so many sentences in the
    order of the file. progress: called with (done, total) after each sentence. The time counted
    is the segmenter's alone. Raises ValueError when the limit is not positive, there is no
    sentence, or a mask has not its picture's size.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"The limit is a number of sentences from 1 up, got {limit}.")
    available = sum(len(scene.sentences) for scene in scenes)
    if not available:
        raise ValueError("The scenes hold no sentence; give scenes with sentences.")
    total = available if limit is None else min(limit, available)
    outcomes: list[Outcome] = []
    seconds = 0.0
    for scene in scenes:
        sentences = scene.sentences[: total - len(outcomes)]
        if not sentences:
            continue
        objects = scene.masks()
        for sentence, mask, spent in _masks(segmenter, scene, sentences):
            seconds += spent
            known = halved(objects, sentence)
            outcomes.append(judge(mask, known, sentence.objects, sentence.kind))
            if progress:
                progress(len(outcomes), total)
    return Report(profile, tuple(outcomes), seconds)


def halved(objects: np.ndarray, sentence: Sentence) -> np.ndarray:
    """The objects [N, H, W] bool, of those that a sentence means only the half it asks for."""
    if not sentence.half:
        return objects
    known = objects.copy()
    axis, far = {"top": (0, False), "bottom": (0, True), "left": (1, False), "right": (1, True)}[
        sentence.half
    ]
    for index in sentence.objects:
        used = np.flatnonzero(objects[index].any(1 - axis))
        middle = used[0] + round((used[-1] + 1 - used[0]) / 2)
        off = slice(None, middle) if far else slice(middle, None)
        known[index][(off, slice(None)) if axis == 0 else (slice(None), off)] = False
    return known


def table(reports: Mapping[str, Report | Mapping[str, Any]]) -> str:
    """Markdown table of several reports, or of what their `to_dict` gave: one row each."""
    heads = ["", "n", *COLUMNS.values(), "s / sentence"]
    rows = []
    for name, report in reports.items():
        data = _plain(report)
        cells = _cells(data["overall"], ["n", *COLUMNS])
        rows.append([name, *cells, _cell(data.get("seconds_per_sentence"))])
    return markdown(heads, rows)


def kinds_table(reports: Mapping[str, Report | Mapping[str, Any]], figure: str = "miou") -> str:
    """Markdown table of one figure by kind: a row per report, a column per kind.

    figure: miou, oiou, pr50 or right_object; kinds of which nothing is there show empty_rate.
    """
    plain = {name: _plain(report)["kinds"] for name, report in reports.items()}
    kinds = list(dict.fromkeys(kind for found in plain.values() for kind in found))
    rows = [
        [
            name,
            *(
                _cell(found.get(kind, {}).get(figure, found.get(kind, {}).get("empty_rate")))
                for kind in kinds
            ),
        ]
        for name, found in plain.items()
    ]
    return markdown(["", *kinds], rows)


def _masks(
    segmenter: Segmenter, scene: Scene, sentences: Sequence[Sentence]
) -> Iterator[tuple[Sentence, np.ndarray, float]]:
    """Each sentence with its mask and the seconds it took; the first bears the picture's work."""
    find: Finder | None = None
    mask: Any
    for sentence in sentences:
        start = time.perf_counter()
        find = find or segmenter(scene)
        mask = find(sentence)
        if is_tensor(mask):
            mask = mask.detach().cpu().numpy()
        yield sentence, np.asarray(mask), time.perf_counter() - start


def _plain(report: Report | Mapping[str, Any]) -> Mapping[str, Any]:
    return report.to_dict() if isinstance(report, Report) else report


def _cells(figures: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [_cell(figures.get(key)) for key in keys]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, rule, *rows]) + "\n"
