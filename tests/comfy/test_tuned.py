"""What `refdiff tune` wrote, taken by its name: in the list, on the mask, and no other file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from refdiff.settings import Settings
from refdiff.settings_file import write_settings

from .checks import masks, segments
from .client import Client, Refused
from .server import Server


@pytest.fixture
def tuned(server: Server) -> Iterator[Path]:
    """A file whose settings find nothing at all."""
    file = server.base / "models" / "refdiff" / "mine.refdiff.toml"
    write_settings(file, replace(Settings(), empty_below=1.0))
    yield file
    file.unlink()


def test_a_file_is_listed_and_decides(client: Client, tuned: Path) -> None:
    """Without a restart, in both nodes, and anew once it was changed."""
    for node in ("RefDiffSettings", "RefDiffSegment"):
        widget = client.object_info(node)["input"]["required"]["profile"]
        assert widget[1]["options"] == ["default", "paper", "official", "mine"]
    cases = {"plain": {}, "widget": {"profile": "mine"}, "wired": {"settings": ["knobs", 0]}}
    graph = segments(client, cases, text="the red cat")
    graph["knobs"] = client.node("RefDiffSettings", profile="mine")
    run = client.run(graph)
    assert masks(client, run, "plain mask")[0].any()
    for name in ("widget", "wired"):
        assert not masks(client, run, f"{name} mask")[0].any()
        assert "nothing found" in run.text(f"{name} report")
    write_settings(tuned, Settings())
    again = client.run(graph)
    for name in ("widget", "wired"):
        assert masks(client, again, f"{name} mask")[0].any()


NAMES = ["yours", "../mine", "mine.refdiff.toml", "/etc/passwd", "models/refdiff/mine", "\0", ""]


@pytest.mark.parametrize("name", NAMES)
def test_no_other_file_is_read(client: Client, pack: ModuleType, tuned: Path, name: str) -> None:
    """A graph of somebody else's names entries of the list, and no path."""
    profiles = import_module(f"{pack.__name__}.nodes.profiles")
    with pytest.raises(ValueError, match=r"^profile is .* wanted one of default, paper, official"):
        profiles.settings_of(name, "sd1")
    graph = segments(client, {"one": {"settings": ["knobs", 0]}}, text="the red cat")
    graph["knobs"] = client.node("RefDiffSettings", profile=name)
    try:
        stopped = client.wait(client.queue(graph))
    except Refused as refused:  # newer servers look for themselves
        assert refused.kinds() == {"knobs": ["value_not_in_list"]}
        return
    assert stopped.error is not None and stopped.error["node_id"] == "knobs"
    assert "wanted one of default, paper, official, mine" in stopped.error["exception_message"]


def test_a_file_that_is_damaged_is_told(client: Client, tuned: Path) -> None:
    tuned.write_text("[settings]\nalpah = 0.5\n")
    graph = segments(client, {"one": {"profile": "mine"}}, text="the red cat")
    stopped = client.wait(client.queue(graph))
    assert stopped.error is not None
    assert "did you mean 'alpha'" in stopped.error["exception_message"]
