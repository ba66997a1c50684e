"""Ref-Diff Segment's widgets and sockets, one after the other, on the sample picture."""

from __future__ import annotations

import json
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refdiff import stickers as world

from .checks import different, greys, masks, overlap, segments, unequal
from .client import Client, Graph
from .twins import first

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
    scores = run.outputs["separate presence"]["text"]
    assert len(scores) == 2 and all(0 <= float(score) <= 1 for score in scores)


def test_boxes_and_points(client: Client) -> None:
    cases = {"two": {"text": "the two cats", "instances": "separate"}}
    run = client.run(segments(client, cases, **ONE_MASK))
    (boxes,), points = json.loads(run.text("two box")), json.loads(run.text("two points"))
    found = masks(client, run, "two mask")
    assert len(found) == len(boxes) == len(points) == 2
    for mask, box, point in zip(found, boxes, points, strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert (box["x"], box["y"]) == (columns[0], rows[0])
        assert (box["width"], box["height"]) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert 0 <= box["score"] <= 1
        assert np.array_equal(found[box["mask"]], mask)
        assert set(point) == {"x", "y"} and mask[point["y"], point["x"]]


def test_widgets_change_what_they_should(client: Client) -> None:
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "again": {"choice": 1},
        "second": {"choice": 2},
        "cut": {"threshold": 0.6, "settings": ["as read", 0]},
        "noise": {"noise_index": 7},
        "snap": {"edges": "snap"},
        "grown": {"grow": 6},
        "shrunk": {"grow": -3},
    }
    graph = segments(client, cases, text="the red cat")
    graph["as read"] = client.node("RefDiffSettings", edges=0.0)  # not drawn to any edge
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


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"text": "!!!"}, "write what to look for"),
    ({"text": ""}, "write what to look for"),
    ({"text": "a cat\n" * 1000}, "There are 1000 lines of text, wanted 100 at most"),
    ({"focus": "zebra"}, "has no word 'zebra'"),
    ({"candidates": ["small", 0]}, "100"),
]


@pytest.mark.parametrize(("changes", "words"), MISTAKES)
def test_a_mistake_is_a_red_node(client: Client, changes: dict[str, Any], words: str) -> None:
    graph = segments(client, {"one": {"text": "the red cat", **changes}})
    graph["small"] = client.node("SolidMask", value=1.0, width=100, height=100)
    stopped = client.wait(client.queue(graph))
    assert stopped.error is not None and stopped.error["node_id"] == "one"
    assert words in stopped.error["exception_message"]


def test_a_clip_of_another_model(pack: ModuleType) -> None:
    segment = import_module(f"{pack.__name__}.nodes.segment").RefDiffSegment
    model, _, vae = import_module(f"{pack.__name__}.nodes.stickers").sticker_models()
    widgets = ("the cat", "", 1, "auto", 0.0, 0.0, "off", 0, 0, "default", 0)
    with pytest.raises(Exception, match="connect the CLIP of the same checkpoint"):
        segment.execute(model, first().clip, vae, torch.rand(1, 64, 64, 3), *widgets)


NOTHING: list[tuple[dict[str, Any], str]] = [
    ({"choice": 64}, "64"),
    ({"candidates": ["empty", 0]}, "the segmenter gave no candidates"),
    ({"exclude": "the cats, the dog, the car, the tree, the balloon", **ONE_MASK}, "is excluded"),
    ({"choice": 64, "invert": True}, "64"),
]


@pytest.mark.parametrize(("changes", "words"), NOTHING)
def test_nothing_found_is_an_empty_mask(
    client: Client, changes: dict[str, Any], words: str
) -> None:
    """It is said on the node, or stops the graph where that was asked for."""
    graph = segments(client, {"one": {"text": "the red cat", **changes}})
    graph["empty"] = client.node("SolidMask", value=0.0, width=256, height=256)
    run = client.run(graph)
    (mask,) = masks(client, run, "one mask")
    assert mask.shape == (256, 256) and not mask.any()
    assert words in run.text("one report") == run.text("one")
    assert float(run.text("one presence")) == 0
    assert run.text("one found").lower() == run.text("one all found").lower() == "false"
    assert json.loads(run.text("one box")) == [[]] and json.loads(run.text("one points")) == []
    graph["knobs"] = client.node("RefDiffSettings", raise_if_nothing_found=True)
    graph["one"]["inputs"]["settings"] = ["knobs", 0]
    stopped = client.wait(client.queue(graph))
    assert stopped.error is not None and stopped.error["node_id"] == "one"
    assert words in stopped.error["exception_message"]


def test_invert_and_cut_out(client: Client) -> None:
    cases: dict[str, dict[str, Any]] = {"plain": {}, "rest": {"invert": True}}
    graph = segments(client, cases, text="the red cat")
    graph["cut"] = client.node("PreviewImage", images=["plain", 9])
    run = client.run(graph)
    (plain,), (rest,) = (masks(client, run, f"{name} mask") for name in cases)
    assert plain.any() and np.array_equal(rest, ~plain)
    assert run.text("rest found").lower() == "true"
    (cut,), sample = client.images(run, "cut"), np.asarray(Image.open(world.SAMPLE).convert("RGB"))
    assert cut.shape == (256, 256, 4)
    assert np.array_equal(cut[..., 3], plain * np.uint8(255))
    assert np.array_equal(cut[plain][:, :3], sample[plain])


def test_what_is_excluded(client: Client) -> None:
    """Its masks are no answer, and its places are in none."""
    cases: dict[str, dict[str, Any]] = {
        "any": {"text": "the cat", "exclude": "the red cat", **ONE_MASK},
        "both": {"text": "a cat", "instances": "all", "exclude": "the blue cat", **ONE_MASK},
        "own": {"text": "the cats", "exclude": "the red cat"},
    }
    run = client.run(segments(client, cases) | objects_shown(client))
    things = masks(client, run, "objects")
    found = {name: masks(client, run, f"{name} mask")[0] for name in cases}
    assert np.array_equal(found["any"], things[BLUE])
    assert not (found["both"] & things[BLUE]).any() and found["both"].any()
    assert overlap(found["own"], things[RED]) < 0.05


def test_candidates_with_their_numbers(client: Client) -> None:
    """The second in the picture is what choice 2 takes."""
    cases: dict[str, dict[str, Any]] = {
        "first": {"show_candidates": True},
        "second": {"choice": 2},
    }
    graph = segments(client, cases, text="the red cat", **ONE_MASK)
    graph["show"] = client.node("RefDiffShowCandidates", image=["models", 4], masks=["models", 5])
    run = client.run(graph)
    on_picture, drawn, _heat = client.images(run, "first")
    assert on_picture.shape == drawn.shape
    second = masks(client, run, "second mask")[0]
    colours = drawn[second].reshape(-1, 3)
    tint = np.argmax(colours.mean(0) - drawn[~second].reshape(-1, 3).mean(0))
    assert tint == 0  # the second colour is a red one, the first a blue one
    assert len(client.images(run, "show")) == 1


def test_nothing_is_present_enough(client: Client) -> None:
    graph = segments(client, {"one": {"text": "the red cat", "empty_below": 1.0}})
    run = client.run(graph)
    assert not masks(client, run, "one mask")[0].any()
    assert greys(client, run, "one heat").max() == 255
    assert 0 < float(run.text("one presence")) < 1
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
