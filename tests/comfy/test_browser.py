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


def test_words_are_no_html(client: Client, front_end: FrontEnd, tmp_path: Path) -> None:
    """Somebody else's graph may hold any text; what nodes show of it is text and nothing else."""
    attack = '<img src=x onerror="window.hit=1"> https://x.y/"onmouseover="window.hit=2" <b>cat</b>'
    path = tmp_path / "segment.json"
    prompt = segment(client, "the red cat", noise_index=13)
    for focus in (attack, "zzz"):  # one that is shown on the node, one that is refused
        prompt["segment"]["inputs"] |= {"text": attack, "focus": focus}
        path.write_text(json.dumps(prompt))
        front_end.drop(path)
        front_end.run()
        refused = focus == "zzz"
        shown = front_end.dialog() if refused else front_end.shown_text("RefDiffSegment")
        front_end.page.wait_for_timeout(500)
        assert "img src=x" in shown and ("zzz" in shown) == refused
        assert front_end.page.evaluate("window.hit") is None
        assert front_end.page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes 2.0"])
def test_the_heat_of_the_word_one_points_at(
    client: Client, front_end: FrontEnd, tmp_path: Path, nodes_2: bool
) -> None:
    """In the text that was typed; gone when the mouse is elsewhere."""
    front_end.drop(_file(client, tmp_path, noise_index=14 + nodes_2))  # Nodes 2.0 lays none out
    front_end.set("Comfy.VueNodes.Enabled", nodes_2)
    try:
        front_end.run().checked()
        front_end.shown_text("RefDiffSegment")
        front_end.fit()
        assert front_end.point_at_words("textarea") == {"the", "red", "cat"}
        assert front_end.heat_shown() is None
    finally:
        front_end.set("Comfy.VueNodes.Enabled", False)
    assert front_end.console == []


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
    words = front_end.dialog()
    assert "equired input" in words and "model" in words
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
