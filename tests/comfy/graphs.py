"""Graphs in API format with the sticker models, which need no download."""

from __future__ import annotations

from typing import Any

from .client import Client, Graph


def stickers(client: Client) -> Graph:
    """The loader alone, as "models": model, clip, vae, scorer, sample picture, objects."""
    return {"models": client.node("RefDiffLoadStickerModels")}


def segment(client: Client, text: str, copies: int = 1, **changes: Any) -> Graph:
    """Ref-Diff Segment as "segment" over the sample picture, its masks shown by "mask"."""
    wires = {"model": ["models", 0], "clip": ["models", 1], "vae": ["models", 2]}
    return {
        **stickers(client),
        "batch": client.node("RepeatImageBatch", image=["models", 4], amount=copies),
        "segment": client.node(
            "RefDiffSegment",
            **{**wires, "image": ["batch", 0], "scorer": ["models", 3], "text": text, **changes},
        ),
        "mask": client.node("MaskPreview", mask=["segment", 0]),
    }


def sample(client: Client, text: str, seed: int, steps: int = 2) -> Graph:
    """The sticker model painting by itself, with core nodes; "picture" shows it."""
    return {
        **stickers(client),
        "words": client.node("CLIPTextEncode", clip=["models", 1], text=text),
        "nothing": client.node("CLIPTextEncode", clip=["models", 1], text=""),
        "empty": client.node("EmptyLatentImage", width=256, height=256),
        "sampler": client.node(
            "KSampler",
            model=["models", 0],
            positive=["words", 0],
            negative=["nothing", 0],
            latent_image=["empty", 0],
            seed=seed,
            steps=steps,
        ),
        "decode": client.node("VAEDecode", samples=["sampler", 0], vae=["models", 2]),
        "picture": client.node("PreviewImage", images=["decode", 0]),
    }
