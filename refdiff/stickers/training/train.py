"""Makes the built-in models from nothing: `python -m refdiff.stickers.training.train --help`.

Every stage saves checkpoints into its work folder and goes on from them after a stop. With
`--start` the VAE is taken from a folder of finished weights, such as the committed ones, and the
UNet and CLIP go on from there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from .. import DATA, PAINTER, SPLITS, WEIGHTS
from .closeups import draw_closeups
from .draw_sample import save_sample
from .emoji import load_emoji
from .export import export as export_weights
from .export import export_painter
from .pool import draw_pool
from .splits import draw_split
from .sprites import TRAINING_STYLES
from .train_clip import train_clip
from .train_closeups import train_closeups
from .train_painter import train_painter
from .train_unet import train_unet
from .train_vae import encode_pool, train_decoder, train_vae

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
Work = Annotated[Path, typer.Option(help="Folder for the pool, checkpoints and results.")]
Packages = Annotated[Path, typer.Option(help="The node_modules folder with the sprite packages.")]
Start = Annotated[Path | None, typer.Option(help="Finished weights to go on from.")]
Steps = Annotated[int, typer.Option(help="Optimiser steps in all, those already done included.")]


@app.command()
def pool(
    work: Work = Path("work"),
    packages: Packages = Path("node_modules"),
    shards: int = 44,
    alike: Annotated[
        float, typer.Option(help="Share of scenes whose things differ in their noun alone.")
    ] = 0.0,
    further: Annotated[
        bool,
        typer.Option("--further", help="With further drawings of the nouns, and other emoji too."),
    ] = False,
) -> None:
    """Draw training scenes: 500 a shard."""
    draw_pool(work / "pool", packages, shards, alike=alike, further=further)


@app.command()
def vae(work: Work = Path("work"), steps: Steps = 3600, start: Start = None) -> None:
    """Train the VAE's encoder, or take the finished VAE; then encode the pool with it."""
    if start is None:
        train_vae(work / "pool", work, steps)
    else:
        shutil.copytree(start / "vae", work / "vae", dirs_exist_ok=True)
    encode_pool(work / "pool", work)


@app.command()
def decoder(work: Work = Path("work"), steps: Steps = 3000) -> None:
    """Train the VAE's decoder on its fixed latents (painting needs it, segmenting does not)."""
    train_decoder(work / "pool", work, steps)


@app.command()
def unet(work: Work = Path("work"), steps: Steps = 3600, start: Start = None) -> None:
    """Train the UNet and its text encoder."""
    train_unet(work / "pool", work, steps, start)


@app.command()
def painter(work: Work = Path("work"), steps: Steps = 2500, start: Start = WEIGHTS) -> None:
    """Train the second edition of the UNet: attention everywhere, taught on one layer alone."""
    train_painter(work / "pool", work, steps, start or WEIGHTS)


@app.command()
def closeups(
    work: Work = Path("work"), packages: Packages = Path("node_modules"), shards: int = 20
) -> None:
    """Draw close-ups to learn painting from, 500 a shard, and encode them with the VAE."""
    draw_closeups(work / "closeups", packages, shards)
    encode_pool(work / "closeups", work)


@app.command()
def brush(work: Work = Path("work"), steps: Steps = 7500, start: Start = WEIGHTS) -> None:
    """Train the UNet that paints on close-ups (see docs/results.md)."""
    train_closeups(work / "closeups", work, steps, start or WEIGHTS)


@app.command()
def clip(
    work: Work = Path("work"),
    packages: Packages = Path("node_modules"),
    steps: Steps = 3000,
    start: Start = None,
) -> None:
    """Train the small CLIP."""
    train_clip(work / "pool", work, steps, load_emoji(packages, TRAINING_STYLES), start)


@app.command()
def export(work: Work = Path("work"), folder: Path = WEIGHTS) -> None:
    """Write the trained parts as float16 folders into the package."""
    export_weights(work, folder)


@app.command()
def export_brush(work: Work = Path("work"), folder: Path = PAINTER) -> None:
    """Write the UNet that paints as a float16 folder into the package."""
    export_painter(work, folder)


@app.command()
def scenes(packages: Packages = Path("node_modules")) -> None:
    """Draw the evaluation splits and the sample picture into the package."""
    for split in SPLITS:
        draw_split(DATA / split, packages, split)
    save_sample(packages)


@app.command()
def curves(work: Work = Path("work"), picture: Path = Path("curves.png")) -> None:
    """Draw the losses of every stage as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logs = sorted(work.glob("*-training/log.jsonl"))
    if not logs:
        raise typer.BadParameter(f"No training log in {work}; train something first.")
    figure, axes = pyplot.subplots(1, len(logs), figsize=(5 * len(logs), 4), squeeze=False)
    for log, axis in zip(logs, axes[0], strict=True):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        for name in sorted(set(lines[-1]) - {"step"}):
            points = [(line["step"], line[name]) for line in lines if name in line]
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axis.set(title=log.parent.name, xlabel="step", yscale="log")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    app()
