"""Mask Proposals, Score Proposals, Choose Mask: from heat to the answer, one step a node."""

from __future__ import annotations

from contextlib import suppress

import torch
from comfy_api.latest import io
from torch import Tensor

from ..refdiff import scoring
from ..refdiff.errors import WordError
from ..refdiff.expression import Expression, Noun
from ..refdiff.heat import enlarged, reduced, shrunk, to_tensor, working_size
from ..refdiff.settings import Settings
from ..refdiff.steps import (
    DISTINCT,
    Regions,
    Scored,
    picked,
    presence_map,
    presence_of,
    proposals_of,
    scored,
)
from .clip import ManagedClip
from .expression import understood
from .heat import word_heat
from .pictures import boxes_of, mask_of, only_picture, points_of, shown, stacked
from .refine import gallery
from .wires import (
    ATTENTION,
    CATEGORY,
    SCORER,
    SCORES,
    Attention,
    NodeSettings,
    Scores,
    floor_input,
    one_of,
    output,
    place_outputs,
    settings_input,
    text_input,
)

NOTHING = torch.zeros(0), None, torch.zeros(0), torch.zeros(0)
MODES = ("best", "rank", "all above", "top k")


class MaskProposals(io.ComfyNode):
    """Heat in, candidate masks out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffMaskProposals",
            display_name="Mask Proposals",
            category=CATEGORY,
            description="Divides heat among its peaks and cuts each at the height that separates "
            "it best; other profiles give all 19 cuts.",
            inputs=[
                io.Mask.Input("heat", tooltip="Heat 0..1 [K, H, W], as from Heat Map."),
                settings_input(),
            ],
            outputs=[output(io.Mask, "masks", "Candidates [N, H, W] for Score Proposals.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, heat: Tensor, settings: NodeSettings | None = None) -> io.NodeOutput:
        heats = stacked(heat)
        size = (heats.shape[1], heats.shape[2])
        small = reduced(heats, working_size(size))
        method = (settings or NodeSettings()).method
        masks = torch.cat([_proposed(one, method) for one in small])
        full = mask_of(torch.stack([enlarged(mask, size) for mask in masks]))
        return io.NodeOutput(full, ui=shown(cls, gallery(full)))


def _proposed(heat: Tensor, method: Settings) -> Tensor:
    """The candidates of a heat; where there is none at all, an empty one."""
    return proposals_of(heat, method) if bool(heat.any()) else heat[None] > 0


class ScoreProposals(io.ComfyNode):
    """Candidates in, scores out: by the heat, by CLIP, by the words on place, size and order."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffScoreProposals",
            display_name="Score Proposals",
            category=CATEGORY,
            description="Scores masks of any origin by a sentence. Wire heat, a CLIP scorer, or "
            "both; the attention adds relations to other things and the presence.",
            inputs=[
                io.Image.Input("image", tooltip="The picture of the masks."),
                io.Mask.Input("masks", tooltip="Candidates [N, H, W], from any segmenter."),
                text_input("The sentence, or an expression from Parse Expression."),
                io.Mask.Input("heat", optional=True, tooltip="The root word's, from Heat Map."),
                SCORER.Input("scorer", optional=True, tooltip="From Load CLIP Scorer."),
                ATTENTION.Input(
                    "attention",
                    optional=True,
                    tooltip="Tells whether the thing is there at all, and where the things are "
                    "that the sentence relates it to.",
                ),
                settings_input(),
            ],
            outputs=[output(SCORES, "scores", "For Choose Mask.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        masks: Tensor,
        text: str | Expression,
        heat: Tensor | None = None,
        scorer: ManagedClip | None = None,
        attention: Attention | None = None,
        settings: NodeSettings | None = None,
    ) -> io.NodeOutput:
        settings = settings or NodeSettings()
        picture = only_picture(image, "Score Proposals")
        size = (picture.height, picture.width)
        if heat is None and scorer is None:
            raise ValueError("Neither heat nor a CLIP scorer is wired in; wire at least one.")
        working = working_size(size)
        small = shrunk(stacked(masks, size) >= 0.5, working)
        kept = small.flatten(1).any(1)
        filled = small[kept]
        warm = torch.ones(working) if heat is None else reduced(stacked(heat, size), working)[0]
        expression, notes = understood(text)
        target = expression.targets()[0]
        pixels = to_tensor(picture, working)
        clip = None
        if scorer is not None and len(filled):
            clip = Regions(scorer, pixels, filled).judged(target.root, target, settings.method)
        anchors = _anchors(target, attention, settings)
        found = (
            scored(target, warm, filled, settings.method, clip, anchors)
            if len(filled)
            else Scored(filled, *NOTHING, notes=("all masks are empty",))
        )
        held = _held(target, attention)
        words = "\n".join([*_table(found), *found.notes, *notes])
        return io.NodeOutput(
            Scores(target, found, kept, held, size, settings), ui=shown(cls, words=words)
        )


def _anchors(
    expression: Expression, attention: Attention | None, settings: NodeSettings
) -> dict[Noun, Tensor]:
    anchors: dict[Noun, Tensor] = {}
    if attention is None or settings.method.bias != "geometry":
        return anchors
    for noun in (anchor for relation in expression.relations for anchor in relation.anchors):
        with suppress(WordError):  # the relation is then left out, and noted
            anchors[noun] = word_heat(attention, noun.word, settings)
    return anchors


def _held(expression: Expression, attention: Attention | None) -> Tensor | None:
    """The presence map of the root in the attention's text, where that text has the word."""
    if attention is None:
        return None
    word = expression.root.word
    if attention.expression.text != expression.text:
        return None
    columns = attention.maps.columns(word.start, word.end)
    return presence_map(attention.maps, columns, working_size(attention.size))


def _table(found: Scored) -> list[str]:
    """Each candidate's scores, best first."""
    lines = ["rank  score   heat   CLIP  place   area"]
    for rank, index in enumerate(found.total.argsort(descending=True).tolist(), 1):
        clip = "     -" if found.clip is None else f"{float(found.clip[index]):6.3f}"
        lines.append(
            f"{rank:4d} {float(found.total[index]):6.3f} {float(found.generative[index]):6.3f} "
            f"{clip} {float(found.place[index]):6.3f} "
            f"{float(found.masks[index].float().mean()):6.1%}"
        )
    return lines


class ChooseMask(io.ComfyNode):
    """Scored candidates in, the answer out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffChooseMask",
            display_name="Choose Mask",
            category=CATEGORY,
            description="Takes the best candidate, or others. Candidates that overlap by more "
            "than half (IoU) count as one.",
            inputs=[
                io.Mask.Input("masks", tooltip="The candidates that were scored, [N, H, W]."),
                SCORES.Input("scores", tooltip="From Score Proposals."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="best: as the sentence says, all of them for a plural. rank: the one "
                    "of that rank. all above: those whose score comes near the best. top k: the "
                    "first so many.",
                ),
                io.Int.Input(
                    "rank", default=1, min=1, max=64, tooltip="For rank and top k: 1 is the best."
                ),
                io.Float.Input(
                    "above",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="For all above: the share of the best score that is enough.",
                ),
                io.Boolean.Input(
                    "merge",
                    default=True,
                    tooltip="Several chosen masks as one, or as one mask each.",
                ),
                floor_input(),
            ],
            outputs=[
                output(io.Mask, "mask", "The answer: one mask, or one for each thing."),
                output(
                    io.Float,
                    "score",
                    "Presence of the thing, 0..1, for each mask; 1 when nothing is known.",
                    listed=True,
                ),
                *place_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        masks: Tensor,
        scores: Scores,
        mode: str,
        rank: int,
        above: float,
        merge: bool,
        empty_below: float,
    ) -> io.NodeOutput:
        full = stacked(masks, scores.size) >= 0.5
        if len(full) != len(scores.kept):
            raise ValueError(
                f"There are {len(full)} masks and scores for {len(scores.kept)}; wire the "
                "masks that were scored."
            )
        one_of("mode", mode, MODES)
        chosen = _chosen(scores, mode, rank, above) if bool(scores.kept.any()) else []
        presence = presence_of(scores.held, scores.scored)
        places = scores.kept.nonzero()[chosen, 0].tolist()
        out = full[places].any(0)[None] if merge else full[places]
        if presence < empty_below or not chosen:
            out = torch.zeros_like(full[:1])
        out = mask_of(out)
        numbers = [presence] * len(out)
        names = ", ".join(str(place + 1) for place in places) or "none"
        words = f"candidate {names}; presence {presence:.2f}"
        return io.NodeOutput(
            out,
            numbers,
            boxes_of(out, numbers),
            points_of(out),
            ui=shown(cls, gallery(out), words),
        )


def _chosen(scores: Scores, mode: str, rank: int, above: float) -> list[int]:
    found = scores.scored
    if mode == "best":
        return picked(scores.expression, found, scores.settings.method)
    if mode == "rank":
        return [scoring.choose(found.total, found.masks, rank, DISTINCT)]
    if mode == "all above":
        return scoring.union(found.masks, found.total, None, None, above)
    return scoring.ranking(found.total, found.masks, DISTINCT)[:rank]
