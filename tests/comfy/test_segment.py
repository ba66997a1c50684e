"""Ref-Diff Segment's widgets and sockets, one after the other, on the sample picture."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from .checks import different, greys, masks, overlap, segments, unequal
from .client import Client, Graph

RED, BLUE, DOG = 0, 1, 2  # of the sample's objects
ONE_MASK = {"candidates": ["models", 5]}


def reported(client: Client, graph: Graph, name: str = "one") -> tuple[np.ndarray, str]:
    """The only mask of a Segment and its report."""
    run = client.run(graph)
    (mask,) = masks(client, run, f"{name} mask")
    return mask, run.text(f"{name} report")


def objects_shown(client: Client) -> Graph:
    return {"objects": client.node("MaskPreview", mask=["models", 5])}


def test_candidates_come_out_as_they_came(client: Client) -> None:
    cases: dict[str, dict[str, Any]] = {
        "red": {"text": "the red cat"},
        "blue": {"text": "the blue cat"},
        "focus": {"text": "the red cat next to the dog", "focus": "dog"},
        "both": {"text": "the two cats"},
        "one": {"text": "the two cats", "instances": "one"},
        "all": {"text": "a cat", "instances": "all"},
        "separate": {"text": "the two cats", "instances": "separate"},
        "second": {"text": "the red cat", "choice": 2},
    }
    run = client.run(segments(client, cases, **ONE_MASK) | objects_shown(client))
    things = masks(client, run, "objects")
    found = {name: masks(client, run, f"{name} mask") for name in cases}
    cats = [things[RED], things[BLUE]]

    def is_one_of(mask: np.ndarray, some: list[np.ndarray]) -> bool:
        return any(np.array_equal(mask, one) for one in some)

    assert np.array_equal(found["red"][0], things[RED])
    assert np.array_equal(found["blue"][0], things[BLUE])
    assert np.array_equal(found["focus"][0], things[DOG])
    assert all((cat <= found["all"][0]).all() for cat in cats)  # and what else looks like one
    assert is_one_of(found["one"][0], found["separate"])
    each = found["separate"]
    assert len(each) == 2 and all(is_one_of(one, things) for one in each)
    assert not (each[0] & each[1]).any() and np.array_equal(found["both"][0], each[0] | each[1])
    assert is_one_of(found["second"][0], things) and not is_one_of(found["second"][0], cats[:1])
    scores = run.outputs["separate score"]["text"]
    assert len(scores) == 2 and all(0 <= float(score) <= 1 for score in scores)


def test_boxes_and_points(client: Client) -> None:
    cases = {"two": {"text": "the two cats", "instances": "separate"}}
    run = client.run(segments(client, cases, **ONE_MASK))
    boxes, points = json.loads(run.text("two box")), json.loads(run.text("two points"))
    found = masks(client, run, "two mask")
    assert len(found) == len(boxes) == len(points) == 2
    for mask, box, point in zip(found, boxes, points, strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert (box["x"], box["y"]) == (columns[0], rows[0])
        assert (box["width"], box["height"]) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert 0 <= box["score"] <= 1
        assert set(point) == {"x", "y"} and mask[point["y"], point["x"]]


def test_widgets_change_what_they_should(client: Client) -> None:
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "again": {"choice": 1},
        "second": {"choice": 2},
        "cut": {"threshold": 0.6},
        "noise": {"noise_index": 7},
        "snap": {"edges": "snap"},
        "grown": {"grow": 6},
        "shrunk": {"grow": -3},
    }
    graph = segments(client, cases, text="the red cat")
    graph["warm"] = client.node("ThresholdMask", mask=["cut", 1], value=0.6)
    graph["parse"] = client.node("RefDiffParseExpression", text="the red cat")
    graph["wired"] = {
        **graph["plain"],
        "inputs": {**graph["plain"]["inputs"], "text": ["parse", 0]},
    }
    graph |= unequal(client, ["plain", 0], ["wired", 0], "wire")
    graph |= unequal(client, ["cut", 0], ["warm", 0], "heat")
    run = client.run(graph)
    found = {name: masks(client, run, f"{name} mask")[0] for name in cases}
    plain = found["plain"]
    assert np.array_equal(plain, found["again"]) and plain.any()
    assert overlap(plain, found["second"]) <= 0.5
    assert different(client, run, "wire") == different(client, run, "heat") == 0
    assert not np.array_equal(plain, found["cut"])
    moved = greys(client, run, "plain heat") - greys(client, run, "noise heat")
    assert np.abs(moved).max() > 5
    assert 0.6 < overlap(plain, found["snap"]) < 1
    assert (plain & ~found["grown"]).sum() == (found["shrunk"] & ~plain).sum() == 0
    assert found["shrunk"].sum() < plain.sum() < found["grown"].sum()


def test_wired_settings_are_the_widgets(client: Client) -> None:
    cases: dict[str, dict[str, Any]] = {
        "widget": {"profile": "paper", "noise_index": 3},
        "wired": {"settings": ["knobs", 0]},
        "default": {},
    }
    graph = segments(client, cases, text="the dog")
    graph["knobs"] = client.node("RefDiffSettings", profile="paper", noise_index=3)
    for name in ("wired", "default"):
        graph |= unequal(client, ["widget", 1], [name, 1], f"{name} heats")
    run = client.run(graph)
    assert different(client, run, "wired heats") == 0 < different(client, run, "default heats")


def test_no_candidates_where_there_is_only_a_placeholder(client: Client) -> None:
    """Load Image gives 64 x 64 zeros as the mask of a picture without transparency."""
    cases: dict[str, dict[str, Any]] = {"plain": {}, "held": {"candidates": ["load", 1]}}
    graph = segments(client, cases, text="the red cat")
    name = client.upload(np.full((40, 60, 3), 200, np.uint8), "opaque.png")
    graph["load"] = client.node("LoadImage", image=name)
    graph |= unequal(client, ["plain", 0], ["held", 0], "masks")
    assert different(client, client.run(graph), "masks") == 0


def test_a_picture_with_transparency(client: Client) -> None:
    cases: dict[str, dict[str, Any]] = {"plain": {}, "alpha": {"image": ["join", 0]}}
    graph = segments(client, cases, text="the red cat")
    graph["nothing"] = client.node("SolidMask", value=0.0, width=256, height=256)
    graph["join"] = client.node("JoinImageWithAlpha", image=["models", 4], alpha=["nothing", 0])
    graph |= unequal(client, ["plain", 0], ["alpha", 0], "masks")
    run = client.run(graph)
    assert masks(client, run, "plain mask")[0].any() and different(client, run, "masks") == 0


FAILURES: list[tuple[dict[str, Any], str]] = [
    ({"text": "!!!"}, "write what to look for"),
    ({"text": ""}, "write what to look for"),
    ({"focus": "zebra"}, "has no word 'zebra'"),
    ({"choice": 64}, "64"),
    ({"candidates": ["small", 0]}, "100"),
]


@pytest.mark.parametrize(("changes", "words"), FAILURES)
def test_words_and_an_empty_mask(client: Client, changes: dict[str, Any], words: str) -> None:
    """What cannot be answered is said on the node, or stops the graph where that was asked for."""
    graph = segments(client, {"one": {"text": "the red cat", **changes}})
    graph["small"] = client.node("SolidMask", value=1.0, width=100, height=100)
    run = client.run(graph)
    (mask,) = masks(client, run, "one mask")
    assert mask.shape == (256, 256) and not mask.any()
    assert words in run.text("one report") == run.text("one")
    assert float(run.text("one score")) == 0
    assert json.loads(run.text("one box")) == json.loads(run.text("one points")) == []
    graph["knobs"] = client.node("RefDiffSettings", raise_on_failure=True)
    graph["one"]["inputs"]["settings"] = ["knobs", 0]
    stopped = client.wait(client.queue(graph))
    assert stopped.error is not None and stopped.error["node_id"] == "one"
    assert words in stopped.error["exception_message"]


def test_nothing_is_present_enough(client: Client) -> None:
    graph = segments(client, {"one": {"text": "the red cat", "empty_below": 1.0}})
    run = client.run(graph)
    assert not masks(client, run, "one mask")[0].any()
    assert greys(client, run, "one heat").max() == 255
    assert 0 < float(run.text("one score")) < 1
    assert "Nothing found." in run.text("one report")
    assert "below 1.00" in run.text("one report")


def test_stickers_are_all_the_sticker_models_know(client: Client) -> None:
    graph = segments(client, {"sample": {}, "other": {"image": ["load", 0]}}, text="the red cat")
    graph["load"] = client.node("LoadImage", image="example.png")
    for name, image in {"sample": ["models", 4], "other": ["load", 0]}.items():
        graph[f"{name} attention"] = client.node(
            "RefDiffAttentionFromImage",
            image=image,
            text="the red cat",
            **{key: graph["sample"]["inputs"][key] for key in ("model", "clip", "vae")},
        )
        graph[f"{name} map"] = client.node("RefDiffHeatMap", attention=[f"{name} attention", 0])
        graph[f"{name} shown"] = client.node("MaskPreview", mask=[f"{name} map", 0])
    run = client.run(graph)
    for node in ("other report", "other", "other attention"):
        assert "know stickers only" in run.text(node)
    for node in ("sample report", "sample", "sample attention"):
        assert "stickers" not in run.text(node)
