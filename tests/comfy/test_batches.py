"""Several pictures, several sentences, lists: what goes with what."""

from __future__ import annotations

import json
from itertools import pairwise
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
    assert len(run.outputs["batch presence"]["text"]) == 2
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
    """merge_lines: the union of the lines."""
    text = "the red cat\nthe blue cat\nthe dog"
    cases = {"apart": {"text": text}, "merged": {"text": text, "settings": ["knobs", 0]}}
    graph = segments(client, cases)
    graph["knobs"] = client.node("RefDiffSettings", merge_lines=True)
    run = client.run(graph)
    apart, (merged,) = masks(client, run, "apart mask"), masks(client, run, "merged mask")
    assert len(apart) == 3 and np.array_equal(merged, np.maximum.reduce(apart))
    assert len(greys(client, run, "merged heat")) == 1
    scores = {name: run.outputs[f"{name} presence"]["text"] for name in cases}
    assert scores["merged"] == [max(scores["apart"], key=float)]
    assert len(run.text("merged report").splitlines()) == 3


def test_one_that_is_not_found_leaves_the_others_alone(client: Client) -> None:
    """Box n belongs to mask n, which says so; there is none for an empty mask."""
    case = {"text": "a cat\nthe tree\nthe dog", "candidates": ["models", 5], "exclude": "the tree"}
    run = client.run(segments(client, {"all": case}))
    there = [True, False, True]
    assert [bool(mask.any()) for mask in masks(client, run, "all mask")] == there
    assert [said.lower() == "true" for said in run.outputs["all found"]["text"]] == there
    assert run.text("all all found").lower() == "false"
    assert [[box["mask"] for box in frame] for frame in json.loads(run.text("all box"))] == [[0, 2]]


def test_boxes_of_a_batch_go_into_core_nodes(client: Client) -> None:
    """A list for each picture: each crop shows what was found in its own picture."""
    case = {"all": {"image": ["pair", 0], "text": "the red cat"}}
    graph = segments(client, case) | two_pictures(client)
    known = client.object_info()
    if "CropByBBoxes" in known:
        graph["crops"] = client.node(
            "CropByBBoxes", image=["pair", 0], bboxes=["all", 5], output_width=64, output_height=64
        )
        graph["crops shown"] = client.node("PreviewImage", images=["crops", 0])
        graph["drawn"] = client.node("DrawBBoxes", image=["pair", 0], bboxes=["all", 5])
        graph["drawn shown"] = client.node("PreviewImage", images=["drawn", 0])
    run = client.run(graph)
    frames, found = json.loads(run.text("all box")), masks(client, run, "all mask")
    assert [[box["mask"] for box in frame] for frame in frames] == [[0], [1]]
    for (box,), mask in zip(frames, found, strict=True):
        assert (box["x"], box["y"]) == (mask.any(0).argmax(), mask.any(1).argmax())
    assert len(run.outputs["all points"]["text"]) == 2
    if "CropByBBoxes" in known:
        one, other = client.images(run, "crops shown")
        assert np.abs(one[:, ::-1].astype(int) - other).mean() < 12  # the mirror image's own cat
        assert len(client.images(run, "drawn shown")) == 2


def test_a_steady_film(client: Client) -> None:
    """Each frame keeps to what the frame before chose, and flickers less."""
    frames = {f"frame {n}": client.upload(frame, f"frame{n}.png") for n, frame in enumerate(film())}
    graph: Graph = stickers(client)
    for name, file in frames.items():
        graph[name] = client.node("LoadImage", image=file)
    names = list(frames)
    batch = names[0]
    for name in names[1:]:
        graph[f"with {name}"] = client.node("ImageBatch", image1=[batch, 0], image2=[name, 0])
        batch = f"with {name}"
    cases = {"loose": {"image": [batch, 0]}, "steady": {"image": [batch, 0], "steady": True}}
    graph |= segments(client, cases, text="the red cat")
    run = client.run(graph)
    flicker = {
        name: [
            float((one ^ other).sum() / max(1, (one | other).sum()))
            for one, other in pairwise(masks(client, run, f"{name} mask"))
        ]
        for name in cases
    }
    print({name: round(float(np.mean(each)), 4) for name, each in flicker.items()})
    assert np.mean(flicker["steady"]) <= np.mean(flicker["loose"])
    assert len(run.outputs["steady"]["images"]) == 2 * len(frames)


def film() -> list[np.ndarray]:
    """The sample standing still under noise that changes from frame to frame."""
    still = np.asarray(Image.open(world.SAMPLE).convert("RGB")).astype(float)
    random = np.random.default_rng(4)
    return [
        (still + random.normal(0, 25, still.shape)).clip(0, 255).astype(np.uint8) for _ in range(5)
    ]


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
