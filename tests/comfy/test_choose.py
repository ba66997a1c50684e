"""A click on a candidate, in the real front end, chooses it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from .browser import FrontEnd
from .client import Client, Graph, Run
from .gallery import Gallery
from .graphs import segment, stickers

SEGMENT, SHOW = "RefDiffSegment", "RefDiffShowCandidates"
NUMBERED = 1  # of Segment's pictures: the mask, the candidates, the heat


@pytest.fixture(params=[False, True], ids=["classic", "nodes 2.0"])
def kind(request: pytest.FixtureRequest, front_end: FrontEnd) -> Iterator[bool]:
    """Both ways of drawing nodes; Nodes 2.0 lays none out, so a test sets it after its drop."""
    yield request.param
    front_end.set("Comfy.VueNodes.Enabled", False)


def test_a_click_sets_segments_choice(
    client: Client, front_end: FrontEnd, tmp_path: Path, kind: bool
) -> None:
    """The next run takes the candidate; a click beside all of them changes nothing."""
    graph = segment(client, "the red cat", noise_index=21 + kind, show_candidates=True)
    _open(front_end, tmp_path, graph, kind)
    first = front_end.run().checked()
    labels = _labels(first, "segment")
    gallery = Gallery(front_end, SEGMENT)
    gallery.enlarge(NUMBERED)
    gallery.choose(_place(labels == 2), lambda: _widget(front_end, SEGMENT, "choice") == 2)
    second = front_end.run().checked()
    assert "segment" in second.executed and "models" not in second.executed
    graph["segment"]["inputs"] |= {"choice": 2}
    one, two, typed = (_mask(client, run) for run in (first, second, client.run(graph)))
    assert np.array_equal(two, typed) and not np.array_equal(one, two)
    assert np.array_equal(_labels(second, "segment"), labels)
    gallery.enlarge(NUMBERED)
    gallery.choose(_place(labels == 1), lambda: _widget(front_end, SEGMENT, "choice") == 1)
    gallery.click(_place(labels == 0))
    assert _widget(front_end, SEGMENT, "choice") == 1
    assert front_end.console == []


def test_a_click_sets_the_rank_of_choose_mask(
    client: Client, front_end: FrontEnd, tmp_path: Path, kind: bool
) -> None:
    """Of the one that has the same masks and scores, and of no other."""
    graph = _taken_apart(client)
    _open(front_end, tmp_path, graph, kind)
    labels = _labels(front_end.run().checked(), "show")
    Gallery(front_end, SHOW).choose(
        _place(labels == 2), lambda: _widget(front_end, "same", "rank") == 2
    )
    assert _widget(front_end, "same", "mode") == "rank"
    assert [_widget(front_end, "other", name) for name in ("mode", "rank")] == ["best", 1]
    run = front_end.run().checked()
    graph["same"]["inputs"] |= {"mode": "rank", "rank": 2}
    assert np.array_equal(_mask(client, run), _mask(client, client.run(graph)))
    assert front_end.console == []


def test_without_scores_there_is_no_rank_to_click(client: Client) -> None:
    graph = _taken_apart(client)
    del graph["show"]["inputs"]["scores"]
    assert client.run(graph).outputs["show"]["refdiff_candidates"] == []


def test_no_candidate_hides_another(pack: ModuleType) -> None:
    """The smaller of two is hit where they overlap, and each is by its number."""
    candidates = import_module(f"{pack.__name__}.nodes.candidates")
    masks = torch.zeros(3, 90, 120, dtype=torch.bool)
    masks[0, 10:80, 10:110] = masks[1, 30:60, 20:50] = masks[2, 5, 5] = True
    drawn = candidates.numbered(Image.new("RGB", (120, 90)), masks)
    labels = np.asarray(drawn.labels)
    assert (labels[70, 100], labels[32, 22], labels[85, 60]) == (1, 2, 0)
    middles = import_module(f"{pack.__name__}.nodes.pictures").middles_of(masks)
    assert [labels[y, x] for x, y in middles] == [1, 2, 3]
    assert drawn.picture.getpixel((22, 32)) != drawn.picture.getpixel((100, 70))


def test_what_a_server_says_is_not_trusted(
    client: Client, front_end: FrontEnd, tmp_path: Path
) -> None:
    """A map that is no picture, or one with numbers that no candidate has, chooses nothing."""
    graph = segment(client, "the red cat", noise_index=23, show_candidates=True)
    _open(front_end, tmp_path, graph, False)
    front_end.run().checked()
    gallery = Gallery(front_end, SEGMENT)
    gallery.enlarge(NUMBERED)
    white = io.BytesIO()
    Image.new("L", (8, 8), 255).save(white, "PNG")
    wrong = ["http://127.0.0.1:1/map.png", "data:image/png;base64,AAAA", 7, None]
    for labels in [*wrong, "data:image/png;base64," + base64.b64encode(white.getvalue()).decode()]:
        script = """labels => Object.values(app.nodeOutputs)
            .forEach(told => told.refdiff_candidates?.forEach(one => { one.labels = labels }))"""
        front_end.page.evaluate(script, labels)
        gallery.click((0.5, 0.5))
        assert _widget(front_end, SEGMENT, "choice") == 1
    assert front_end.console == []


def _taken_apart(client: Client) -> Graph:
    """The sticker's own masks, scored, shown, and chosen from; "other" has scores of its own."""
    graph = stickers(client)
    own = {"image": ["models", 4], "masks": ["models", 5]}
    for name in ("scores", "more"):
        graph[name] = client.node(
            "RefDiffScoreProposals", text="the red cat", scorer=["models", 3], **own
        )
    graph["show"] = client.node(SHOW, scores=["scores", 0], **own)
    for name, scores in {"same": "scores", "other": "more"}.items():
        node = client.node("RefDiffChooseMask", masks=["models", 5], scores=[scores, 0])
        graph[name] = {**node, "_meta": {"title": name}}
    graph["mask"] = client.node("MaskPreview", mask=["same", 0])
    return graph


def _open(front_end: FrontEnd, folder: Path, graph: Graph, kind: bool) -> None:
    path = folder / "graph.json"
    path.write_text(json.dumps(graph))
    front_end.drop(path)
    if SHOW in {node["class_type"] for node in graph.values()}:
        # nothing must grow over it, nor newer front ends' panel on the right cover it
        front_end.page.evaluate("show => { find(show).pos = [0, 900] }", SHOW)
    front_end.set("Comfy.VueNodes.Enabled", kind)


def _widget(front_end: FrontEnd, node: str, name: str) -> object:
    script = "([node, name]) => find(node).widgets.find(one => one.name === name).value"
    return front_end.page.evaluate(script, [node, name])


def _labels(run: Run, node: str) -> np.ndarray:
    """The map that a node told: at each pixel a candidate's number."""
    (told,) = run.outputs[node]["refdiff_candidates"]
    data = base64.b64decode(told["labels"].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def _place(mask: np.ndarray) -> tuple[float, float]:
    """The (x, y), 0..1, deepest inside a mask."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return (column + 0.5) / mask.shape[1], (row + 0.5) / mask.shape[0]


def _mask(client: Client, run: Run) -> np.ndarray:
    (mask,) = client.images(run, "mask")
    return mask
