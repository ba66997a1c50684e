"""The graphs that ship with the pack: opened and run in the front end, compared with the library.

`python -m tests.comfy.export` writes what follows from them: API format and thumbnails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from refdiff.attention.diffusers import DiffusersCapture
from refdiff.models.catalogue import load_models
from refdiff.pipeline import segment
from refdiff.settings import Settings

from .browser import FrontEnd
from .client import Client, Graph, Refused
from .export import FOLDER, WIDTH
from .server import ROOT, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
PREVIEWS = ("PreviewImage", "MaskPreview")
# Segment as the library gives its mask
PLAIN = {"edges": "off", "grow": 0, "falloff": 0, "invert": False}
SAM = NAMES[-1]  # needs ComfyUI's own SAM 3 and its weights
BLUEPRINT = "Ref-Diff text inpaint"
BLUEPRINTS = ["Ref-Diff text inpaint", "Ref-Diff text to SAM 3 mask", "Ref-Diff text to mask"]
SHELF = {"Conditioning & Preprocessors/Segmentation & Mask",
         "Image generation and editing/Inpaint image"}  # fmt: skip
LARGEST = 200_000  # bytes of a thumbnail
PACK = "refdiff"


def api(name: str) -> Graph:
    """The API format of a graph."""
    return json.loads((FOLDER / "api" / f"{name}.json").read_text())


def of_class(graph: Graph, *kinds: str) -> list[str]:
    """The ids of the nodes of these classes."""
    return [node for node, said in graph.items() if said["class_type"] in kinds]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.fixture(scope="module", params=NAMES[:-1])
def name(request: pytest.FixtureRequest) -> str:
    """The graphs one by one; all that is asked of one is asked while the server has its results."""
    return request.param


@pytest.fixture(scope="module")
def tab(server: Server, chromium: Browser) -> Iterator[FrontEnd]:
    """One tab for all graphs, for it takes seconds to open."""
    context = chromium.new_context(locale="en-US")
    yield FrontEnd(context.new_page(), server.url)
    context.close()


@pytest.fixture(scope="module")
def library() -> dict[str, Any]:
    """What `segment` needs to answer as the sticker models do."""
    models = load_models("stickers", device="cpu")
    return {"capture": DiffusersCapture(models.pipe), "clip": models.clip}


def test_they_are_numbered_and_named_as_people_search() -> None:
    assert [name[:12] for name in NAMES] == [f"Ref-Diff {number:02} " for number in range(1, 14)]
    assert SAM == "Ref-Diff 13 Choose among SAM 3 masks"
    assert sorted(path.stem for path in (FOLDER / "api").iterdir()) == NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.jpg")) == NAMES


def test_the_server_lists_them(client: Client) -> None:
    assert sorted(client.get("workflow_templates").json()[PACK]) == NAMES


def test_what_a_template_is_made_of(client: Client, name: str) -> None:
    """Title, picture and a note; every node says where it comes from; the models are unwired."""
    folder = f"api/workflow_templates/{PACK}"
    graph = client.get(f"{folder}/{name}.json").json()
    assert len(client.get(f"{folder}/{name}.jpg").content) < LARGEST
    with Image.open(FOLDER / f"{name}.jpg") as picture:
        assert abs(picture.width - WIDTH) < 40
    kinds = [node["type"] for node in graph["nodes"]]
    assert {"MarkdownNote", "Reroute", "CheckpointLoaderSimple"} <= set(kinds)
    for node in graph["nodes"]:
        if node["type"] not in ("MarkdownNote", "Reroute"):
            pack = PACK if node["type"].startswith("RefDiff") else "comfy-core"
            assert node["properties"]["Node name for S&R"] == node["type"]
            assert node["properties"]["cnr_id"] == pack and node["properties"]["ver"]
        if node["type"] in ("CheckpointLoaderSimple", "LoadImage"):
            assert not any(output["links"] for output in node["outputs"])
        if node["type"] == "CheckpointLoaderSimple":  # then it shows the user's own first one
            assert "widgets_values" not in node
        if node["type"] == "MarkdownNote":  # code cannot be read on Nodes 2.0
            assert "`" not in node["widgets_values"][0]


def test_sam_is_asked_for_many_and_one_by_one(client: Client) -> None:
    """A bare noun is one detection to SAM 3, and there would be nothing to choose."""
    graph = json.loads((FOLDER / f"{SAM}.json").read_text())
    kinds = {node["type"]: node for node in graph["nodes"]}
    assert kinds["CLIPTextEncode"]["widgets_values"] == ["cat:20"]
    assert kinds["SAM3_Detect"]["widgets_values"] == [0.5, 2, True]
    (segment,) = of_class(api(SAM), "RefDiffSegment")
    source, output = api(SAM)[segment]["inputs"]["candidates"]
    assert api(SAM)[source]["class_type"] == "SAM3_Detect" and output == 0
    known = client.object_info()
    if "SAM3_Detect" in known:
        for node in api(SAM).values():
            told = known[node["class_type"]]["input"]
            names = {*told.get("required", {}), *told.get("optional", {})}
            assert set(node["inputs"]) <= names


def test_nothing_overlaps(name: str) -> None:
    graph = json.loads((FOLDER / f"{name}.json").read_text())
    boxes = [(node["type"], *node["pos"], *node["size"]) for node in graph["nodes"]
             if node["type"] != "Reroute"]  # fmt: skip
    for index, (one, x, y, wide, high) in enumerate(boxes):
        for other, left, top, width, height in boxes[index + 1 :]:
            beside = x + wide <= left or left + width <= x
            below = y + high <= top - 30 or top + height <= y - 30  # a title is 30 high
            assert beside or below, (one, other)


def test_opens_and_runs(tab: FrontEnd, name: str) -> None:
    """As a user sees it; and what the front end sends is the API format that ships."""
    graph = api(name)
    tab.open_template(name)
    assert tab.missing() == []
    assert tab.prompt() == graph
    run = tab.run().checked()
    assert (tab.shown_errors(), tab.console) == ([], [])
    assert tab.overlaps() == []
    for node in of_class(graph, *PREVIEWS):
        assert tab.previews(node)
    for node in of_class(graph, "RefDiffSegment"):
        assert node in run.executed
        assert len(tab.previews(node)) >= 2 and "Looks for:" in tab.shown_text(node)


def test_the_masks_are_the_librarys(client: Client, library: dict[str, Any], name: str) -> None:
    """Also: the API format runs as it is."""
    graph = api(name)
    run = client.run(graph)
    assert all(run.outputs[node]["images"] for node in of_class(graph, *PREVIEWS))
    for node in of_class(graph, "RefDiffSegment"):
        masks, pictures, given = _segmented(client, graph, node)
        assert len(masks) == len(pictures)
        for mask, picture in zip(masks, pictures, strict=True):
            said = graph[node]["inputs"]
            settings = Settings.named(said["profile"], library["capture"].family)
            if said["empty_below"] >= 0:  # -1: as the profile
                settings = replace(settings, empty_below=said["empty_below"])
            expected = segment(picture, said["text"], **library, settings=settings, proposals=given)
            assert mask.any() and iou(mask, expected.mask.numpy()) > 0.99


def _segmented(
    client: Client, graph: Graph, node: str
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray | None]:
    """A Segment's masks before they are shaped, its pictures and its candidates."""
    said = {**graph[node]["inputs"], **PLAIN}
    rest = {key: one for key, one in graph.items() if one["class_type"] not in PREVIEWS}
    asked: Graph = {
        **rest,
        node: {"class_type": "RefDiffSegment", "inputs": said},
        "masks": client.node("MaskPreview", mask=[node, 0]),
        "pictures": client.node("PreviewImage", images=said["image"]),
    }
    if "candidates" in said:
        asked["given"] = client.node("MaskPreview", mask=said["candidates"])
    run = client.run(asked)
    masks = [image[..., 0] >= 128 for image in client.images(run, "masks")]
    given = (
        [image[..., 0] >= 128 for image in client.images(run, "given")] if "given" in asked else []
    )
    return masks, client.images(run, "pictures"), np.stack(given) if given else None


