"""The real front end in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .browser import FrontEnd
from .client import Client, Refused
from .graphs import segment


def _file(client: Client, folder: Path, noise_index: int) -> Path:
    """Segment on the sticker sample, as a file to drop onto the canvas.

    ComfyUI shows a node's pictures when the node runs, not when it finds its result in the cache:
    a noise index of its own makes the node run.
    """
    path = folder / "segment.json"
    path.write_text(json.dumps(segment(client, "the red cat", noise_index=noise_index)))
    return path


def test_segment_shows_what_it_found(client: Client, front_end: FrontEnd, tmp_path: Path) -> None:
    front_end.drop(_file(client, tmp_path, noise_index=11))
    assert front_end.missing() == []
    run = front_end.run().checked()
    assert front_end.previews("RefDiffSegment") == [(256, 256), (256, 256)]
    assert front_end.previews("MaskPreview") == [(256, 256)]
    assert "Looks for: cat" in front_end.shown_text("RefDiffSegment")
    assert set(run.executed) >= {"segment", "mask"}
    assert front_end.run().executed == []
    assert (front_end.shown_errors(), front_end.console) == ([], [])


def test_words_and_wires(client: Client, front_end: FrontEnd, tmp_path: Path) -> None:
    """The text is typed, wires are drawn with the mouse, and one that misses is told of."""
    front_end.drop(_file(client, tmp_path, noise_index=12))
    front_end.page.locator("textarea.comfy-multiline-input").fill("the blue cat")
    assert front_end.prompt()["segment"]["inputs"]["text"] == "the blue cat"
    front_end.connect("RefDiffLoadStickerModels", "objects", "RefDiffSegment", "candidates")
    front_end.page.evaluate("() => find('RefDiffSegment').disconnectInput(0)")
    with pytest.raises(Refused) as refused:
        front_end.run()
    assert refused.value.kinds() == {"segment": ["required_input_missing"]}
    assert "Required input is missing: model" in front_end.dialog()
    front_end.page.keyboard.press("Escape")
    front_end.connect("RefDiffLoadStickerModels", "model", "RefDiffSegment", "model")
    front_end.run().checked()
    assert "Looks for: cat (modifiers: blue)" in front_end.shown_text("RefDiffSegment")


def test_a_node_that_is_not_there(front_end: FrontEnd) -> None:
    """Else `missing` and `shown_errors` could not tell that a template has one."""
    node = {"id": 1, "type": "NoSuchNode", "pos": [0, 0], "size": [200, 80], "mode": 0}
    front_end.load({"version": 0.4, "nodes": [node], "links": [], "groups": []})
    assert front_end.missing() == ["NoSuchNode"]
    assert "NoSuchNode" in front_end.dialog()
    assert front_end.shown_errors() != []
