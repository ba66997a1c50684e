"""Load CLIP Scorer: a model in models/open_clip, by its name, or neither."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from refdiff import stickers as world

from .checks import masks, segments
from .client import Client, Graph
from .server import Server

NAME = "mine/small"


@pytest.fixture
def own_model(server: Server) -> Iterator[Path]:
    """A user's open_clip folder, put there while the server runs."""
    folder = server.base / "models" / "open_clip" / NAME
    shutil.copytree(world.WEIGHTS / "clip", folder)
    yield folder
    shutil.rmtree(folder.parent)


def loader(client: Client, **inputs: object) -> Graph:
    return {
        "load": client.node("RefDiffLoadClipScorer", **inputs),
        "shown": client.node("PreviewAny", source=["load", 0]),
    }


def test_a_folder_is_listed_and_judges(client: Client, own_model: Path) -> None:
    """It stands in the list without a restart, and answers as the same model does elsewhere."""
    inputs = client.object_info("RefDiffLoadClipScorer")["input"]
    assert NAME in str(inputs["required"]["model"])
    cases = {"built in": {}, "own": {"scorer": ["load", 0]}}
    given = {"text": "the small car", "candidates": ["models", 5]}
    graph = segments(client, cases, **given) | loader(client, model=NAME)
    run = client.run(graph)
    (one,), (other,) = (masks(client, run, f"{name} mask") for name in cases)
    assert one.any() and np.array_equal(one, other)
    assert "generative only" not in run.text("own report")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"name": "ViT-B-16/openai"}, "ViT-B-16/openai cannot be read"),
        ({"name": "ViT-B-16/nobody"}, "open_clip has no weights nobody"),
        ({"name": "no such model"}, "neither a folder with"),
        ({"name": "RN50/openai"}, "RN50/openai"),
    ],
)
def test_what_cannot_be_had_is_said(client: Client, inputs: dict[str, object], words: str) -> None:
    """Without allow_download nothing is fetched, and the sentence says what to do."""
    run = client.wait(client.queue(loader(client, **inputs)))
    assert run.error is not None and words in run.error["exception_message"]


def test_a_folder_that_went_away(client: Client) -> None:
    """A graph of somebody else's names a model that is not here."""
    run = client.wait(client.queue(loader(client, model="gone")))
    assert run.error is not None
    assert "model is 'gone', wanted one of by name" in run.error["exception_message"]
