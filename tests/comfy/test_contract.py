"""What a MASK is, and that ComfyUI's own nodes take it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from refdiff import stickers as world

from .checks import different, excess, greys, masks, segments, unequal
from .client import Client, Graph

SOFT = {"grow": 4, "falloff": 12}


@pytest.fixture
def answered(client: Client) -> Graph:
    """One cat as a mask, "hard", and with a soft edge, "soft"."""
    return segments(client, {"hard": {"grow": 4}, "soft": SOFT}, text="the red cat")


def test_masks_are_exact(client: Client, answered: Graph) -> None:
    """0 and 1 and nothing between; a soft mask is 1 in its core and 0 past its falloff."""
    node = client.node
    subtract = {"operation": "subtract", "source": ["soft", 0], "destination": ["hard", 0]}
    answered |= {
        "any": node("ThresholdMask", mask=["hard", 0], value=0.0),
        "wide": node("RefDiffRefineMask", mask=["hard", 0], image=["models", 4], grow=12),
        "missing": node("MaskComposite", **subtract),
        "tensor": node("PreviewAny", source=["hard", 0]),
        **unequal(client, ["hard", 0], ["any", 0], "binary"),
        **excess(client, ["hard", 0], ["soft", 0], "core"),
        **excess(client, ["soft", 0], ["wide", 0], "residue"),
        **excess(client, ["soft", 0], ["hard", 0], "edge"),
    }
    run = client.run(answered)
    assert different(client, run, "binary") == 0
    assert not masks(client, run, "core")[0].any()
    assert not masks(client, run, "residue")[0].any()
    hard, soft = masks(client, run, "hard mask")[0], greys(client, run, "soft mask")[0]
    edge = masks(client, run, "edge")[0]
    assert hard.shape == (256, 256) and hard.any() and edge.any() and not (edge & hard).any()
    assert len(np.unique(soft)) > 8 and (soft[hard] == 255).all()
    told = run.text("tensor")  # torch leaves out float32 and the CPU
    assert told.startswith("tensor([[[0.")
    assert not any(word in told for word in ("dtype", "device", "grad"))


def test_every_core_node_takes_it(client: Client, answered: Graph) -> None:
    node, mask, image = client.node, ["hard", 0], ["models", 4]
    consumers: Graph = {
        "erased": node("VAEEncodeForInpaint", pixels=image, vae=["models", 2], mask=mask),
        "encoded": node("VAEEncode", pixels=image, vae=["models", 2]),
        "masked": node("SetLatentNoiseMask", samples=["encoded", 0], mask=["soft", 0]),
        "wider": node("GrowMask", mask=mask, expand=6),
        "feather": node("FeatherMask", mask=mask, left=20, top=20, right=20, bottom=20),
        "inverse": node("InvertMask", mask=mask),
        "ring": node("MaskComposite", destination=["wider", 0], source=mask, operation="subtract"),
        "words": node("CLIPTextEncode", clip=["models", 1], text="a red cat"),
        "nothing": node("CLIPTextEncode", clip=["models", 1], text=""),
        "region": node("ConditioningSetMask", conditioning=["words", 0], mask=mask),
        "scene": node(
            "ConditioningCombine", conditioning_1=["region", 0], conditioning_2=["words", 0]
        ),
        "crop": node("CropMask", mask=mask, x=10, y=90, width=90, height=100),
        "as image": node("MaskToImage", mask=["soft", 0]),
    }
    previews = {
        f"{name} shown": node("MaskPreview", mask=[name, 0])
        for name in ("wider", "feather", "inverse", "ring", "crop")
    }
    previews["as image shown"] = node("PreviewImage", images=["as image", 0])
    run = client.run(answered | consumers | previews | _painted(client))
    hard = masks(client, run, "hard mask")[0]
    wider, inverse, ring = (
        masks(client, run, f"{name} shown")[0] for name in ("wider", "inverse", "ring")
    )
    assert np.array_equal(inverse, ~hard) and np.array_equal(ring, wider & ~hard) and ring.any()
    assert np.array_equal(masks(client, run, "crop shown")[0], hard[90:190, 10:100])
    painted = client.images(run, "pasted shown")[0]
    kept = greys(client, run, "soft mask")[0] == 0
    sample = np.asarray(Image.open(world.SAMPLE).convert("RGB"))
    assert np.array_equal(painted[kept], sample[kept])
    assert np.abs(painted[hard].astype(int) - sample[hard]).mean() > 3


def _painted(client: Client) -> Graph:
    """Each way of painting in a mask, two steps long; the last is pasted into the picture."""
    node = client.node
    prompts = {"positive": ["words", 0], "negative": ["nothing", 0]}
    inpaint = {**prompts, "vae": ["models", 2], "pixels": ["models", 4], "mask": ["soft", 0]}

    def paint(model: str, latent: str, **changes: list) -> dict:
        wires = {"model": [model, 0], "latent_image": [latent, 0], **prompts, **changes}
        return node("KSampler", seed=1, steps=2, cfg=2.0, denoise=1.0, **wires)

    latents = {
        "in erased": paint("models", "erased"),
        "in masked": paint("models", "masked"),
        "in region": paint("models", "encoded", positive=["scene", 0]),
    }
    graph: Graph = {
        "differential": node("DifferentialDiffusion", model=["models", 0]),
        "inpaint": node("InpaintModelConditioning", noise_mask=True, **inpaint),
        **latents,
        "in soft": paint(
            "differential",
            "inpaint",
            positive=["inpaint", 0],
            negative=["inpaint", 1],
            latent_image=["inpaint", 2],
        ),
    }
    for name in [*latents, "in soft"]:
        graph[f"{name} decoded"] = node("VAEDecode", samples=[name, 0], vae=["models", 2])
        graph[f"{name} shown"] = node("PreviewImage", images=[f"{name} decoded", 0])
    pasted = {"destination": ["models", 4], "source": ["in soft decoded", 0], "mask": ["soft", 0]}
    graph["pasted"] = node("ImageCompositeMasked", **pasted)
    graph["pasted shown"] = node("PreviewImage", images=["pasted", 0])
    return graph


def test_batches_go_into_inpainting(client: Client) -> None:
    """One mask for each picture of a batch."""
    graph = segments(client, {"two": {"image": ["batch", 0]}}, text="the red cat")
    node = client.node
    graph |= {
        "batch": node("RepeatImageBatch", image=["models", 4], amount=2),
        "erased": node(
            "VAEEncodeForInpaint", pixels=["batch", 0], vae=["models", 2], mask=["two", 0]
        ),
        "decoded": node("VAEDecode", samples=["erased", 0], vae=["models", 2]),
        "shown": node("PreviewImage", images=["decoded", 0]),
        "pasted": node(
            "ImageCompositeMasked", destination=["batch", 0], source=["decoded", 0], mask=["two", 0]
        ),
        "pasted shown": node("PreviewImage", images=["pasted", 0]),
    }
    run = client.run(graph)
    assert len(masks(client, run, "two mask")) == len(client.images(run, "pasted shown")) == 2


def test_refine_follows_its_widgets(client: Client) -> None:
    """Holes are filled, heat shapes the fall, and what is grey counts as inside or outside."""
    ring = np.zeros((256, 256, 3), np.uint8)
    ring[60:200, 60:200] = 255
    ring[100:160, 100:160] = 0
    ring[100:160, 20:40] = 100  # below the half
    node = client.node
    wires = {"mask": ["drawn", 0], "image": ["load", 0]}
    slope = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    graph: Graph = {
        "load": node("LoadImage", image=client.upload(ring, "ring.png")),
        "slope": node("LoadImage", image=client.upload(slope, "slope.png")),
        "drawn": node("ImageToMask", image=["load", 0], channel="red"),
        "warmth": node("ImageToMask", image=["slope", 0], channel="red"),
        "plain": node("RefDiffRefineMask", **wires),
        "filled": node("RefDiffRefineMask", fill_holes=True, **wires),
        "fading": node("RefDiffRefineMask", falloff=20, **wires),
        "by heat": node(
            "RefDiffRefineMask", falloff=20, fall_by="heat", heat=["warmth", 0], **wires
        ),
    }
    for name in ("plain", "filled", "fading", "by heat"):
        graph[f"{name} shown"] = node("MaskPreview", mask=[name, 0])
    run = client.run(graph)
    plain, filled = (masks(client, run, f"{name} shown")[0] for name in ("plain", "filled"))
    assert np.array_equal(plain, ring[..., 0] == 255)
    assert filled[60:200, 60:200].all() and filled.sum() == 140 * 140
    fading, warm = (greys(client, run, f"{name} shown")[0] for name in ("fading", "by heat"))
    assert (fading[plain] == 255).all() and (warm[plain] == 255).all()
    assert (warm <= fading).all() and warm[130, 50] < fading[130, 50]
    assert warm[130, 210] == fading[130, 210] > 0 == fading[130, 30]


def test_a_mask_without_a_batch(pack: ModuleType) -> None:
    """Some nodes give [H, W]; no core node does."""
    mask = torch.zeros(20, 30)
    mask[5:10, 5:10] = 1
    node = import_module(f"{pack.__name__}.nodes.refine").RefineMask
    wide = node.execute(mask, torch.rand(1, 20, 30, 3), "off", 2, 0, False, "distance")[0]
    assert wide.shape == (1, 20, 30) and wide.dtype == torch.float32
    assert wide[0, 5:10, 3:12].min() == 1 and wide.sum() < mask.sum() * 4