def test_the_steps_make_the_same_mask_as_segment(client: Client) -> None:
    """To the last bit: nothing of either is left when the other is taken away."""
    graph = api(NAMES[11])
    (whole,), (refined,) = of_class(graph, "RefDiffSegment"), of_class(graph, "RefDiffRefineMask")
    masks = {"whole": [whole, 0], "steps": [refined, 0]}
    for one, other in (("whole", "steps"), ("steps", "whole")):
        graph[f"less {one}"] = client.node(
            "MaskComposite", destination=masks[other], source=masks[one], operation="subtract"
        )
        rest = client.node("ThresholdMask", mask=[f"less {one}", 0], value=0.0)
        graph |= {f"any less {one}": rest}
        graph[f"see less {one}"] = client.node("MaskPreview", mask=[f"any less {one}", 0])
    graph["see"] = client.node("MaskPreview", mask=masks["whole"])
    run = client.run(graph)
    assert client.images(run, "see")[0][..., 0].any()
    assert not client.images(run, "see less whole")[0][..., 0].any()
    assert not client.images(run, "see less steps")[0][..., 0].any()


def test_three_wires_swap_the_models(tab: FrontEnd) -> None:
    """MODEL, CLIP and VAE of another loader, drawn with the mouse onto the three Reroutes."""
    tab.open_template(NAMES[1])
    (built_in,) = of_class(tab.prompt(), "RefDiffLoadStickerModels")
    (checkpoint,) = of_class(tab.prompt(), "CheckpointLoaderSimple")
    parts = ("model", "clip", "vae")
    used = {part: _inputs_from(tab.prompt(), built_in, index) for index, part in enumerate(parts)}
    assert all(len(inputs) > 1 for inputs in used.values())
    for loader, names in ((checkpoint, ("MODEL", "CLIP", "VAE")), (_add(tab, -900), parts)):
        for index, part in enumerate(parts):
            tab.connect(loader, names[index], _reroute(tab, part.upper()), "")
            assert _inputs_from(tab.prompt(), loader, index) == used[part]
        if loader == checkpoint:
            with pytest.raises(Refused) as refused:  # there is no file: that is the user's to have
                tab.run()
            assert refused.value.kinds() == {checkpoint: ["required_input_missing"]}
            tab.page.keyboard.press("Escape")
    run = tab.run().checked()
    assert of_class(tab.prompt(), "KSampler")[0] in run.executed


