"""Several pictures, several sentences, lists: what goes with what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from refdiff import stickers as world

from .checks import greys, masks, overlap, segments
from .client import Client, Graph
from .graphs import stickers

LEFT, RIGHT = 100, 156  # a cat's middle is left of the one or right of the other


def two_pictures(client: Client) -> Graph:
    """The sample and its mirror image, as one batch: "pair"."""
    mirrored = np.asarray(Image.open(world.SAMPLE).convert("RGB"))[:, ::-1]
    return {
        "mirror": client.node("LoadImage", image=client.upload(mirrored, "mirror.png")),
        "pair": client.node("ImageBatch", image1=["models", 4], image2=["mirror", 0]),
    }


def middles(found: list[np.ndarray]) -> list[float]:
    return [float(mask.nonzero()[1].mean()) for mask in found]


def test_pictures_one_by_one(client: Client) -> None:
    """A batch gives what its pictures give as a list, for Segment too."""
    cases: dict[str, dict[str, Any]] = {
        "batch": {"image": ["pair", 0]},
        "list": {"image": ["list", 0]},
    }
    graph = segments(client, cases, text="the red cat") | two_pictures(client)
    graph["single"] = client.node("RebatchImages", images=["pair", 0], batch_size=1)
    graph["list"]["inputs"]["image"] = ["single", 0]
    run = client.run(graph)
    together, apart = (masks(client, run, f"{name} mask") for name in cases)
    assert len(together) == len(apart) == 2
    assert all(np.array_equal(a, b) for a, b in zip(together, apart, strict=True))
    left, right = middles(together)
    assert left < LEFT and RIGHT < right
    assert len(run.outputs["batch score"]["text"]) == 2
    assert len(run.text("batch report").splitlines()) == 2
    assert len(client.images(run, "batch")) == 4  # each mask on its picture, each heat


def test_sentences_one_by_one(client: Client) -> None:
    lines = ["the red cat", "the blue cat", "the dog"]
    cases = {"all": {"text": "\n\n".join(lines)}, "last": {"text": lines[-1]}}
    run = client.run(segments(client, cases))
    red, blue, dog = masks(client, run, "all mask")
    assert middles([red])[0] < LEFT and RIGHT < middles([blue])[0]
    assert overlap(dog, masks(client, run, "last mask")[0]) > 0.98
    assert len(greys(client, run, "all heat")) == 3
    report = run.text("all report").splitlines()
    assert len(report) == 3 and ["dog" in line for line in report] == [False, False, True]


def test_sentences_in_one_mask(client: Client) -> None:
    """merge_lines: the union of the lines, a failed one adding nothing but its words."""
    text = "the red cat\n!!!\nthe dog"
    cases = {"apart": {"text": text}, "merged": {"text": text, "settings": ["knobs", 0]}}
    graph = segments(client, cases)
    graph["knobs"] = client.node("RefDiffSettings", merge_lines=True)
    run = client.run(graph)
    apart, (merged,) = masks(client, run, "apart mask"), masks(client, run, "merged mask")
    assert len(apart) == 3 and np.array_equal(merged, np.maximum.reduce(apart))
    assert len(greys(client, run, "merged heat")) == 1
    scores = {name: run.outputs[f"{name} score"]["text"] for name in cases}
    assert scores["merged"] == [max(scores["apart"], key=float)]
    assert len(run.text("merged report").splitlines()) == 3


def test_a_failure_leaves_the_other_sentences_alone(client: Client) -> None:
    run = client.run(segments(client, {"all": {"text": "the red cat\n!!!\nthe dog"}}))
    assert [bool(mask.any()) for mask in masks(client, run, "all mask")] == [True, False, True]
    assert [float(score) > 0 for score in run.outputs["all score"]["text"]] == [True, False, True]


def test_a_sentence_for_each_picture(client: Client) -> None:
    case = {"all": {"image": ["pair", 0], "text": "the red cat\nthe blue cat"}}
    run = client.run(segments(client, case) | two_pictures(client))
    assert all(middle < LEFT for middle in middles(masks(client, run, "all mask")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "a cat\na dog\na tree"}, "There are 2 pictures and 3 lines of text"),
        ({"candidates": ["models", 5]}, "Candidates belong to one picture"),
    ],
)
def test_what_does_not_go_together(client: Client, changes: dict[str, Any], words: str) -> None:
    case = {"all": {"image": ["pair", 0], "text": "a cat", **changes}}
    graph = segments(client, case) | two_pictures(client)
    run = client.wait(client.queue(graph))
    assert run.error is not None and run.error["exception_message"].startswith(words)


def test_stages_take_one_picture(client: Client) -> None:
    graph = stickers(client) | two_pictures(client)
    models = {"model": ["models", 0], "clip": ["models", 1], "vae": ["models", 2]}
    graph["all"] = client.node(
        "RefDiffAttentionFromImage", image=["pair", 0], text="a cat", **models
    )
    graph["map"] = client.node("RefDiffHeatMap", attention=["all", 0])
    graph["shown"] = client.node("MaskPreview", mask=["map", 0])
    run = client.wait(client.queue(graph))
    assert run.error is not None and "Rebatch Images" in run.error["exception_message"]
