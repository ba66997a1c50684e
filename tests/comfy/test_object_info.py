"""What ComfyUI is told about the nodes. Saved graphs hold widgets by position: order is a promise.

After a change that is meant, write the golden file anew and read its diff:
REFDIFF_GOLDEN=write pytest tests/comfy/test_object_info.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from .client import Client, Graph, Refused

GOLDEN = Path(__file__).with_name("object_info.json")
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
WORDS = {"tooltip"}  # may be reworded without breaking anybody's graph


@pytest.fixture
def pack_info(client: Client) -> dict[str, Any]:
    """The server's description of every node of this pack."""
    info = client.object_info()
    return {
        name: told for name, told in info.items() if told["python_module"] == "custom_nodes.refdiff"
    }


def _inputs(told: dict[str, Any]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(section, name, type, options) of a node's inputs, in order."""
    return [
        (section, name, kind, dict(*options))
        for section in ("required", "optional")
        for name, (kind, *options) in told["input"].get(section, {}).items()
    ]


def _frozen(told: dict[str, Any]) -> dict[str, Any]:
    """The part of a description that saved graphs rely on."""
    inputs = [
        [section, name, kind, {key: value for key, value in options.items() if key not in WORDS}]
        for section, name, kind, options in _inputs(told)
    ]
    outputs = zip(told["output_name"], told["output"], told["output_is_list"], strict=True)
    return {
        "display_name": told["display_name"],
        "category": told["category"],
        "inputs": inputs,
        "outputs": [list(output) for output in outputs],
    }


def test_golden(pack_info: dict[str, Any]) -> None:
    found = {name: _frozen(told) for name, told in pack_info.items()}
    if os.environ.get("REFDIFF_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    wanted = json.loads(GOLDEN.read_text())
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name] == wanted[name], name


def test_everything_is_explained(pack_info: dict[str, Any]) -> None:
    mute = [name for name, told in pack_info.items() if not told["description"]]
    for name, told in pack_info.items():
        mute += [f"{name}.{key}" for _, key, _, opts in _inputs(told) if not opts.get("tooltip")]
        tips = zip(told["output_name"], told["output_tooltips"], strict=True)
        mute += [f"{name} -> {output}" for output, tip in tips if not tip]
    assert mute == []


def test_no_widget_is_randomised(pack_info: dict[str, Any]) -> None:
    """The front end changes a widget of such a name after every run, and the mask would move."""
    names = [(node, key) for node, told in pack_info.items() for _, key, _, _ in _inputs(told)]
    assert len(names) > 50
    assert [name for name in names if name[1] in {"seed", "noise_seed"}] == []


def test_segment_has_few_widgets(pack_info: dict[str, Any]) -> None:
    inputs = _inputs(pack_info["RefDiffSegment"])
    widgets = [key for _, key, kind, _ in inputs if kind.split(",")[0] in WIDGETS]
    folded = [key for _, key, _, options in inputs if options.get("advanced")]
    assert len(widgets) - len(folded) <= 9 and widgets[0] == "text"
    assert {"profile", "noise_index", "threshold", "empty_below", "falloff"} <= set(folded)


def test_nodes_are_found_by_other_names(pack_info: dict[str, Any]) -> None:
    """Where the front end looks for them: in search_aliases, which old ComfyUIs have not."""
    if "search_aliases" not in pack_info["RefDiffSegment"]:
        return
    aliases = {name: told["search_aliases"] for name, told in pack_info.items()}
    assert all(aliases.values())
    assert {"text to mask", "clipseg", "sam", "grounding dino"} <= set(aliases["RefDiffSegment"])
    assert "daam" in aliases["RefDiffHeatMap"]


def _wrong_values(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Values out of a widget's range, by ComfyUI's name for the error.

    This ComfyUI does not look whether a V3 node's COMBO has the choice; it is the nodes that must.
    """
    if kind not in {"INT", "FLOAT"}:
        return {}
    return {
        "value_smaller_than_min": options["min"] - 1,
        "value_bigger_than_max": options["max"] + 1,
    }


def test_out_of_range_is_refused(client: Client, pack_info: dict[str, Any]) -> None:
    tried = 0
    for name, told in pack_info.items():
        for _, widget, kind, options in _inputs(told):
            for error, value in _wrong_values(kind, options).items():
                graph: Graph = {
                    "node": {"class_type": name, "inputs": {widget: value}},
                    "show": {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}},
                }
                with pytest.raises(Refused) as refused:
                    client.queue(graph)
                assert error in refused.value.kinds()["node"], (name, widget, value)
                tried += 1
    assert tried > 30
