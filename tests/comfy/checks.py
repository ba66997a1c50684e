"""What the server's own nodes say of masks and latents, to the last bit, and a short form of many
Segments in one graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from .client import Client, Graph, Run
from .graphs import stickers
from .server import Server

Wire = list[Any]
WORDS = {"presence": 2, "report": 4, "box": 5, "points": 6, "found": 7, "all found": 8}


def excess(client: Client, one: Wire, other: Wire, name: str) -> Graph:
    """Nodes of which `name` shows white where a mask is more than the other, however little."""
    subtract = {"destination": one, "source": other, "operation": "subtract"}
    return {
        f"{name} -": client.node("MaskComposite", **subtract),
        f"{name} >": client.node("ThresholdMask", mask=[f"{name} -", 0], value=0.0),
        name: client.node("MaskPreview", mask=[f"{name} >", 0]),
    }


def unequal(client: Client, one: Wire, other: Wire, name: str) -> Graph:
    """Nodes that show white where two masks are not the same number; `different` reads them."""
    above = excess(client, one, other, f"{name} above")
    return above | excess(client, other, one, f"{name} below")


def different(client: Client, run: Run, name: str) -> int:
    """How many pixels of two masks that `unequal` compared are not the same number."""
    sides = (client.images(run, f"{name} {side}") for side in ("above", "below"))
    return sum(int((picture > 0).sum()) for pictures in sides for picture in pictures)


def masks(client: Client, run: Run, node: str) -> list[np.ndarray]:
    """The masks that a node showed: bool [H, W], white or black and nothing between."""
    shown = [picture[..., 0] for picture in client.images(run, node)]
    assert all(set(np.unique(picture)) <= {0, 255} for picture in shown)
    return [picture == 255 for picture in shown]


def greys(client: Client, run: Run, node: str) -> np.ndarray:
    """The heat or soft masks that a node showed, 0..255 as int [K, H, W]."""
    return np.stack([picture[..., 0] for picture in client.images(run, node)]).astype(int)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


def latent(server: Server, run: Run, node: str) -> torch.Tensor:
    """What a SaveLatent node saved, [B, C, h, w]."""
    (saved,) = run.outputs[node]["latents"]
    folder = server.base / "output" / saved["subfolder"]
    return load_file(folder / saved["filename"])["latent_tensor"]


def segments(client: Client, cases: dict[str, dict[str, Any]], **common: Any) -> Graph:
    """A Segment for every case over the sample picture, its outputs shown by "CASE OUTPUT"."""
    wires = {"model": ["models", 0], "clip": ["models", 1], "vae": ["models", 2]}
    wires |= {"image": ["models", 4], "scorer": ["models", 3]}
    graph = stickers(client)
    for name, changes in cases.items():
        graph[name] = client.node("RefDiffSegment", **{**wires, **common, **changes})
        graph[f"{name} mask"] = client.node("MaskPreview", mask=[name, 0])
        graph[f"{name} heat"] = client.node("MaskPreview", mask=[name, 1])
        for output, index in WORDS.items():
            graph[f"{name} {output}"] = client.node("PreviewAny", source=[name, index])
    return graph
