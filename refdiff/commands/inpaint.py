"""`refdiff inpaint`: find one thing in a picture, paint another in its place."""

from __future__ import annotations

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
    Json,
    Loras,
    Model,
    Profile,
    Seed,
    Size,
    guarded,
    make_ready,
)
from .console import print_json

if TYPE_CHECKING:
    from ..models.catalogue import Models
    from ..painting.inpaint import Mode, Painted
    from ..painting.painter import PaintSettings
    from .common import Ready

LOSSY = (".jpg", ".jpeg", ".gif")
ENDING = ".painted.png"

Picture = Annotated[
    str,
    typer.Argument(metavar="IMAGE", help="A picture, or 'sample'.", show_default=False),
]
Find = Annotated[
    str,
    typer.Argument(
        metavar="FIND", help='What to find, such as "the red cup on the left".', show_default=False
    ),
]
Paint = Annotated[
    str | None,
    typer.Argument(
        metavar="[PAINT]", help='What to paint, such as "a green teapot".', show_default=False
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="The painted picture. Left out: photo.painted.png."
    ),
]
Remove = Annotated[
    bool, typer.Option("--remove", help="Fill the place from its surroundings; no PAINT is needed.")
]
Keep = Annotated[bool, typer.Option("--keep", help="Paint everything but what was found.")]
Swap = Annotated[
    bool, typer.Option("--swap", help='PAINT is a noun: with "dog" the red cat becomes a red dog.')
]
Grow = Annotated[
    int | None,
    typer.Option("--grow", metavar="PX", help="Widen the mask. Left out: by the thing's size."),
]
Feather = Annotated[
    int | None,
    typer.Option("--feather", metavar="PX", min=0, help="Soft edge beyond it. Left out: likewise."),
]
Steps = Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps of denoising.")]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", help="How closely PAINT is followed. Left out: 7.5, for the stickers 3."
    ),
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", help="Above 0 to 1: how much of what was there is painted anew."),
]
Negative = Annotated[str, typer.Option("--negative", metavar="TEXT", help="What not to paint.")]
Tries = Annotated[
    int, typer.Option("--tries", metavar="N", min=1, help="Paint so many; CLIP takes the best.")
]
Context = Annotated[
    float | None,
    typer.Option(
        "--context",
        min=1,
        help="How much the painter sees around the thing, in its long sides. Left out: 2, for the "
        "stickers 1.25.",
    ),
]
Painter = Annotated[
    str | None,
    typer.Option(
        "--painter",
        metavar="MODEL",
        help="Paint with this model; left out, with the one that finds (for the stickers, with "
        "their own that paints).",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there.")]


def inpaint(
    picture: Picture,
    find: Find,
    paint: Paint = None,
    out: Out = None,
    remove: Remove = False,
    keep: Keep = False,
    swap: Swap = False,
    grow: Grow = None,
    feather: Feather = None,
    steps: Steps = 30,
    guidance: Guidance = None,
    strength: Strength = None,
    negative: Negative = "",
    tries: Tries = 1,
    context: Context = None,
    overwrite: Overwrite = False,
    model: Model = None,
    painter: Painter = None,
    clip: Clip = None,
    embedding: Embeddings = None,
    lora: Loras = None,
    profile: Profile = "default",
    size: Size = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find a thing by a sentence and paint another in its place, with one model unless told.

    Every pixel outside the feathered mask stays as it is, byte for byte (in a PNG). A small thing
    in a large picture is cut out with its surroundings, painted at the model's own size and put
    back.

    Exits with 0, with 1 when nothing was found (then nothing is written), with 2 for bad input.
    """
    with guarded(debug):
        mode = _mode(remove, keep, swap)
        path, target = _places(picture, out, overwrite)
        prompt = _prompt(find, paint, mode)
        brush = _brush(steps, guidance, strength, negative, seed, tries, grow, feather, context)
        ready = make_ready(model, clip, device, dtype, profile, size, seed, embedding, lora)
        painted = _painted(path, find, prompt, mode, ready, painter, brush)
        if not painted.empty:
            _save(painted, target)
        _say(painted, target, ready.models, mode, as_json)
    if painted.empty:
        raise typer.Exit(1)


def _mode(remove: bool, keep: bool, swap: bool) -> Mode:
    asked: list[Mode] = []
    asked += ["remove"] if remove else []
    asked += ["keep"] if keep else []
    asked += ["swap"] if swap else []
    if len(asked) > 1:
        raise ValueError(f"--{asked[0]} and --{asked[1]} exclude each other; choose one.")
    return asked[0] if asked else "replace"


def _places(typed: str, out: Path | None, overwrite: bool) -> tuple[Path, Path]:
    """The picture to read and the file to write."""
    from .. import stickers
    from ..io.pictures import picture_size
    from .segment import SAMPLE

    packaged = typed == SAMPLE and not Path(typed).exists()
    path = stickers.SAMPLE if packaged else Path(typed)
    picture_size(path)
    target = out or Path(path.stem + ENDING)
    if target.suffix.lower() not in _endings():
        raise ValueError(f"'{target}' is no kind of picture that can be written; take .png.")
    if target.exists() and not overwrite:
        raise ValueError(f"'{target}' is there already; write elsewhere, or pass --overwrite.")
    return path, target


def _endings() -> dict[str, str]:
    from PIL import Image

    Image.init()
    return {end: kind for end, kind in Image.registered_extensions().items() if kind in Image.SAVE}


def _prompt(find: str, paint: str | None, mode: Mode) -> str:
    from ..expression import parse
    from ..painting.inpaint import prompt_of

    return prompt_of(parse(find), paint, mode)


def _brush(
    steps: int,
    guidance: float | None,
    strength: float | None,
    negative: str,
    seed: int,
    tries: int,
    grow: int | None,
    feather: int | None,
    context: float | None,
) -> PaintSettings:
    from ..painting.painter import PaintSettings

    return PaintSettings(
        steps=steps,
        guidance=guidance,
        strength=strength,
        negative=negative,
        seed=seed,
        tries=tries,
        grow=grow,
        feather=feather,
        context=context,
    )


def _painted(
    path: Path,
    find: str,
    prompt: str,
    mode: Mode,
    ready: Ready,
    painter: str | None,
    brush: PaintSettings,
) -> Painted:
    from ..models.catalogue import load_painter
    from ..painting.canvas import Canvas
    from ..painting.inpaint import painted
    from ..pipeline import Look

    canvas = Canvas.of(path)
    found = Look(canvas.picture, ready.capture, ready.models.clip, ready.settings)(find)
    pipe = load_painter(ready.models, painter)
    return painted(pipe, canvas, found, prompt, mode, ready.models.clip, brush)


def _save(painted: Painted, target: Path) -> None:
    from ..io.files import write_safely

    kind = _endings()[target.suffix.lower()]
    options: dict[str, Any] = {"format": kind}
    options |= {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    if profile := painted.image.info.get("icc_profile"):
        options["icc_profile"] = profile
    image = painted.image.convert("RGB") if kind == "JPEG" else painted.image
    write_safely(target, partial(image.save, **options))


def _say(painted: Painted, target: Path, models: Models, mode: str, as_json: bool) -> None:
    notes = list(painted.notes)
    if caution := models.caution(painted.found.expression):
        notes.append(caution)
    if not painted.empty and target.suffix.lower() in LOSSY:
        notes.append(f"{target.suffix} is lossy, so all of its pixels differ a little; .png keeps")
    if as_json:
        print_json(_report(painted, target, mode, notes))
        return
    root = painted.found.expression.root.word.text
    if painted.empty:
        typer.echo(f"{root}: nothing found, so nothing was painted")
    else:
        share = float((painted.opacity > 0).float().mean())
        verb = "painted around" if mode == "keep" else "painted over"
        typer.echo(f"{root} {verb}, {share:.1%} of the picture: {painted.prompt}")
    for note in notes:
        typer.echo(f"  note: {note}")
    if not painted.empty:
        typer.echo(f"  {target}")


def _report(painted: Painted, target: Path, mode: str, notes: list[str]) -> dict[str, Any]:
    return {
        "mode": mode,
        "prompt": painted.prompt,
        "file": None if painted.empty else str(target),
        "painted": round(float((painted.opacity > 0).float().mean()), 4),
        "window": None if painted.window is None else list(painted.window.box),
        "clip_prefers": None if painted.prefers is None else round(painted.prefers, 4),
        "changed_outside": painted.changed_outside,
        "notes": notes,
        "found": painted.found.report(),
    }
