"""Load CLIP Scorer: a model in models/open_clip, by its name, or neither."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from refdiff import stickers as world

from .checks import masks, segments
from .client import Client, Graph, Refused
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


def listed(client: Client) -> str:
    """The own model as the list has it, with its size."""
    _, told = client.object_info("RefDiffLoadClipScorer")["input"]["required"]["model"]
    (found,) = [one for one in told["options"] if NAME in one]
    return found


def test_a_folder_is_listed_and_judges(server: Server, client: Client, own_model: Path) -> None:
    """It stands in the list without a restart, and answers as the same model does elsewhere."""
    inputs = client.object_info("RefDiffLoadClipScorer")["input"]
    assert NAME in str(inputs["required"]["model"])
    cases = {"built in": {}, "own": {"scorer": ["load", 0]}}
    given = {"text": "the small car", "candidates": ["models", 5]}
    assert re.fullmatch(rf"{NAME} \(\d+ MB\)", listed(client))
    graph = segments(client, cases, **given) | loader(client, model=listed(client))
    run = client.run(graph)
    (one,), (other,) = (masks(client, run, f"{name} mask") for name in cases)
    assert one.any() and np.array_equal(one, other)
    assert "no scorer wired" not in run.text("own report")
    assert "Parsing model identifier" not in server.log.read_text()  # open_clip is quiet


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"name": "ViT-B-16/openai"}, "ViT-B-16/openai cannot be read"),
        ({"name": "ViT-B-16/nobody"}, "open_clip has no weights nobody"),
        ({"name": "no-such-model"}, "neither a folder with"),
        ({"name": "no such model"}, "wanted open_clip's name and weights"),
        ({"name": "hf-hub:nobody/nothing"}, "hf-hub:nobody/nothing cannot be read"),
        ({"name": "/etc"}, "wanted open_clip's name and weights"),
        ({"name": "../models/open_clip"}, "wanted open_clip's name and weights"),
        ({"name": "local-dir:/etc"}, "wanted open_clip's name and weights"),
        ({"name": "models/open_clip"}, "wanted open_clip's name and weights"),
        ({"name": "\\\\host\\share"}, "wanted open_clip's name and weights"),
        ({"name": "x" * 5000}, "wanted open_clip's name and weights"),
        ({"name": "RN50/openai"}, "RN50/openai"),
    ],
)
def test_what_cannot_be_had_is_said(client: Client, inputs: dict[str, object], words: str) -> None:
    """Without allow_download nothing is fetched, and the sentence says what to do."""
    run = client.wait(client.queue(loader(client, **inputs)))
    assert run.error is not None and words in run.error["exception_message"]


def remote_code(folder: Path, proof: Path) -> None:
    """Let the folder's configs name a tokenizer of its own, which would write `proof`."""
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {
        "hf_tokenizer_name": "mine",
        "tokenizer_kwargs": {"trust_remote_code": True},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    auto = {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(auto))
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Evil: pass\n")


def test_a_models_own_code_never_runs(client: Client, own_model: Path, tmp_path: Path) -> None:
    remote_code(own_model, tmp_path / "proof")
    client.free()  # an answer about the folder as it was
    run = client.wait(client.queue(loader(client, model=listed(client))))
    assert run.error is not None and "such code never runs" in run.error["exception_message"]
    assert not (tmp_path / "proof").exists()


def test_a_link_out_of_the_folder_is_no_model(
    client: Client, server: Server, own_model: Path, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    shutil.move(own_model, away)
    own_model.mkdir()
    (own_model / "open_clip_config.json").symlink_to(away / "open_clip_config.json")
    assert NAME not in str(client.object_info("RefDiffLoadClipScorer")["input"])


def test_a_folder_that_went_away(client: Client) -> None:
    """A graph of somebody else's names a model that is not here."""
    try:
        run = client.wait(client.queue(loader(client, model="gone")))
    except Refused as refused:  # newer servers look for themselves
        assert refused.kinds() == {"load": ["value_not_in_list"]}
    else:
        assert run.error is not None
        assert "model is 'gone', wanted one of by name" in run.error["exception_message"]
