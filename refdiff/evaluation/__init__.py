"""Measuring masks against scenes whose objects are known: data, figures, report."""

from __future__ import annotations

from .metrics import Outcome, judge, summarise
from .report import Report, Segmenter, evaluate, kinds_table, table
from .scenes import Scene, SceneObject, Sentence, read_scenes, write_scenes

__all__ = [
    "Outcome",
    "Report",
    "Scene",
    "SceneObject",
    "Segmenter",
    "Sentence",
    "evaluate",
    "judge",
    "kinds_table",
    "read_scenes",
    "summarise",
    "table",
    "write_scenes",
]
