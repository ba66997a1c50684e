"""What the commands share: options, errors said in one sentence, quiet libraries, sizes."""

from __future__ import annotations

import json
import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..capture import Capture
    from ..models import Models
    from ..settings import Settings

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH_OR_ID",
        help="A Stable Diffusion 1, 2 or XL model: a diffusers folder, a .safetensors file or a "
        "hub id. Left out: REFDIFF_MODEL, else the built-in sticker models.",
    ),
]
Clip = Annotated[
    str | None,
    typer.Option(
        "--clip",
        metavar="PATH_OR_NAME",
        help="An open_clip model: a folder, a name like ViT-B-16/openai, hf-hub:owner/name, or "
        "'none'. Left out: the sticker CLIP with the sticker models, none with any other.",
    ),
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        help="default (measures best), paper (the paper to the letter), or official (the authors' "
        "released code).",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="PX",
        help="Side of the square that has the area at which the model sees the picture: pixels "
        "(512), or multiples of the model's own side (2x).",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, mps. Left out: CUDA where there is one."),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, float16 or bfloat16. Left out: what suits the device."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the noise put on the picture.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON and nothing else to standard output.")
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, and the libraries' own warnings.")
]


@contextmanager
def guarded(debug: bool) -> Iterator[None]:
    """Run a command's work: whatever goes wrong becomes one sentence and exit code 2."""
    with _logging(debug), warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        try:
            yield
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            typer.echo(f"error: {sentence(error)}", err=True)
            raise typer.Exit(2) from None


def sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    import torch

    from ..errors import RefDiffError

    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        said = "memory ran out; try a smaller --size, or --dtype bfloat16"
    elif isinstance(error, OSError) and error.strerror:
        said = f"{error.filename or 'a file'}: {error.strerror}"
    elif not isinstance(error, ValueError | RefDiffError | OSError):
        said = f"unexpected {type(error).__name__} ({said}); --debug shows where"
    return said if said.endswith((".", "?", "!")) else f"{said}."


@contextmanager
def _logging(debug: bool) -> Iterator[None]:
    """Only this package's log reaches standard error, one line a message."""
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    if not debug:
        handler.addFilter(logging.Filter(__name__.split(".")[0]))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@dataclass(frozen=True)
class Ready:
    """Models in memory, and how they are to be used."""

    models: Models
    capture: Capture
    settings: Settings


def make_ready(
    model: str | None,
    clip: str | None,
    device: str | None,
    dtype: str | None,
    profile: str,
    size: str | None,
    seed: int,
) -> Ready:
    """Load what the options name; those that need no model are checked first."""
    from ..diffusers_capture import DiffusersCapture
    from ..models import load_models
    from ..settings import Settings

    settings = Settings.named(profile)
    if size is not None:
        read_size(size)
    models = load_models(model, clip, device, dtype)
    capture = DiffusersCapture(models.pipe)
    if profile == "default":
        settings = replace(settings, empty_below=models.empty_below)
    if size is not None:
        settings = settings.sized(native_sides(size, capture.native))
    return Ready(models, capture, replace(settings, capture=replace(settings.capture, seed=seed)))


def read_size(size: str) -> tuple[float, str]:
    """The number in "512", "512px" or "2x", and its unit: "px" or "x"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(px|x)?", size.strip().lower())
    if not found:
        raise ValueError(
            f"--size is {size!r}; give pixels, such as 512, or multiples of the model's own side, "
            "such as 2x."
        )
    return float(found[1]), found[2] or "px"


def native_sides(size: str, native: int) -> float:
    """A size as multiples of the model's native side, in px; ValueError outside 0 to 16."""
    number, unit = read_size(size)
    sides = number if unit == "x" else number / native
    if not 0 < sides <= 16:
        raise ValueError(
            f"--size is {size!r}; the model's own side is {native} px, and up to 16 times that "
            f"({16 * native}) can be had."
        )
    return sides


def print_json(data: Any, indent: int | None = None) -> None:
    """One JSON value to standard output."""
    typer.echo(json.dumps(data, indent=indent, ensure_ascii=False))


def table(heads: list[str], rows: list[list[Any]], numbers: bool = False) -> Any:
    """A plain rich table; numbers: what follows the first column stands to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, head in enumerate(heads):
        right = numbers and index > 0
        made.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in rows:
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        made.add_row(*map(Text, cells))
    return made
