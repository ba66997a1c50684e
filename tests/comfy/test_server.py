"""The pack inside a real server; the client that the other tests trust."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from .client import Client, Graph, Refused
from .server import FOREIGN, Server


def test_everything_loads(server: Server) -> None:
    assert server.complaints() == []
    assert f"seconds: {server.pack}\n" in server.log.read_text()


def test_a_foreign_refdiff_lies_first_on_the_path(server: Server) -> None:
    """Else `complaints`, which is asked again when the server stops, could not name it."""
    environment = {**os.environ, "PYTHONPATH": str(server.base / "elsewhere")}
    done = subprocess.run(
        [sys.executable, "-c", "import refdiff"],
        cwd=server.base,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert FOREIGN in done.stdout


def test_pixels_go_in_and_come_out(client: Client) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    graph: Graph = {
        "load": client.node("LoadImage", image=client.upload(picture)),
        "mask": client.node("ImageToMask", image=["load", 0], channel="green"),
        "picture": client.node("PreviewImage", images=["load", 0]),
        "green": client.node("MaskPreview", mask=["mask", 0]),
    }
    run = client.run(graph)
    assert set(run.executed) == set(graph) and run.cached == []
    assert np.array_equal(client.images(run, "picture")[0], picture)
    assert np.array_equal(client.images(run, "green")[0][..., 0], picture[..., 1])
    again = client.run(graph)
    assert again.executed == [] and set(again.cached) == set(graph)
    client.free()
    assert set(client.run(graph).executed) == set(graph)


def test_what_the_server_refuses(client: Client) -> None:
    graph: Graph = {
        "image": client.node("EmptyImage", width=0),
        "show": client.node("PreviewImage", images=["image", 0]),
    }
    with pytest.raises(Refused) as refused:
        client.run(graph)
    assert refused.value.kinds() == {"image": ["value_smaller_than_min"]}
