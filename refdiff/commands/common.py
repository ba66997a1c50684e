"""What the commands share: options, errors said in one sentence, quiet libraries, sizes."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import flush, hush, hush_if_full, plain, say_anything

if TYPE_CHECKING:
    from ..attention.capture import Capture
    from ..models.catalogue import Models
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
        help="default (measures best), paper (the paper to the letter), official (the authors' "
        "released code), or a NAME.refdiff.toml as `refdiff tune` writes: its NAME or its path.",
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
Embeddings = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        metavar="FILE",
        help="A word learned by textual inversion, .safetensors: FILE, whose word is the file's "
        "own or its name, or WORD=FILE. May be given several times.",
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE",
        help="A LoRA put onto the model, .safetensors: FILE or FILE:0.8. Its trigger words can "
        "then be looked for. May be given several times.",
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


READER_GONE = 1  # with which rich exits when nobody reads standard output any more


@contextmanager
def guarded(debug: bool) -> Iterator[None]:
    """Run a command's work: whatever goes wrong becomes one sentence and exit code 2."""
    with _terminable(), _logging(debug), warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        say_anything()
        try:
            yield
            flush()
        except (typer.Exit, typer.Abort):
            raise
        except (BrokenPipeError, SystemExit) as gone:
            if isinstance(gone, SystemExit) and gone.code != READER_GONE:
                raise
            hush()  # whoever read standard output has heard enough
            raise typer.Exit(141) from None
        except Exception as error:
            if debug:
                traceback.print_exc()
            said = sentence(error)
            hush_if_full()
            typer.echo(f"error: {said}", err=True)
            raise typer.Exit(2) from None


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the command as an exception does, so that nothing half-written stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    from ..errors import RefDiffError

    said = plain(" ".join(str(error).split())) or type(error).__name__
    if len(said) > LONGEST:
        said = f"{said[: LONGEST // 2]} [...] {said[-LONGEST // 2 :]}"
    on_device = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    if isinstance(error, MemoryError | on_device) or _ALLOCATION.search(said):
        said = "memory ran out; try a smaller --size, or --dtype bfloat16"
    elif isinstance(error, OSError) and error.strerror:
        said = f"{plain(error.filename or _nameless(error))}: {error.strerror}"
    elif not isinstance(error, ValueError | RefDiffError | OSError):
        said = f"unexpected {type(error).__name__} ({said}); --debug shows where"
    return said if said.endswith((".", "?", "!")) else f"{said}."


def _nameless(error: OSError) -> str:
    """What could not be used: files are named, so that it is standard output when it is full."""
    full = error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF)
    return "standard output" if full else "a file"


_ALLOCATION = re.compile("DefaultCPUAllocator|not enough memory|[Cc]an't allocate memory")
LONGEST = 800  # letters of one sentence


@contextmanager
def _logging(debug: bool) -> Iterator[None]:
    """Only this package's log reaches standard error, one line a message."""
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain("note: %(message)s"))
    if not debug:
        handler.addFilter(logging.Filter(__name__.split(".")[0]))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(plain, super().format(record).split("\n")))


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
    embeddings: list[str] | None = None,
    loras: list[str] | None = None,
) -> Ready:
    """Load what the options name; those that need no model are checked first."""
    from ..attention.diffusers import DiffusersCapture
    from ..models.catalogue import load_models
    from ..settings_file import settings_named

    settings_named(profile)  # refused before anything is loaded
    if size is not None:
        read_size(size)
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"--seed is {seed}, wanted 0 up to {(1 << 63) - 1}.")
    models = load_models(model, clip, device, dtype, embeddings or (), loras or ())
    capture = DiffusersCapture(models.pipe)
    settings = settings_named(profile, capture.family)
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
