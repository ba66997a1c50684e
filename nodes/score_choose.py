"""Mask Proposals, Score Proposals, Choose Mask: from heat to the answer, one step a node."""

from __future__ import annotations

from dataclasses import replace

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..refdiff.expression import Expression
from ..refdiff.finding import Found
from ..refdiff.masks.instances import best_of_each, same_object
from ..refdiff.masks.resize import resize_heat, resize_masks, to_tensor, upsample, working_size
from ..refdiff.scoring.choice import next_choice
from ..refdiff.scoring.regions import Regions
from ..refdiff.settings import Settings
from ..refdiff.steps import CandidateScores, outlined, propose, read_regions
from .expression import understood
from .load_clip import ManagedClip
from .pictures import boxes_of, mask_of, only_picture, points_of, shown, stacked
from .refine import gallery
from .scoring import Wired, table
from .types import (
    ATTENTION,
    CATEGORY,
    SCORER,
    SCORES,
    Attention,
    NodeSettings,
    NothingFound,
    Scores,
    floor_input,
    found_by,
    one_of,
    output,
    place_outputs,
    settings_input,
    text_input,
)

NO_CANDIDATES = "the segmenter found nothing: it gave no candidates"
OTHER_TEXT = (
    "the attention is of another text and tells nothing; wire one Parse Expression into both"
)
ALL_EMPTY = "all candidates are empty masks"
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
                io.Image.Input(
                    "image", optional=True, tooltip="The picture whose edges the masks follow."
                ),
                ATTENTION.Input(
                    "attention",
                    optional=True,
                    tooltip="What the heat was read from: tells which model's numbers to divide "
                    "it by, and the picture where none is wired in.",
                ),
            ],
            outputs=[output(io.Mask, "masks", "Candidates [N, H, W] for Score Proposals.")],
            hidden=[io.Hidden.unique_id],
            **found_by("candidates", "segments", "heat to mask", "threshold mask"),
        )

    @classmethod
    def execute(
        cls,
        heat: Tensor,
        settings: NodeSettings | None = None,
        image: Tensor | None = None,
        attention: Attention | None = None,
    ) -> io.NodeOutput:
        picture = None if image is None else only_picture(image, "Mask Proposals")
        if picture is None and attention is not None:
            picture = attention.picture
        size = None if picture is None else (picture.height, picture.width)
        heats = stacked(heat, size)
        size = (heats.shape[1], heats.shape[2])
        method = (settings or NodeSettings()).method(attention.family if attention else "other")
        working = working_size(size, method.working)
        small = resize_heat(heats, working)
        pixels = None if picture is None else to_tensor(picture, working)
        maps = None if attention is None else attention.maps
        more = None if maps is None else read_regions(maps, working, method)
        masks = torch.cat([_proposed(one, method, pixels, more) for one in small])
        full = mask_of(torch.stack([upsample(mask, size) for mask in masks]))
        return io.NodeOutput(full, ui=shown(cls, gallery(full)))


def _proposed(heat: Tensor, method: Settings, pixels: Tensor | None, more: Tensor | None) -> Tensor:
    """The candidates of a heat and more; where there is no heat at all, an empty one."""
    return propose(heat, method, pixels, more) if bool(heat.any()) else heat[None] > 0


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
                SCORER.Input(
                    "scorer", optional=True, tooltip="From Load CLIP Scorer or CLIP Vision Scorer."
                ),
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
            **found_by("rank masks", "mask by text", "clip score", "referring segmentation"),
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
        method = settings.method(attention.family if attention else "other")
        picture = only_picture(image, "Score Proposals")
        size = (picture.height, picture.width)
        if heat is None and scorer is None:
            raise ValueError("Neither heat nor a CLIP scorer is wired in; wire at least one.")
        working = working_size(size, method.working)
        small = resize_masks(stacked(masks, size) >= 0.5, working)
        kept = small.flatten(1).any(1)
        warm = None if heat is None else resize_heat(stacked(heat, size), working)[0]
        expression, notes = understood(text)
        if attention is not None and attention.expression.text != expression.text:
            notes = [*notes, OTHER_TEXT]
            attention = None
        regions = None
        if scorer is not None and bool(kept.any()):
            seen = to_tensor(picture, working_size(size, scorer.picture_limit))
            regions = Regions(scorer, seen, small[kept])
        wired = Wired(small[kept], warm, regions, attention, method)
        found = wired.found(expression, ALL_EMPTY if len(kept) else NO_CANDIDATES)
        lines = [line for one in found for line in _told(one, len(found) > 1)]
        words = "\n".join([*lines, *notes])
        return io.NodeOutput(
            Scores(found, kept, size, settings, method), ui=shown(cls, words=words)
        )


