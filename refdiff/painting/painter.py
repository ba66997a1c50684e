"""Inpainting with the networks of a pipeline that is held for something else.

A checkpoint made for inpainting (nine channels) is told what is hidden. A plain one paints by
blending latents: after each step what must not change is put back as noised as the step, and soft
edges change the later the less they may change (Differential Diffusion, arXiv 2306.00950).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..attention.text_encoding import encode_texts
from ..errors import ModelError
from ..families import brush_of
from .brush import on_cells


@dataclass(frozen=True)
class PaintSettings:
    """How to paint.

    strength: 1 starts from noise, less keeps more of what was there; None is 1, and 0.5 of a
    filled place where something is removed. grow, feather: in pixels of
    the picture; None follows the size of what is painted. tries: pictures made, of which CLIP
    picks. context: how much of the picture the painter sees, in long sides of the painted place.
    guidance, context: None is what suits the painter's family (`families.Brush`), for most 7.5
    and 2.
    """

    steps: int = 30
    guidance: float | None = None
    strength: float | None = None
    negative: str = ""
    seed: int = 0
    tries: int = 1
    grow: int | None = None
    feather: int | None = None
    context: float | None = None

    def __post_init__(self) -> None:
        strength = 1.0 if self.strength is None else self.strength
        if not 0 < strength <= 1:
            raise ValueError(f"strength is {strength}, wanted above 0 and at most 1.")
        context = 1.0 if self.context is None else self.context
        if self.steps < 1 or self.tries < 1 or context < 1:
            raise ValueError(
                f"steps is {self.steps}, tries {self.tries} and context {context}, wanted 1 or "
                "more."
            )
        if self.steps * strength < 1:
            raise ValueError(
                f"strength {strength} of {self.steps} steps is less than one step; raise one."
            )
        if self.feather is not None and self.feather < 0:
            raise ValueError(f"feather is {self.feather}, wanted 0 or more pixels.")


def inpainting_pipeline(pipe: Any) -> Any:
    """The inpainting pipeline of diffusers over the networks of `pipe`, which stays as it is.

    Raises ModelError for a pipeline that has none.
    """
    import diffusers

    if getattr(pipe, "unet", None) is None:
        raise ModelError(
            f"{type(pipe).__name__} has no UNet to paint with; pass a Stable Diffusion 1, 2 or XL "
            "pipeline."
        )
    xl = getattr(pipe, "text_encoder_2", None) is not None
    name = "StableDiffusionXLInpaintPipeline" if xl else "StableDiffusionInpaintPipeline"
    kind: Any = getattr(diffusers, name)
    wanted = inspect.signature(kind).parameters
    parts = {name: part for name, part in pipe.components.items() if name in wanted}
    parts["scheduler"] = type(pipe.scheduler).from_config(pipe.scheduler.config)
    if xl:
        parts["add_watermarker"] = getattr(pipe, "watermark", None) is not None
    else:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    made = kind(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def paint(
    pipe: Any, picture: Image.Image, alpha: Tensor, prompt: str, settings: PaintSettings
) -> list[Image.Image]:
    """The picture with the prompt painted where alpha allows it, `settings.tries` times.

    picture: RGB, its sides multiples of what the model wants. alpha: [H, W] of its size, 0..1.
    What lies outside comes back through the VAE, so it is not quite as it was.
    """
    made = inpainting_pipeline(pipe)
    cell = made.vae_scale_factor
    cells = on_cells(alpha, (picture.height // cell, picture.width // cell))
    guidance = settings.guidance
    if guidance is None:
        guidance = brush_of(made.unet.config).guidance
    seeds = range(settings.seed, settings.seed + settings.tries)
    plain = made.unet.config.in_channels == made.vae.config.latent_channels
    extra = {} if not plain else {"callback_on_step_end": _opening(cells)}
    try:
        with torch.no_grad():
            return made(
                image=picture,
                mask_image=_hidden(cells, picture),
                height=picture.height,
                width=picture.width,
                strength=1.0 if settings.strength is None else settings.strength,
                num_inference_steps=settings.steps,
                guidance_scale=guidance,
                num_images_per_prompt=settings.tries,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                callback_on_step_end_tensor_inputs=["latents", "mask"],
                **encoded_texts(made, prompt, settings.negative),
                **extra,
            ).images
    finally:
        if getattr(pipe, "_all_hooks", None):
            pipe.maybe_free_model_hooks()


def _hidden(cells: Tensor, picture: Image.Image) -> Image.Image:
    """What the pipeline takes as its mask: 255 in every cell that may change at all."""
    small = Image.fromarray(((cells > 0) * 255).byte().numpy())
    return small.resize(picture.size, Image.Resampling.NEAREST)


def _opening(cells: Tensor) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """A callback that opens soft cells step by step, the softest last."""

    def after(made: Any, step: int, timestep: Any, held: dict[str, Any]) -> dict[str, Any]:
        total = made.num_timesteps
        done = (step + 1) / total
        mask = held["mask"]
        may = ((cells > 0) & (cells >= 1 - done)).to(mask)
        return {"mask": may.expand_as(mask).contiguous()}

    return after


def encoded_texts(pipe: Any, prompt: str, negative: str = "") -> dict[str, Any]:
    """The texts as a pipeline of diffusers takes them when they are encoded, however long."""
    with torch.no_grad():
        text = encode_texts(pipe, [negative, prompt])
    off, on = text.states.split(1)
    if text.pooled is None:
        return {"prompt_embeds": on, "negative_prompt_embeds": off}
    pooled_off, pooled_on = text.pooled.split(1)
    if not negative and pipe.config.get("force_zeros_for_empty_prompt"):
        off, pooled_off = torch.zeros_like(off), torch.zeros_like(pooled_off)
    return {
        "prompt_embeds": on,
        "negative_prompt_embeds": off,
        "pooled_prompt_embeds": pooled_on,
        "negative_pooled_prompt_embeds": pooled_off,
    }
