"""A ComfyUI MODEL: whether its words can be read, its cross-attentions, and a copy to watch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import comfy.model_base
import comfy.model_sampling
import torch
from comfy.hooks import EnumHookType, HookGroup
from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import nn

from ..refdiff.attention.capture import CaptureSettings, asked_layers
from ..refdiff.errors import ModelError
from ..refdiff.families import Family, family_of_width

NATIVE = "refdiff_native_side"
"""The attachment with which a MODEL of its own size says its native side in pixels."""
Place = tuple[str, int, int]
WAY_UP = "output_blocks"
"""How the names of the layers on the way up begin."""
CELL = 8  # pixels a latent cell, of every VAE of Stable Diffusion


def check_model(model: Any) -> None:
    """Raise ModelError unless words can be read from this MODEL, and say what it is."""
    base = model.model
    unet = getattr(base, "diffusion_model", None)
    latents = base.latent_format.latent_channels
    known = (
        isinstance(unet, UNetModel)
        and unet.in_channels in (latents, 2 * latents + 1)
        and (unet.num_classes is None or isinstance(base, comfy.model_base.SDXL))
        and not any(isinstance(part, SpatialVideoTransformer) for part in unet.modules())
        and bool(layer_table(unet))
    )
    if not known:
        name = type(getattr(base, "model_config", base)).__name__
        raise ModelError(f"Ref-Diff needs a Stable Diffusion 1, 2 or XL model; got {name}.")
    if not isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.EPS):
        raise ModelError(
            "Ref-Diff needs a model that predicts noise or velocity, and this one samples by "
            "flow matching; connect the model without its ModelSampling patch, or another one."
        )


def check_vae(vae: Any, latents: Any) -> None:
    """Raise ModelError unless this VAE makes the latents that the MODEL reads."""
    if vae.first_stage_model is None:
        raise ModelError("The checkpoint holds no VAE; connect one from Load VAE.")
    if vae.latent_channels != latents.latent_channels or vae.latent_dim != 2:
        raise ModelError(
            f"The VAE makes latents of {vae.latent_channels} channels and the model takes "
            f"{latents.latent_channels}; connect the VAE of the same checkpoint."
        )


def check_text(model: Any, cond: torch.Tensor) -> None:
    """Raise ModelError unless encoded text [R, T, C] is what the MODEL's layers take."""
    width = _text_width(model.model.diffusion_model)
    if cond.shape[-1] != width:
        raise ModelError(
            f"The CLIP gives {cond.shape[-1]} numbers a token and the model takes {width}; "
            "connect the CLIP of the same checkpoint."
        )


def check_settings(model: Any, clip: Any, settings: CaptureSettings, keep_patches: bool) -> None:
    """Raise ValueError for settings that cannot be kept with this MODEL and CLIP."""
    if settings.queries == "own":
        return
    options = model.model_options["transformer_options"]
    if keep_patches and options.get("patches", {}).get("attn2_patch"):
        raise ValueError(
            f"queries is {settings.queries!r}, which asks the model's own keys, and a patch on the "
            "model changes them; turn keep_patches off, or set queries='own'."
        )
    if clip.apply_hooks_to_conds:
        raise ValueError(
            f"queries is {settings.queries!r}, and the CLIP brings hooks that change the model "
            "while it samples; connect the CLIP without Set CLIP Hooks, or set queries='own'."
        )


def strides_of(unet: Any) -> dict[str, int]:
    """Every cross-attention's block, and the pixels of the picture between its places."""
    return {layer: CELL * stride for layer, stride in layer_table(unet)}


def wanted_layers(unet: Any, settings: CaptureSettings) -> dict[str, int]:
    """Those of a UNet's layers, and their strides, that the settings ask for."""
    return asked_layers(strides_of(unet), settings, WAY_UP)


def family(model: Any) -> Family:
    """The family of a MODEL."""
    return family_of_width(_text_width(model.model.diffusion_model))


def _text_width(unet: Any) -> int:
    """How wide the text is that the UNet reads."""
    return int(unet.get_submodule(layer_table(unet)[0][0]).attn2.to_k.weight.shape[1])