def _told(found: Found, several: bool) -> list[str]:
    """A thing's table and notes, under its name where there are several."""
    head = [f"{found.noun.name}:"] if several else []
    return [*head, *table(found.scored), *found.scored.notes, *found.notes]


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
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture, for masks from Mask Proposals: the answer is drawn to "
                    "its edges. Leave it out for masks whose outlines are exact.",
                ),
            ],
            outputs=[
                output(io.Mask, "mask", "The answer: one mask, or one for each thing."),
                output(
                    io.Float,
                    "score",
                    "The candidate's share of the choice, 0..1, for each mask.",
                    listed=True,
                ),
                *place_outputs(),
                output(io.Float, "presence", "0..1, for each mask: is it there?", listed=True),
            ],
            hidden=[io.Hidden.unique_id],
            **found_by("pick mask", "select mask", "best mask", "sam"),
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
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        full = stacked(masks, scores.size) >= 0.5
        if len(full) != len(scores.kept):
            raise ValueError(
                f"There are {len(full)} masks and scores for {len(scores.kept)}; wire the "
                "masks that were scored."
            )
        one_of("mode", mode, MODES)
        floor = scores.method.empty_below if empty_below < 0 else empty_below
        found = _chosen(scores, mode, rank, above) if bool(scores.kept.any()) else []
        there = [one for one in found if one.presence >= floor and one.chosen]
        picture = None if image is None else _same_picture(scores, image)
        answers = [one.answer(lambda part: _cut_out(scores, part, full, picture)) for one in there]
        numbers = [
            number for pair in zip(there, answers, strict=True) for number in _numbers(*pair)
        ]
        out = torch.cat(answers) if answers else torch.zeros(1, *scores.size)
        numbers = numbers or [0.0]
        if merge:
            out, numbers = out.float().amax(0)[None], [max(numbers)]
        out = mask_of(out)
        presence = min((one.presence for one in there or scores.found), default=0.0)
        places = scores.kept.nonzero()[[i for one in found for i in one.chosen], 0].tolist()
        names = ", ".join(str(place + 1) for place in places) or "none"
        doubts = [one.doubt.note for one in there if mode == MODES[0] and one.doubt.note]
        words = "; ".join([f"candidate {names}", f"presence {presence:.2f}", *doubts])
        if scores.settings.raise_if_nothing_found and not bool(out.any()):
            raise NothingFound(f"Nothing found: {words}.")
        return io.NodeOutput(
            out,
            numbers,
            [boxes_of(out, numbers)],
            [points_of(out)],
            [presence] * len(out),
            ui=shown(cls, gallery(out), words),
        )


def _same_picture(scores: Scores, image: Tensor) -> Image.Image:
    picture = only_picture(image, "Choose Mask")
    if (picture.height, picture.width) != scores.size:
        raise ValueError(
            f"The picture is {picture.height} x {picture.width} (height x width) and the masks "
            f"were scored on one of {scores.size[0]} x {scores.size[1]}; wire that picture."
        )
    return picture


def _cut_out(scores: Scores, found: Found, full: Tensor, picture: Image.Image | None) -> Tensor:
    """The chosen candidates at the picture's size: as they came, or drawn to its edges."""
    if picture is None:
        return full[scores.kept.nonzero()[found.chosen, 0]]
    masks = found.scored.masks[found.chosen]
    return torch.stack([outlined(mask, picture, scores.method) for mask in masks])


def _numbers(found: Found, masks: Tensor) -> list[float]:
    """The score of each mask; of a complement, which is no candidate, the best."""
    numbers = [float(found.scored.score[index]) for index in found.chosen]
    return numbers if len(numbers) == len(masks) else [max(numbers)] * len(masks)


def _chosen(scores: Scores, mode: str, rank: int, above: float) -> list[Found]:
    """What the sentence means, or of its first thing the candidates that the mode takes."""
    if mode == "best":
        return list(scores.found)
    first = scores.found[0]
    return [replace(first, chosen=_taken(first.scored, mode, rank, above))]


def _taken(found: CandidateScores, mode: str, rank: int, above: float) -> list[int]:
    if mode == "rank":
        return [next_choice(found.total, found.masks, rank)]
    different = best_of_each(found.total, same_object(found.masks, found.total))
    if mode == "all above":
        floor = above * float(found.score.max())
        return [index for index in different if float(found.score[index]) >= floor]
    return different[:rank]
