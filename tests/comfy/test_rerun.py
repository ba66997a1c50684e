"""What a widget costs that changes neither attention nor CLIP, at the size people run."""

from __future__ import annotations

import time
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from refdiff import stickers as world

from .test_maps_cache import SAME, WIDGETS
from .test_unet import SD1

MOST = 0.05  # of the first run


def filled(module: nn.Module) -> None:
    """Small random weights where ComfyUI leaves whatever lay in memory."""
    random = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()
        elif weight.ndim == 1:
            weight.data.fill_(1)
        else:
            weight.data.normal_(0, 0.02, generator=random)


def models() -> dict[str, Any]:
    """MODEL, CLIP and VAE of Stable Diffusion 1.5 in its own size."""
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models import SD15
    from comfy.supported_models_base import ClipTarget

    cpu = torch.device("cpu")
    found = SD15(SD1)
    found.set_inference_dtype(torch.float32, None)
    model = ModelPatcher(found.get_model({}, ""), cpu, cpu)
    clip = CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel), model_options={"dtype": torch.float32})
    for part in (model.model.diffusion_model, clip.cond_stage_model):
        filled(part)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    )
    return {"model": model, "clip": clip, "vae": VAE(sd=vae.state_dict())}


def scorer(pack: ModuleType) -> Any:
    """A ViT-B-16 as OpenAI's, with weights of its own."""
    import open_clip

    from refdiff.scoring.clip import ClipScorer

    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16-quickgelu").eval()
    config = clip.visual.preprocess_cfg
    own = ClipScorer(clip, open_clip.get_tokenizer("ViT-B-16"), 224, config["mean"], config["std"])
    return import_module(f"{pack.__name__}.nodes.load_clip").managed(own)


@pytest.mark.full
def test_a_widget_is_cheap(pack: ModuleType) -> None:
    """Each against the first run, which loads and runs text encoder, VAE, UNet and CLIP."""
    node = import_module(f"{pack.__name__}.nodes.segment").RefDiffSegment
    picture = Image.open(world.SAMPLE).convert("RGB").resize((768, 512))
    image = torch.from_numpy(np.asarray(picture)).float()[None] / 255
    given = {**models(), "scorer": scorer(pack), "image": image, **WIDGETS}
    seconds = []
    for changes in ({}, *SAME):
        start = time.perf_counter()
        node.execute(**{**given, **changes})
        seconds.append(time.perf_counter() - start)
    first, *again = seconds
    told = ", ".join(f"{name} {took:.2f}" for name, took in zip(SAME, again, strict=True))
    print(f"first {first:.1f} s; {told}")
    assert max(again) <= MOST * first