def _add(tab: FrontEnd, x: int, kind: str = "RefDiffLoadStickerModels") -> str:
    """Put another node left of the graph; its id."""
    script = """([kind, x]) => {
        const node = LiteGraph.createNode(kind);
        node.pos = [x, 0];
        app.graph.add(node);
        return String(node.id);
    }"""
    added = tab.page.evaluate(script, [kind, x])
    tab.page.wait_for_timeout(300)  # it has no bounds, which "fit view" asks for, until it is drawn
    return added


def _reroute(tab: FrontEnd, kind: str) -> str:
    """The id of the Reroute that carries this type."""
    script = """kind => String(app.graph.nodes.find(
        n => n.type === "Reroute" && n.outputs[0].type === kind).id)"""
    return tab.page.evaluate(script, kind)


def _inputs_from(graph: Graph, node: str, output: int) -> set[tuple[str, str]]:
    """The (node, input) that get their value from an output."""
    return {
        (key, name)
        for key, said in graph.items()
        for name, value in said["inputs"].items()
        if value == [node, output]
    }


def test_the_blueprint(client: Client, tab: FrontEnd) -> None:
    """Found by its name on a double click, wired with the mouse, and run."""
    every = client.get("global_subgraphs").json()  # newer ComfyUIs bring some of their own
    listed = {key: one for key, one in every.items() if one["name"].startswith("Ref-Diff")}
    assert sorted(one["name"] for one in listed.values()) == BLUEPRINTS
    for key, one in listed.items():
        shipped = json.loads((ROOT / "subgraphs" / f"{one['name']}.json").read_text())
        assert json.loads(client.get(f"global_subgraphs/{key}").json()["data"]) == shipped
        (inner,) = shipped["definitions"]["subgraphs"]
        assert inner["name"] == one["name"] and inner["description"]
        assert inner["category"] in SHELF
    tab.page.evaluate("() => app.graph.clear()")
    tab.add_by_search("text inpaint", BLUEPRINT)
    loader = _add(tab, -900)
    for part in ("model", "clip", "vae", "scorer"):
        tab.connect(loader, part, BLUEPRINT, part)
    tab.connect(loader, "sample", BLUEPRINT, "image")
    preview = _add(tab, 1800, "PreviewImage")
    tab.connect(BLUEPRINT, "IMAGE", preview, "images")
    tab.run().checked()
    assert tab.missing() == [] and tab.previews(preview) == [(256, 256)]
    assert (tab.shown_errors(), tab.console) == ([], [])
