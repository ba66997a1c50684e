"""`refdiff generate`: a picture of a prompt, and the masks of words of it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Clip,
    Debug,
    Device,
    Dtype,
    Embeddings,
    Loras,
    Model,
    Profile,
    Seed,
    guarded,
    make_ready,
)

if TYPE_CHECKING:
    from ..painting.generate import Generated

Prompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT",
        help='What to paint, such as "a red cat next to a house".',
        show_default=False,
    ),
]
Words = Annotated[
    str | None,
    typer.Option(
        "--masks", metavar="W,W", help="Words of the prompt to mask. Left out: its main noun."
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FILE", help="The picture; masks go beside it."),
]
Steps = Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps of denoising.")]
Guidance = Annotated[float, typer.Option("--guidance", help="How closely PROMPT is followed.")]
Negative = Annotated[str, typer.Option("--negative", metavar="TEXT", help="What not to paint.")]
Height = Annotated[int | None, typer.Option("--height", metavar="PX", min=8, help="In pixels.")]
Width = Annotated[int | None, typer.Option("--width", metavar="PX", min=8, help="In pixels.")]
Last = Annotated[
    float,
    typer.Option(
        "--last", min=0, max=1, help="Read only this share of the steps, the last ones; 1 is all."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]


def generate(
    prompt: Prompt,
    words: Words = None,
    out: Out = Path("generated.png"),
    steps: Steps = 30,
    guidance: Guidance = 7.5,
    negative: Negative = "",
    height: Height = None,
    width: Width = None,
    last: Last = 1.0,
    overwrite: Overwrite = False,
    model: Model = None,
    clip: Clip = None,
    embedding: Embeddings = None,
    lora: Loras = None,
    profile: Profile = "default",
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Make a picture, and masks of words of its prompt out of the same passes.

    The picture is the one that the model makes without being watched. For "cat" and out.png the
    mask is out.cat.png, 255 inside, all 0 where nothing was found.
    """
    with guarded(debug):
        asked = _asked(prompt, words)
        files = _files(out, asked, overwrite)
        ready = make_ready(model, clip, device, dtype, profile, None, seed, embedding, lora)
        size = _size(height, width)
        found = _made(ready, prompt, asked, steps, guidance, negative, seed, size, last)
        _write(found, files)
        for word, answer in found.found.items():
            share = float(answer.mask.float().mean())
            typer.echo(f"{word}: {share:.1%} of the picture, presence {answer.presence:.2f}")
        for path in files.values():
            typer.echo(f"  {path}")


def _asked(prompt: str, words: str | None) -> list[str]:
    """The words to mask, all of them in the prompt."""
    from ..expression import parse, with_root

    expression = parse(prompt)
    asked = [word.strip() for word in (words or "").split(",") if word.strip()]
    for word in asked:
        with_root(expression, word)
    return asked or [expression.root.word.text]


def _files(out: Path, words: list[str], overwrite: bool) -> dict[str, Path]:
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"'{out}' is no kind of picture that is written here; take .png.")
    files = {"": out}
    for word in words:
        slug = re.sub(r"\W+", "-", word.lower()).strip("-") or "word"
        files[word] = out.with_name(f"{out.stem}.{slug}.png")
    for path in files.values():
        if path.exists() and not overwrite:
            raise ValueError(f"'{path}' is there already; write elsewhere, or pass --overwrite.")
    return files


def _size(height: int | None, width: int | None) -> tuple[int, int] | None:
    if (height is None) != (width is None):
        raise ValueError("--height and --width go together; give both or none.")
    return None if height is None or width is None else (height, width)


def _made(
    ready: Any,
    prompt: str,
    words: list[str],
    steps: int,
    guidance: float,
    negative: str,
    seed: int,
    size: tuple[int, int] | None,
    last: float,
) -> Generated:
    from ..painting.generate import generate as make

    return make(
        ready.models.pipe,
        prompt,
        words,
        ready.models.clip,
        ready.settings,
        steps=steps,
        guidance=guidance,
        negative=negative,
        seed=seed,
        size=size,
        weights=lambda done: float(done > 1 - last or done == 1),
    )


def _write(found: Generated, files: dict[str, Path]) -> None:
    from ..io.files import write_safely

    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    pictures = {"": found.image, **{word: one.mask_image for word, one in found.found.items()}}
    for name, picture in pictures.items():
        kind = kinds.get(files[name].suffix.lower(), "PNG")
        write_safely(files[name], partial(picture.save, format=kind))
