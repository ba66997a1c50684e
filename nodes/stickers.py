"""The built-in sticker models as ordinary ComfyUI objects: MODEL, CLIP and VAE."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models_base import ClipTarget

from ..refdiff.stickers import WEIGHTS
from .unet import NATIVE

UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 3, 6],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "context_dim": 128,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
VAE: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2, 4],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


class Stickers(comfy.supported_models.SD15):
    """Stable Diffusion 1 at the sticker models' width."""

    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}  # noqa: RUF012
    latent_format = partial(comfy.latent_formats.SD15, scale_factor=1.38004)


class StickerEncoder(SDClipModel):
    """CLIP's text encoder at the sticker models' width."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=str(WEIGHTS / "text_encoder" / "config.json"),
            return_projected_pooled=False,
            model_options=model_options or {},
        )


def sticker_models() -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of the built-in models, under ComfyUI's memory management."""
    return _model(), _clip(), _vae()


def is_sticker_model(model: Any) -> bool:
    """Whether a MODEL is the built-in one, with or without LoRAs and patches."""
    return isinstance(getattr(model.model, "model_config", None), Stickers)


def _weights(part: str) -> dict[str, Any]:
    return comfy.utils.load_torch_file(str(next(Path(WEIGHTS, part).glob("*.safetensors"))))


def _model() -> ModelPatcher:
    named = comfy.utils.unet_to_diffusers(UNET)
    weights = {named[name]: tensor for name, tensor in _weights("unet").items()}
    device, away = model_management.get_torch_device(), model_management.unet_offload_device()
    config = Stickers(UNET)
    kinds = list(config.supported_inference_dtypes)
    dtype = model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=kinds,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    config.set_inference_dtype(dtype, model_management.unet_manual_cast(dtype, device, kinds))
    model = config.get_model(weights, "").to(away)
    model.load_model_weights(weights, "")
    patcher = ModelPatcher(model, load_device=device, offload_device=away)
    patcher.set_attachments(NATIVE, 256)
    return patcher


def _clip() -> comfy.sd.CLIP:
    weights = _weights("text_encoder")
    tokenizer = partial(
        SD1Tokenizer, tokenizer=partial(SDTokenizer, embedding_size=128, embedding_key="clip_l")
    )
    clip = comfy.sd.CLIP(
        ClipTarget(tokenizer, partial(SD1ClipModel, clip_model=StickerEncoder)),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(weights),
    )
    clip.load_sd(weights)
    return clip


def _vae() -> comfy.sd.VAE:
    config = {"params": {"ddconfig": VAE, "embed_dim": 4}}
    return comfy.sd.VAE(sd=_weights("vae"), config=config)
