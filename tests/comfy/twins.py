"""One small random model of a family, once as a diffusers pipeline and once as ComfyUI objects."""

from __future__ import annotations

import atexit
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

import refdiff
from refdiff.attention.maps import TokenMaps

TOKENIZER = Path(refdiff.__file__).parent / "configs" / "tokenizer"
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
UNET = {
    "image_size": 32,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": [1, 1, 1],
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
    "dtype": torch.float32,
}
SHALLOW = {
    "transformer_depth": [1, 1, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "adm_in_channels": None,
}
DEEP = {
    "transformer_depth": [0, 1, 2],
    "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "adm_in_channels": 32 + 6 * 256,
    "num_classes": "sequential",
}


@dataclass(frozen=True)
class Twins:
    """The same weights twice."""

    pipe: Any
    model: Any
    clip: Any


@cache
def first(channels: int = 4, dtype: torch.dtype = torch.float32, cast: Any = None) -> Twins:
    """Stable Diffusion 1; ComfyUI keeps the weights in `dtype`, computes in `cast` if given."""
    torch.manual_seed(0)
    encoder = _encoder(CLIPTextModel, 2, "quick_gelu")
    unet = _unet(in_channels=channels, cross_attention_dim=32, attention_head_dim=8)
    kind = StableDiffusionPipeline if channels == 4 else StableDiffusionInpaintPipeline
    pipe = _pipe(kind, unet, text_encoder=encoder)
    config = {**UNET, **SHALLOW, "in_channels": channels, "context_dim": 32}
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models import SD15

    clip = _clip(SD1Tokenizer, SD1ClipModel, {"l": (encoder, 2)})
    return Twins(pipe, _model(SD15, config, unet, dtype, cast), clip)


def inpainting() -> Twins:
    """Stable Diffusion 1 with nine channels."""
    return first(channels=9)


@cache
def velocity() -> Twins:
    """Stable Diffusion 2, which predicts velocity; its text encoder's last layer is not used."""
    torch.manual_seed(0)
    encoder = _encoder(CLIPTextModel, 2, "gelu")
    unet = _unet(cross_attention_dim=32, attention_head_dim=(1, 2, 2), use_linear_projection=True)
    pipe = _pipe(
        StableDiffusionPipeline,
        unet,
        "v_prediction",
        text_encoder=encoder,
        tokenizer=_tokenizer("!"),
    )
    config = {**UNET, **SHALLOW, "in_channels": 4, "context_dim": 32}
    from comfy.model_base import ModelType
    from comfy.supported_models import SD20
    from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer

    class Velocity(SD20):
        def model_type(self, state_dict: Any, prefix: str = "") -> Any:
            return ModelType.V_PREDICTION

    config["use_linear_in_transformer"] = True
    clip = _clip(SD2Tokenizer, SD2ClipModel, {"h": (encoder, 3)})
    return Twins(pipe, _model(Velocity, config, unet), clip)


@cache
def sdxl() -> Twins:
    """Stable Diffusion XL with its two text encoders and the sizes it is told."""
    torch.manual_seed(0)
    small = _encoder(CLIPTextModel, 3, "quick_gelu")
    large = _encoder(CLIPTextModelWithProjection, 3, "gelu")
    unet = _unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=64,
        attention_head_dim=(1, 2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=32 + 6 * 256,
    )
    pipe = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=small,
        text_encoder_2=large,
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer("!"),
        unet=unet,
        scheduler=_scheduler(),
        add_watermarker=False,
    )
    config = {**UNET, **DEEP, "in_channels": 4, "context_dim": 64}
    config["use_linear_in_transformer"] = True
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models import SDXL

    clip = _clip(SDXLTokenizer, SDXLClipModel, {"l": (small, 3), "g": (large, 3)})
    return Twins(pipe, _model(SDXL, config, unet), clip)


for family in (first, velocity, sdxl):
    atexit.register(family.cache_clear)  # later ComfyUI could not say good-bye to its models


def _tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(TOKENIZER, pad_token=pad)


def _encoder(kind: type, layers: int, act: str) -> Any:
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "projection_dim": 32}
    return kind(CLIPTextConfig(**TEXT, **ends, num_hidden_layers=layers, hidden_act=act)).eval()


def _unet(**changes: Any) -> UNet2DConditionModel:
    shape: dict[str, Any] = {
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": (64, 128, 128),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**(shape | changes)).eval()


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        layers_per_block=1,
    ).eval()


def _scheduler(prediction: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def _pipe(kind: type, unet: Any, prediction: str = "epsilon", **parts: Any) -> Any:
    return kind(
        vae=_vae(),
        unet=unet,
        scheduler=_scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **({"tokenizer": _tokenizer()} | parts),
    )


def _model(
    family: type,
    config: dict[str, Any],
    unet: UNet2DConditionModel,
    dtype: torch.dtype = torch.float32,
    cast: torch.dtype | None = None,
) -> Any:
    from comfy.model_patcher import ModelPatcher
    from comfy.utils import unet_to_diffusers

    names, weights = unet_to_diffusers(config), unet.state_dict()
    found = family(config)
    found.set_inference_dtype(dtype, cast)
    base = found.get_model({}, "")
    base.load_model_weights({names[name]: tensor for name, tensor in weights.items()}, "")
    cpu = torch.device("cpu")
    return ModelPatcher(base, load_device=cpu, offload_device=cpu)


def _clip(tokenizer: type, model: type, encoders: dict[str, tuple[Any, int]]) -> Any:
    from comfy.sd import CLIP
    from comfy.supported_models_base import ClipTarget

    options = {
        f"clip_{name}_model_config": {**TEXT, "num_hidden_layers": layers}
        for name, (_, layers) in encoders.items()
    }
    clip = CLIP(ClipTarget(tokenizer, model), model_options={**options, "dtype": torch.float32})
    for name, (encoder, _) in encoders.items():
        weights = {
            key if key.startswith("text_") else f"text_model.{key}": tensor
            for key, tensor in encoder.state_dict().items()
        }
        getattr(clip.cond_stage_model, f"clip_{name}").load_sd(weights)
    return clip


def difference(one: TokenMaps, other: TokenMaps) -> float:
    """The largest difference of two answers' maps, as a share of their size where that is > 1."""
    pairs = list(zip(one.maps, other.maps, strict=True))
    largest = max(float(b.abs().max()) for _, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / max(1.0, largest)


def snapshot(model: Any) -> dict[str, Any]:
    """What must be the same after a look at a MODEL as before."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list) else value

    parts = ("model_options", "patches", "object_patches", "wrappers", "callbacks", "attachments")
    kept = {name: plain(getattr(model, name)) for name in (*parts, "patches_uuid", "injections")}
    modules = list(model.model.modules())
    hooks = [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in modules]
    weights = [p.detach().cpu().flatten().view(torch.uint8) for p in model.model.parameters()]
    return {
        **kept,
        "hook_patches": [plain(model.hook_patches), plain(model.hook_backup)],
        "hooks": hooks,
        "weights": [hashlib.sha256(bits.numpy()).hexdigest() for bits in weights],
        "running": getattr(model.model, "current_patcher", None),
    }
