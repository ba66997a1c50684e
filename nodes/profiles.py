"""The profiles that nodes offer: the built-in ones, and what `refdiff tune` wrote, by its NAME.

NAME.refdiff.toml lies in models/refdiff, or in the folder that REFDIFF_SETTINGS names. A graph
says a NAME of the list and never a path, so that a stranger's graph reads nothing else.
"""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..refdiff.families import Family
from ..refdiff.settings import PROFILES, Settings
from ..refdiff.settings_file import chosen_folder, files_in, read_settings

FOLDER = "refdiff"

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def tuned() -> dict[str, Path]:
    """The files there are, by NAME; a name of a built-in profile stands for that."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    found = files_in([*folders, *chosen_folder()])
    return {name: path for name, path in found.items() if name not in PROFILES}


def offered() -> list[str]:
    """What the list of profiles shows."""
    return [*PROFILES, *tuned()]


def settings_of(profile: str, family: Family) -> Settings:
    """The settings of an entry of the list for a family of models; ValueError for any other."""
    files = tuned()
    if profile not in (*PROFILES, *files):
        raise ValueError(
            f"profile is {str(profile)[:60]!r}, wanted one of {', '.join([*PROFILES, *files])}; "
            "put NAME.refdiff.toml into models/refdiff and choose NAME."
        )
    return read_settings(files[profile]) if profile in files else Settings.named(profile, family)


def state_of(profile: str | None) -> tuple[str | None, int]:
    """What changes when an entry's file does, by which ComfyUI knows to run a node again."""
    path = tuned().get(profile or "")
    return profile, 0 if path is None else path.stat().st_mtime_ns
