"""What is known of a ComfyUI MODEL: its cross-attentions, its size, and whether it will do."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch

from refdiff.attention.capture import CaptureSettings

SD1 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
    "dtype": torch.float16,
}
SD2 = {**SD1, "context_dim": 1024, "use_linear_in_transformer": True}
SDXL = {
    **SD2,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
REFINER = {
    **SD2,
    "model_channels": 384,
    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "transformer_depth_middle": 4,
    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
    "context_dim": 1280,
    "num_classes": "sequential",
    "adm_in_channels": 2560,
}
UPSCALER = {**SD2, "model_channels": 256, "in_channels": 7, "num_classes": 1000}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "dtype": torch.float16,
}


@pytest.fixture(scope="module")
def unet(pack: ModuleType) -> ModuleType:
    return import_module(f"{pack.__name__}.nodes.unet")


def model(family: str, config: dict[str, Any], kind: str | None = None) -> Any:
    """A MODEL of the true size whose weights take no memory."""
    import comfy.supported_models
    from comfy.model_base import ModelType
    from comfy.model_patcher import ModelPatcher

    found = getattr(comfy.supported_models, family)(config)
    if kind is not None:
        found.model_type = lambda *_: ModelType[kind]
    cpu = torch.device("cpu")
    return ModelPatcher(found.get_model({}, "", device="meta"), cpu, cpu)


@pytest.mark.parametrize(
    ("family", "config", "strides"),
    [
        ("SD15", SD1, {1: 5, 2: 5, 4: 5, 8: 1}),
        ("SD20", SD2, {1: 5, 2: 5, 4: 5, 8: 1}),
        ("SDXL", SDXL, {2: 10, 4: 60}),
    ],
)
def test_layers_of_the_true_architectures(
    unet: ModuleType, family: str, config: dict[str, Any], strides: dict[int, int]
) -> None:
    made = model(family, config)
    table = unet.layer_table(made.model.diffusion_model)
    assert Counter(stride for _, stride in table) == strides
    assert len({unet.place_of(name) for name, _ in table}) == len(table)
    attentions = [n for n, _ in made.model.diffusion_model.named_modules() if n.endswith("attn2")]
    assert sorted(f"{name}.attn2" for name, _ in table) == sorted(attentions)
    unet.check_model(made)


def test_a_grid_that_only_the_way_up_has(unet: ModuleType) -> None:
    made = model(
        "SD15", {**SD1, "model_channels": 32, "transformer_depth": [0, 0, 1, 1, 1, 1, 0, 0]}
    )
    seen = made.model.diffusion_model
    assert len(unet.wanted_layers(seen, CaptureSettings(strides=(8,)))) == 3
    with pytest.raises(ValueError, match=r"strides \(8,\) have no layer on the way down"):
        unet.wanted_layers(seen, CaptureSettings(strides=(8,), layers="down"))


@pytest.mark.parametrize(
    ("family", "config", "kind", "side"),
    [
        ("SD15", SD1, "EPS", 512),
        ("SD15", SD1, "V_PREDICTION", 512),
        ("SD20", SD2, "EPS", 512),
        ("SD20", SD2, "V_PREDICTION", 768),
        ("SDXL", SDXL, "EPS", 1024),
        ("SDXL", SDXL, "EDM", 1024),
    ],
)
def test_native_side(
    unet: ModuleType, family: str, config: dict[str, Any], kind: str, side: int
) -> None:
    made = model(family, config, kind)
    unet.check_model(made)
    assert unet.native_side(made) == side
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2).cumprod(0)
    sigma = unet.sigma_at(made.get_model_object("model_sampling"), 100)
    assert float(1 / (1 + sigma**2)) == pytest.approx(float(alphas[100]), rel=1e-5)


@pytest.mark.parametrize(
    ("family", "config"),
    [("Flux", FLUX), ("SDXLRefiner", REFINER), ("SD_X4Upscaler", UPSCALER)],
)
def test_other_models_are_refused_by_name(
    unet: ModuleType, family: str, config: dict[str, Any]
) -> None:
    if family == "Flux":
        from comfy.ldm.flux.model import FluxParams

        if "txt_ids_dims" in {item.name for item in fields(FluxParams)}:  # ComfyUI 0.33 wants it
            config = {**config, "txt_ids_dims": []}
    with pytest.raises(Exception, match=f"needs a Stable Diffusion 1, 2 or XL model; got {family}"):
        unet.check_model(model(family, config))


def test_flow_matching_is_refused(unet: ModuleType) -> None:
    with pytest.raises(Exception, match="flow matching; connect"):
        unet.check_model(model("SDXL", SDXL, "FLOW"))


def test_parts_of_another_checkpoint_are_refused(pack: ModuleType, unet: ModuleType) -> None:
    _, _, vae = import_module(f"{pack.__name__}.nodes.stickers").sticker_models()
    made = model("SD15", SD1)
    with pytest.raises(Exception, match="gives 1024 numbers a token and the model takes 768"):
        unet.check_text(made, torch.zeros(1, 77, 1024))
    import comfy.latent_formats

    unet.check_vae(vae, made.get_model_object("latent_format"))
    with pytest.raises(Exception, match="4 channels and the model takes 16"):
        unet.check_vae(vae, comfy.latent_formats.Flux())
    import comfy.sd

    with pytest.raises(Exception, match="holds no VAE; connect one"):
        unet.check_vae(comfy.sd.VAE(sd={}), made.get_model_object("latent_format"))
