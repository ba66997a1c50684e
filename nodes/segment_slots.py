"""Ref-Diff Segment's widgets and outputs, and the words it is found by."""

from __future__ import annotations

from comfy_api.latest import io

from .refine import shape_inputs
from .settings import noise_input, profile_input
from .types import floor_input, folded, output, place_outputs

INSTANCES = ("auto", "one", "all", "separate")
EXAMPLE = "the red cat on the left"
ALIASES = (
    "text to mask", "mask by text", "referring segmentation", "auto mask", "select by text",
    "clipseg", "segment anything", "sam", "sam3", "grounding dino", "daam", "attention",
)  # fmt: skip


def widgets() -> list[io.Input]:
    return [
        io.String.Input(
            "focus",
            default="",
            tooltip="Look for this word of the text instead of the one found: a noun, a tag, a "
            "LoRA trigger or embedding:name.",
        ),
        io.Int.Input(
            "choice",
            default=1,
            min=1,
            max=64,
            tooltip="1 takes the best thing, 2 the next different one, and so on.",
        ),
        io.Combo.Input(
            "instances",
            options=list(INSTANCES),
            default=INSTANCES[0],
            tooltip="auto: as many as the sentence says. one, all: that many in one mask. "
            "separate: a mask for each.",
        ),
        folded(
            io.Float.Input(
                "threshold",
                default=0.0,
                min=0.0,
                max=0.99,
                step=0.01,
                tooltip="Cut the heat there; 0 chooses the best of 19 cuts.",
            )
        ),
        folded(floor_input()),
        *(folded(one) if one.id == "falloff" else one for one in shape_inputs()),
        folded(profile_input()),
        folded(
            noise_input(
                "Which noise is put on the picture. Another one may help where a mask fails."
            )
        ),
    ]


def further_widgets() -> list[io.Input]:
    """Widgets that came later: graphs that were saved without them run as before."""
    return [
        io.Boolean.Input(
            "invert",
            default=False,
            optional=True,
            tooltip="Everything but what was found. Where nothing was found the mask stays empty.",
        ),
        io.String.Input(
            "exclude",
            default="",
            optional=True,
            tooltip="Not this: things that are never in the mask, divided by commas, such as: "
            "the tail, the blue cat.",
        ),
        io.Boolean.Input(
            "show_candidates",
            default=False,
            optional=True,
            tooltip="Show what there is to choose from, with the numbers for choice; a click on "
            "one in the enlarged picture sets choice.",
        ),
        folded(
            io.Boolean.Input(
                "steady",
                default=False,
                optional=True,
                tooltip="The batch is a film: each frame keeps to the thing and the heat of the "
                "frame before.",
            )
        ),
    ]


def outputs() -> list[io.Output]:
    return [
        output(io.Mask, "mask", "1 where to paint, the picture's own size."),
        output(io.Mask, "heat", "Where the word was looked for, 0..1."),
        output(io.Float, "presence", "0..1, one for each mask: is it there?", listed=True),
        output(io.Image, "overlay", "Heat, outline and word over the picture."),
        output(io.String, "report", "How each sentence was understood and answered."),
        *place_outputs(),
        output(io.Boolean, "found", "Whether each mask shows anything.", listed=True),
        output(io.Boolean, "all_found", "Whether all masks do."),
        output(io.Image, "cutout", "What was found, transparent around it (RGBA)."),
        output(
            io.Mask,
            "runner_up",
            "The second best answer, which choice 2 takes; empty where there is none, or where "
            "several things are looked for.",
        ),
        output(
            io.Float,
            "ambiguity",
            "0..1, one for each mask: how close the runner-up comes, 1 for a tie.",
            listed=True,
        ),
    ]
