"""Models of the real classes with random weights: for timing, and wherever answers don't matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..models.pipelines import CONFIGS
from ..scoring.clip import ClipScorer

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
SAM_VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "global_attn_indexes": [7, 15, 23, 31],
    "num_pos_feats": 128,
}
TINY_SAM: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "global_attn_indexes": [1],
    "image_size": 128,
}
CLIPSEG: dict[str, Any] = {
    "vision_config": {"patch_size": 16},
    "text_config": {},
    "reduce_dim": 64,
}
TINY_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TINY_CLIPSEG: dict[str, Any] = {
    "vision_config": {"patch_size": 16, **TINY_TOWER},
    "text_config": TINY_TOWER,
    "reduce_dim": 64,
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
            unet=random_unet("sd1", TINY_UNET if tiny else {}),
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


def random_unet(
    family: str = "sd1", changes: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """A family's UNet, filled by itself: the usual way of starting 860 million weights takes long.

    family: sd1, sd2 or sdxl. changes: to the family's own configuration.
    """
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(
        str(CONFIGS / family), subfolder="unet", local_files_only=True
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**config, **(changes or {})})
    return _filled(nn.Module.to(unet, dtype))


def random_xl_pipeline(dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Any:
    """Stable Diffusion XL's own UNet behind text encoders of the right widths and one layer."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    folder = str(CONFIGS / "sdxl")
    vae = AutoencoderKL.load_config(folder, subfolder="vae", local_files_only=True)
    first, second = (
        CLIPTextConfig.from_pretrained(folder, subfolder=name, num_hidden_layers=1)
        for name in ("text_encoder", "text_encoder_2")
    )
    tokenizer = CLIPTokenizer.from_pretrained(str(CONFIGS / "tokenizer"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StableDiffusionXLPipeline(
            vae=AutoencoderKL.from_config({**vae, **TINY_VAE}).eval().to(dtype),
            text_encoder=CLIPTextModel(first).eval().to(dtype),
            text_encoder_2=CLIPTextModelWithProjection(second).eval().to(dtype),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=random_unet("sdxl", dtype=dtype),
            scheduler=EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler"),
        )


def random_clipseg(tiny: bool = False) -> Any:
    """CLIPSeg's rd64 model (ViT-B/16, a decoder 64 wide), or a small one: transformers' class."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    config = CLIPSegConfig(**(TINY_CLIPSEG if tiny else CLIPSEG))
    return CLIPSegForImageSegmentation(config).eval().requires_grad_(False)


def random_sam(tiny: bool = False) -> Any:
    """SAM ViT-H's image encoder at 1024 px, or a small one at 128 px: transformers' class."""
    from transformers import SamVisionConfig, SamVisionModel

    with torch.device("meta"):
        encoder = SamVisionModel(SamVisionConfig(**(TINY_SAM if tiny else SAM_VIT_H)))
    return _filled(encoder).requires_grad_(False)


def _filled(module: nn.Module) -> nn.Module:
    """A module of the meta device, which has parameters alone, on the CPU with numbers in it."""
    module = module.to_empty(device="cpu").eval()
    _fill(module)
    return module


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
