"""The method taken apart: every stage a node, and the same mask as Ref-Diff Segment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .checks import Wire, different, greys, masks, segments, unequal
from .client import Client, Graph
from .graphs import stickers
from .test_batches import two_pictures

SENTENCES = [
    "the cat",
    "the cat on the right",
    "the car next to the blue cat",
    "the cats",
    "the smallest thing",
    "the second cat from the left",
]
SHAPE = {"edges": "snap", "grow": 3, "falloff": 8}


def composed(client: Client, text: str, image: Wire, given: Wire | None = None) -> Graph:
    """The stages from "parse" to "refine"; given: masks to choose among."""
    models = {"model": ["models", 0], "clip": ["models", 1], "vae": ["models", 2]}
    picture = {"image": image}
    proposed = given or ["proposals", 0]
    graph = {
        "parse": client.node("RefDiffParseExpression", text=text),
        "attention": client.node(
            "RefDiffAttentionFromImage", image=image, text=["parse", 0], **models
        ),
        "heat": client.node("RefDiffHeatMap", attention=["attention", 0]),
        "scores": client.node(
            "RefDiffScoreProposals",
            image=image,
            masks=proposed,
            text=["parse", 0],
            heat=["heat", 0],
            scorer=["models", 3],
            attention=["attention", 0],
        ),
        "choose": client.node(
            "RefDiffChooseMask", masks=proposed, scores=["scores", 0], **({} if given else picture)
        ),
        "refine": client.node("RefDiffRefineMask", mask=["choose", 0], image=image, **SHAPE),
        "mask": client.node("MaskPreview", mask=["refine", 0]),
        "presence": client.node("PreviewAny", source=["choose", 4]),
        "box": client.node("PreviewAny", source=["choose", 2]),
        "points": client.node("PreviewAny", source=["choose", 3]),
    }
    if given is None:
        graph["proposals"] = client.node(
            "RefDiffMaskProposals", heat=["heat", 0], attention=["attention", 0]
        )
    return graph


def both(client: Client, text: str, image: Wire, given: Wire | None = None) -> Graph:
    """Segment as "whole" and the stages, compared by "masks" and "heats"."""
    changes: dict[str, Any] = {"text": text, "image": image, **SHAPE}
    if given is not None:
        changes["candidates"] = given
    return {
        **segments(client, {"whole": changes}),
        **composed(client, text, image, given),
        **unequal(client, ["whole", 0], ["refine", 0], "masks"),
        **unequal(client, ["whole", 1], ["heat", 0], "heats"),
    }


def check(client: Client, graph: Graph, size: tuple[int, int]) -> None:
    run = client.run(graph)
    mask = greys(client, run, "mask")
    assert mask.shape == (1, *size) and mask.max() == 255 and 0 < mask.mean() < 128
    assert greys(client, run, "whole heat").shape == (1, *size)
    assert different(client, run, "heats") == 0
    assert different(client, run, "masks") == 0
    assert run.text("presence") == run.text("whole presence")


@pytest.mark.parametrize("text", SENTENCES)
def test_the_same_mask(client: Client, text: str) -> None:
    check(client, both(client, text, ["models", 4]), (256, 256))


@pytest.mark.parametrize("text", ["the cat on the right", "the car next to the blue cat"])
def test_the_same_mask_of_a_larger_picture(client: Client, text: str) -> None:
    """Heat and masks travel at the picture's own size and lose nothing on the way."""
    graph = both(client, text, ["large", 0])
    graph["large"] = client.node(
        "ImageScale",
        image=["models", 4],
        upscale_method="lanczos",
        width=400,
        height=360,
        crop="disabled",
    )
    check(client, graph, (360, 400))


def test_the_same_choice_among_given_masks(client: Client) -> None:
    check(client, both(client, "the cat on the right", ["models", 4], ["models", 5]), (256, 256))


def test_lists_are_mapped_one_by_one(client: Client) -> None:
    text = "the red cat"
    graph = composed(client, text, ["single", 0]) | two_pictures(client)
    graph |= segments(client, {"whole": {"text": text, "image": ["pair", 0], **SHAPE}})
    graph["single"] = client.node("RebatchImages", images=["pair", 0], batch_size=1)
    run = client.run(graph)
    stages, whole = greys(client, run, "mask"), greys(client, run, "whole mask")
    assert len(stages) == 2 and np.array_equal(stages, whole)
    assert run.outputs["presence"]["text"] == run.outputs["whole presence"]["text"]


def chosen(client: Client, text: str = "the cat", **changes: Any) -> Graph:
    """Choose Mask among the sample's objects, by CLIP alone; "mask" and "score" show it."""
    return {
        **stickers(client),
        "scores": client.node(
            "RefDiffScoreProposals",
            image=["models", 4],
            masks=["models", 5],
            text=text,
            scorer=["models", 3],
        ),
        "choose": client.node(
            "RefDiffChooseMask", masks=["models", 5], scores=["scores", 0], **changes
        ),
        "mask": client.node("MaskPreview", mask=["choose", 0]),
        "score": client.node("PreviewAny", source=["choose", 1]),
    }


