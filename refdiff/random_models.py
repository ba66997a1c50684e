"""Models of the real classes with random weights: for timing, and wherever answers don't matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .clip_scorer import ClipScorer
from .loading import CONFIGS

TINY_UNET = {
    "sample_size": 16,
    "layers_per_block": 1,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def random_pipeline(tiny: bool = False, seed: int = 0) -> Any:
    """A Stable Diffusion 1 pipeline in float32 on the CPU: of its own size, or a few MB.

    The tiny one's native side is 128 px.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = str(CONFIGS / "sd1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL.load_config(folder, subfolder="vae", local_files_only=True)
        text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")
        text.update(TINY_TEXT if tiny else {})
        return StableDiffusionPipeline(
            vae=AutoencoderKL.from_config({**vae, **(TINY_VAE if tiny else {})}).eval(),
            text_encoder=CLIPTextModel(text).eval(),
            tokenizer=CLIPTokenizer.from_pretrained(str(CONFIGS / "tokenizer")),
            unet=_random_unet(folder, TINY_UNET if tiny else {}),
            scheduler=PNDMScheduler.from_pretrained(folder, subfolder="scheduler"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def random_clip(tiny: bool = False, seed: int = 0) -> ClipScorer:
    """A scorer around a CLIP in float32 on the CPU: ViT-B-16, or a few MB."""
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    config: Any = TINY_CLIP if tiny else open_clip.get_model_config("ViT-B-16")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config).eval().requires_grad_(False)
    side = config["vision_cfg"].get("image_size", 224)
    return ClipScorer(model, SimpleTokenizer(), side, PIXELS["mean"], PIXELS["std"])


def _random_unet(folder: str, changes: dict[str, Any]) -> Any:
    """The UNet, filled by itself: the usual way of starting 860 million weights takes long."""
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(folder, subfolder="unet", local_files_only=True)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**config, **changes})
    unet = unet.to_empty(device="cpu").eval()
    _fill(unet)
    return unet


def _fill(module: nn.Module) -> None:
    """Matrices get normal numbers that keep the size of what passes, norms 1, biases 0."""
    numbers = torch.randn(65_537)  # a prime, so that rows differ
    for name, weight in module.named_parameters():
        if weight.ndim < 2:
            nn.init.constant_(weight, 1.0 if name.endswith("weight") else 0.0)
            continue
        count, inputs = weight.numel(), weight[0].numel()
        repeated = numbers.repeat(-(-count // len(numbers)))[:count]
        weight.data.copy_(repeated.view_as(weight) / inputs**0.5)