def layer_table(unet: Any) -> list[tuple[str, int]]:
    """Every block with a cross-attention of a UNetModel, in the order of its pass.

    (module path, stride): the stride is how many latent cells apart the block's places are.
    """
    table: list[tuple[str, int]] = []
    stride = 1
    for path, part in _parts(unet):
        if isinstance(part, SpatialTransformer):
            for index, block in enumerate(part.transformer_blocks):
                if block.attn2 is not None:
                    table.append((f"{path}.transformer_blocks.{index}", stride))
        stride = stride * 2 if isinstance(part, Downsample) else stride
        stride = stride // 2 if isinstance(part, Upsample) else stride
    return table


def _parts(unet: Any) -> list[tuple[str, nn.Module]]:
    """The parts of a UNetModel's blocks and their paths, in the order of its pass."""
    blocks = [(f"input_blocks.{n}", block) for n, block in enumerate(unet.input_blocks)]
    if unet.middle_block is not None:
        blocks.append(("middle_block", unet.middle_block))
    blocks += [(f"output_blocks.{n}", block) for n, block in enumerate(unet.output_blocks)]
    return [(f"{path}.{n}", part) for path, block in blocks for n, part in enumerate(block)]


def place_of(layer: str) -> Place:
    """How a running UNet calls a layer of the table: ("input", 4, 0) and the like."""
    kind, number, *_, index = layer.split(".")
    kind = kind.split("_")[0]
    return kind, 0 if kind == "middle" else int(number), int(index)


def deepest_stride(unet: Any) -> int:
    """How many latent cells apart the places of the coarsest level are."""
    return 2 ** (len(unet.channel_mult) - 1)


def native_side(model: Any) -> int:
    """The side in pixels of the square pictures the model was trained on."""
    attached = model.get_attachment(NATIVE)
    if attached is not None:
        return int(attached)
    if isinstance(model.model, comfy.model_base.SDXL):
        return 1024
    sampling = model.get_model_object("model_sampling")
    second = model.model.model_config.unet_config.get("context_dim") == 1024
    return 768 if second and isinstance(sampling, comfy.model_sampling.V_PREDICTION) else 512


def private_clone(model: Any, keep_patches: bool = False) -> Any:
    """A copy of the MODEL to run and watch: its weights and LoRAs, and nobody else's patches.

    keep_patches: leave what acts inside the UNet; what only mixes the UNet's answers always goes.
    """
    clone = model.clone()
    if keep_patches:
        outside = ("sampler_", "disable_cfg1_optimization", "denoise_mask_function")
        kept = {k: v for k, v in clone.model_options.items() if not k.startswith(outside)}
        clone.model_options = kept
        return clone
    clone.model_options = {"transformer_options": {}}
    clone.wrappers = WrappersMP.init_wrappers()
    clone.callbacks = CallbacksMP.init_callbacks()
    clone.injections = {}
    clone.additional_models = {}
    clone.object_patches = {
        name: patch
        for name, patch in clone.object_patches.items()
        if not name.startswith("diffusion_model")
    }
    return clone


def running_unet(model: Any) -> Callable[[], Any]:
    """What tells, while a MODEL of our own runs, which UNet it is running with.

    That need not be the one it holds: ComfyUI takes a copy without dynamic loading where the
    conditioning brings hooks, and a copy on each card where there are several.
    """
    own, here = model.model.diffusion_model, threading.local()

    def note(executor: Callable[..., torch.Tensor], *args: Any, **named: Any) -> torch.Tensor:
        here.unet = executor.class_obj  # type: ignore[attr-defined]
        try:
            return executor(*args, **named)
        finally:
            del here.unet

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "refdiff", note)
    return lambda: getattr(here, "unet", own)


def weight_hooks(hooks: HookGroup) -> HookGroup:
    """The hooks that change weights while the model samples, as LoRAs do, without the others."""
    kept = HookGroup()
    for hook in hooks.get_type(EnumHookType.Weight):
        kept.add(hook)
    return kept


def train_timesteps(sampling: Any) -> int:
    """How many timesteps the model was trained with."""
    return int(getattr(sampling, "num_timesteps", 1000))


def sigma_at(sampling: Any, timestep: int) -> torch.Tensor:
    """The noise level of a training timestep; a model without any gets Stable Diffusion's."""
    if not hasattr(sampling, "num_timesteps"):
        sampling = comfy.model_sampling.ModelSamplingDiscrete()
    return sampling.sigma(torch.tensor(timestep)).float().cpu()
