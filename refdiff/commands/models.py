"""`refdiff models`: what `--model` could be."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .common import Debug, Json, guarded
from .console import print_json, table


def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...", help="Look through these folders too.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the models at hand: built in, REFDIFF_MODEL's, in the hub's cache, in folders.

    Nothing is downloaded or loaded; a .safetensors file is recognised by its header. What cannot be
    used (a LoRA, a diffusion transformer) is listed with the reason.
    """
    with guarded(debug):
        from ..models.catalogue import list_models

        found = list_models(folders or [])
        if as_json:
            print_json([asdict(entry) for entry in found], 2)
            return
        from rich.console import Console

        rows = [[e.name, e.place, "yes" if e.usable else "no", e.what] for e in found]
        Console(highlight=False).print(table(["--model", "from", "usable", "what"], rows))