def test_modes_of_choosing(client: Client) -> None:
    cases: list[tuple[dict[str, Any], int]] = [
        ({"mode": "best"}, 1),
        ({"mode": "rank", "rank": 2}, 1),
        ({"mode": "top k", "rank": 2, "merge": False}, 2),
        ({"mode": "top k", "rank": 2}, 1),
        ({"mode": "top k", "rank": 64, "merge": False}, 6),
        ({"mode": "all above", "above": 1.0, "merge": False}, 1),
    ]
    runs = [client.run(chosen(client, **changes)) for changes, _ in cases]
    found = [masks(client, run, "mask") for run in runs]
    assert [len(one) for one in found] == [count for _, count in cases]
    (best,), (second,), two, (union,), every, (alone,) = found
    some = masks(client, client.run(chosen(client, mode="all above", merge=False)), "mask")
    assert np.array_equal(alone, best) and np.array_equal(some[0], best)
    assert 1 <= len(some) < 6
    assert not (best & second).any()
    assert np.array_equal(two[0], best) and np.array_equal(two[1], second)
    assert np.array_equal(union, best | second)
    assert np.array_equal(every[0], best) and np.array_equal(every[1], second)
    assert [len(run.outputs["score"]["text"]) for run in runs] == [count for _, count in cases]


def test_the_table_of_scores(client: Client) -> None:
    rows = client.run(chosen(client, "the dog")).text("scores").splitlines()
    assert rows[0].split() == ["rank", "score", "heat", "CLIP", "place", "area"]
    assert [row.split()[0] for row in rows[1:]] == list("123456")


@pytest.mark.parametrize(
    ("node", "input", "words"),
    [
        ("choose", "masks", "There are 1 masks and scores for 6"),
        ("scores", "masks", "wire masks of this very picture"),
    ],
)
def test_masks_of_something_else(client: Client, node: str, input: str, words: str) -> None:
    graph = chosen(client)
    side = 256 if node == "choose" else 64
    graph["other"] = client.node("SolidMask", value=1.0, width=side, height=side)
    graph[node]["inputs"][input] = ["other", 0]
    run = client.wait(client.queue(graph))
    assert run.error is not None and run.error["node_id"] == node
    assert words in run.error["exception_message"]


def test_a_scorer_or_heat_is_needed(client: Client) -> None:
    graph = chosen(client)
    del graph["scores"]["inputs"]["scorer"]
    run = client.wait(client.queue(graph))
    assert run.error is not None and "wire at least one" in run.error["exception_message"]


def test_a_word_that_is_not_there_stops_the_graph(client: Client) -> None:
    graph = composed(client, "the cat", ["models", 4]) | stickers(client)
    graph["heat"]["inputs"]["words"] = "zebra"
    stopped = client.wait(client.queue(graph))
    assert stopped.error is not None and stopped.error["node_id"] == "heat"
    assert "has no word 'zebra'" in stopped.error["exception_message"]


def test_no_candidates_come_to_an_empty_mask(client: Client) -> None:
    graph = chosen(client)
    graph["empty"] = client.node("SolidMask", value=0.0, width=256, height=256)
    graph["scores"]["inputs"]["masks"] = graph["choose"]["inputs"]["masks"] = ["empty", 0]
    run = client.run(graph)
    assert "all candidates are empty" in run.text("scores")
    assert not greys(client, run, "mask").any() and float(run.text("score")) == 0
    graph["knobs"] = client.node("RefDiffSettings", raise_if_nothing_found=True)
    graph["scores"]["inputs"]["settings"] = ["knobs", 0]
    stopped = client.wait(client.queue(graph))
    assert stopped.error is not None and stopped.error["node_id"] == "choose"


def test_empty_candidates_are_passed_over(client: Client) -> None:
    """The first of the masks is empty; those that are scored keep their places."""
    graph = chosen(client, mode="top k", rank=64, merge=False)
    graph |= {
        "empty": client.node("SolidMask", value=0.0, width=256, height=256),
        "empty image": client.node("MaskToImage", mask=["empty", 0]),
        "object images": client.node("MaskToImage", mask=["models", 5]),
        "images": client.node("ImageBatch", image1=["empty image", 0], image2=["object images", 0]),
        "seven": client.node("ImageToMask", image=["images", 0], channel="red"),
    }
    plain = client.run(chosen(client, mode="top k", rank=64, merge=False))
    for node in ("scores", "choose"):
        graph[node]["inputs"]["masks"] = ["seven", 0]
    run = client.run(graph)
    one, other = (masks(client, each, "mask") for each in (plain, run))
    assert len(one) == 6 and np.array_equal(one, other)
    assert "candidate 1," not in run.text("choose") and " 7" in run.text("choose")
