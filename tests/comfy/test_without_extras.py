"""The pack where nothing was installed for it, and without what the registry leaves out."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import server as comfy_server
from .client import Client, Graph, Run
from .server import ROOT, Server

# refdiff's own dependencies which ComfyUI does not bring, by the names of their folders.
ABSENT = ("spacy", "en_core_web_", "open_clip", "timm", "diffusers", "accelerate", "pycocotools")
INSTALLED = ("site-packages", "dist-packages")
# Python sees only the folder that this file lies in, in place of all that is installed.
SITE = f"import sys\nsys.path[:] = [p for p in sys.path if not p.endswith({INSTALLED!r})]\n"


def lay_links(folder: Path) -> None:
    """A folder of links to all that is installed but ABSENT, and to nothing twice."""
    for place in [Path(entry) for entry in sys.path if entry.endswith(INSTALLED)]:
        for item in place.iterdir():
            link = folder / item.name
            if not item.name.startswith(ABSENT) and not link.exists():
                link.symlink_to(item)
    (folder / "sitecustomize.py").unlink(missing_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)


@pytest.fixture(scope="module")
def bare_server(comfy_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI with this pack, without ABSENT and without what .comfyignore names."""
    installed = tmp_path_factory.mktemp("installed")
    lay_links(installed)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(installed))
        running = comfy_server.start(comfy_tree, tmp_path_factory.mktemp("bare"))
    try:
        for name in (ROOT / ".comfyignore").read_text().split():
            shutil.rmtree(running.pack / name)
        assert not running.complaints(), running.log_tail()
        yield running
    finally:
        running.stop()


@pytest.fixture
def bare_client(bare_server: Server) -> Iterator[Client]:
    user = Client(bare_server.url)
    yield user
    user.close()


def graph(client: Client, **said: str) -> Graph:
    """Segment with the sticker models, whose scorer is wired in as in every example."""
    names = ("model", "clip", "vae", "scorer", "image")
    wires = {name: ["world", index] for index, name in enumerate(names)}
    return {
        "world": client.node("RefDiffLoadStickerModels"),
        "segment": client.node("RefDiffSegment", **wires, **said),
        "mask": client.node("MaskPreview", mask=["segment", 0]),
        "objects": client.node("MaskPreview", mask=["world", 5]),
        "report": client.node("PreviewAny", source=["segment", 4]),
    }


def overlaps(client: Client, run: Run) -> list[float]:
    """IoU of the answer with each of the sample's objects: two cats, dog, tree, balloon, car."""
    mask = client.images(run, "mask")[0][..., 0] == 255
    objects = [picture[..., 0] == 255 for picture in client.images(run, "objects")]
    return [float((mask & one).sum() / (mask | one).sum()) for one in objects]


def test_segment_reads_the_sentence_and_says_what_is_missing(bare_client: Client) -> None:
    """By the package's own rules, for there is no spaCy."""
    run = bare_client.run(graph(bare_client, text="the red cat on the left"))
    report = run.text("report")
    assert "modifiers: red" in report and "Place: left" in report
    assert "open_clip is not installed" in run.text("world")
    found = overlaps(bare_client, run)
    assert max(found[:2]) == max(found) > 0.5


def test_a_focus_needs_no_parser(bare_client: Client) -> None:
    run = bare_client.run(graph(bare_client, text="the tree and the dog", focus="tree"))
    assert overlaps(bare_client, run)[3] > 0.5


def test_the_scorer_says_what_to_install(bare_client: Client) -> None:
    loader = {
        "load": bare_client.node("RefDiffLoadClipScorer"),
        "show": bare_client.node("PreviewAny", source=["load", 0]),
    }
    run = bare_client.wait(bare_client.queue(loader))
    assert run.error is not None
    assert "pip install open_clip_torch" in run.error["exception_message"]
