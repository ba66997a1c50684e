"""Passes of a ComfyUI MODEL that only look, through ComfyUI's own sampling.

A patch before each cross-attention sees what it will be asked and about which words; it changes
nothing. When the last wanted layer was seen, the rest of the last pass does not run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.sample
import torch
from comfy.model_management import load_models_gpu, throw_exception_if_processing_interrupted
from comfy.samplers import KSAMPLER
from torch import Tensor

from ..refdiff.attention.backend import AllSeen, Embeds, Shown
from ..refdiff.attention.heads import products_of, projection_of
from ..refdiff.attention.maps import AttentionRecorder, Grid
from ..refdiff.attention.noise import add_noise, cfg_output, ddim_step
from ..refdiff.errors import ModelError
from .unet import place_of, running_unet, sigma_at


def run_observed(
    model: Any,
    shown: Shown,
    embeds: Embeds,
    recorders: Sequence[AttentionRecorder],
    guidance: float | None = None,
) -> None:
    """Show pictures to a MODEL of our own, once per recorder, and fill the recorders.

    guidance: the first half of the rows is unconditional; used between passes. Raises ModelError
    when a layer was never seen, or asked about other rows or words.
    """
    running: list[AttentionRecorder] = []
    cond, pooled = embeds.states, embeds.pooled
    observe(model, running, (cond.shape[0], cond.shape[1]), last=recorders[-1])
    raw = model.get_model_object("latent_format").process_out(shown.clean)
    extra = embeds.extra if pooled is None else embeds.extra | {"pooled_output": pooled}
    conditioning = [[cond, _nothing_hidden(model, raw) | extra]]
    sampling = model.get_model_object("model_sampling")
    sigmas = torch.tensor([
        [float(sigma_at(sampling, int(level))) for level in row] for row in shown.levels
    ])  # fmt: skip
    with _eagerly():
        comfy.sample.sample_custom(
            model,
            shown.noise,
            1.0,
            KSAMPLER(_sampler(shown, sigmas, recorders, running, guidance)),
            torch.cat([sigmas[1:, 0], torch.zeros(1)]),
            conditioning,
            conditioning,
            raw,
            disable_pbar=True,
            seed=0,
        )
    _check_all_seen(recorders)


def _sampler(
    shown: Shown,
    sigmas: Tensor,
    recorders: Sequence[AttentionRecorder],
    running: list[AttentionRecorder],
    guidance: float | None,
) -> Callable[..., Tensor]:
    """What ComfyUI takes for a sampler: a call of the network for each recorder."""
    levels = sigmas[:, :, None, None, None]
    alphas = 1 / (1 + levels**2)

    def sampler(network: Any, start: Tensor, _: Tensor, extra_args: Any, **_unused: Any) -> Tensor:
        sample = add_noise(shown.clean, shown.noise, alphas[0]).to(start)
        for call, recorder in enumerate(recorders, start=1):
            throw_exception_if_processing_interrupted()
            running[:] = [recorder]
            scaled = sample * (1 + levels[call] ** 2).sqrt().to(sample)
            try:
                clean = network(scaled, sigmas[call].to(sample), **extra_args)
            except AllSeen:
                return sample
            if call < len(recorders):
                step = alphas[call].to(sample), alphas[call + 1].to(sample)
                sample = ddim_step(sample, cfg_output(clean, guidance), *step, "sample")
        return sample

    return sampler


def _eagerly() -> AbstractContextManager[Any]:
    """Compiled parts of the model run as they are written, instead of being compiled for this."""
    compiling = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiling else nullcontext()


def keys_of(model: Any, layers: Collection[str], cond: Tensor) -> dict[str, Tensor]:
    """What the layers of a MODEL of our own make of a text [R, T, C], without a pass."""
    throw_exception_if_processing_interrupted()
    load_models_gpu([model])
    base = model.model
    text = cond.to(model.load_device, base.manual_cast_dtype or base.get_dtype())
    unet = base.diffusion_model
    return {layer: unet.get_submodule(layer).attn2.to_k(text) for layer in layers}


def observe(
    model: Any,
    running: list[AttentionRecorder],
    asked: tuple[int, int],
    last: AttentionRecorder,
) -> None:
    """Patch a MODEL of our own so that the running recorder sees the layers it wants.

    The patches ask the layer's own projections for queries and keys, so they also see layers whose
    attention another patch replaces. asked: the rows and tokens every layer must be asked about.
    The pass ends, with AllSeen, when `last` has seen them all.
    """
    unet = running_unet(model)
    missing = dict.fromkeys(last.missing)
    wanted = {place_of(layer): layer for layer in missing}

    def at(options: dict[str, Any]) -> str | None:
        return wanted.get((*options["block"], options.get("block_index", 0)))

    def see(hidden: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        layer = at(options)
        if layer is not None and last.wants(layer, (0, 0)):
            throw_exception_if_processing_interrupted()
            attention = unet().get_submodule(layer).attn2
            rows = positive_rows(len(hidden), options)
            places, words = hidden[rows], context[rows]
            _check_asked((len(places), words.shape[1]), asked)
            query, key = attention.to_q(places), attention.to_k(words)
            products = None
            if last.heads == "output":
                said = attention.to_v(value[rows])
                weight = projection_of(attention.to_out[0], said)
                products = products_of(query, key, said, weight, attention.heads)
            grid = grid_seen(hidden, options)
            running[0].add(layer, query, key, attention.heads, grid, products)
            if last.done:
                raise AllSeen(layer)
        return hidden, context, value

    def see_places(hidden: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        layer = at(options)
        if layer is not None and last.wants_places(layer):
            attention = unet().get_submodule(layer).attn1
            places = hidden[positive_rows(len(hidden), options)]
            query, key = attention.to_q(places), attention.to_k(places)
            running[0].add_places(layer, query, key, attention.heads, grid_seen(hidden, options))
            if last.done:
                raise AllSeen(layer)
        return hidden, context, value

    model.set_model_attn2_patch(see)
    if any(last.wants_places(layer) for layer in missing):
        model.set_model_attn1_patch(see_places)


def positive_rows(rows: int, options: dict[str, Any]) -> slice | list[int]:
    """Which of a UNet batch's rows belong to the positive prompt."""
    chunks = options.get("cond_or_uncond") or [0]
    if not any(chunks):
        return slice(None)
    return [row for row in range(rows) if not chunks[row * len(chunks) // rows]]


def _check_asked(found: tuple[int, int], asked: tuple[int, int]) -> None:
    if found != asked:
        raise ModelError(
            f"A patch on the model asks {found[0]} rows about {found[1]} tokens, not {asked[0]} "
            f"about {asked[1]}; leave out the patch that divides the picture among prompts, or "
            "turn keep_patches off."
        )


def grid_seen(hidden: Tensor, options: dict[str, Any]) -> Grid:
    """The (height, width) of the places that a cross-attention asks from."""
    height, width = options["activations_shape"][-2:]
    if hidden.shape[1] != height * width:
        raise ModelError(
            f"A patch on the model leaves {hidden.shape[1]} places of {height}x{width}; leave out "
            "token merging, or turn keep_patches off."
        )
    return height, width


def _nothing_hidden(model: Any, raw: Tensor) -> dict[str, Any]:
    """What an inpainting model is told besides the text: that nothing is hidden."""
    if not model.model.concat_keys:
        return {}
    return {"concat_latent_image": raw, "concat_mask": torch.zeros_like(raw[:, :1])}


def _check_all_seen(recorders: Sequence[AttentionRecorder]) -> None:
    for recorder in recorders:
        if missing := recorder.missing:
            raise ModelError(
                f"{len(missing)} of {len(missing) + len(recorder.maps)} cross-attentions never "
                f"ran, first {missing[0]}; leave out the node that replaces the model's blocks, or "
                "turn keep_patches off."
            )
