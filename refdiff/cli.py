"""The command `refdiff`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from .commands import evaluate
from .commands.bench import bench
from .commands.choices import choices
from .commands.compare import compare
from .commands.explain import explain
from .commands.generate import generate
from .commands.inpaint import inpaint
from .commands.label import label
from .commands.models import models
from .commands.refer import refer
from .commands.score import score
from .commands.segment import segment
from .commands.tune import tune

app = typer.Typer(
    name="refdiff",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class PictureCommand(TyperCommand):
    """A command whose picture and text are both wanted, which its own errors explain better."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What stands behind the command's name in the usage line."""
        return ["[OPTIONS]", "IMAGE...", "TEXT"]


@app.callback()
def about() -> None:
    """Segment a picture by a sentence, with the attention of a diffusion model (Ref-Diff).

    To begin: `refdiff segment sample "the red cat on the left"`
    """


app.command(no_args_is_help=True, cls=PictureCommand)(segment)
app.command(no_args_is_help=True)(explain)
app.command(no_args_is_help=True)(inpaint)
app.command(no_args_is_help=True)(generate)
app.command(no_args_is_help=True)(label)
app.command()(models)
evaluate.app.command()(compare)
evaluate.app.command()(choices)
evaluate.app.command(no_args_is_help=True)(refer)
app.add_typer(evaluate.app, name="eval")
app.command(no_args_is_help=True)(score)
app.command(no_args_is_help=True)(tune)
app.command()(bench)


def main() -> None:
    """Run the command line."""
    app()
