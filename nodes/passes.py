"""Passes of a ComfyUI MODEL that only look, through ComfyUI's own sampling.

A patch before each cross-attention sees what it will be asked and about which words; it changes
nothing. When the last wanted layer was seen, the rest of the last pass does not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.sample
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.samplers import KSAMPLER
from torch import Tensor

from ..refdiff.attention import AttentionRecorder, Grid, guide
from ..refdiff.errors import ModelError
from ..refdiff.noise import ddim_step, noised
from .unet import place_of


class _Enough(Exception):
    """Every wanted layer was seen; what is left of the pass is not needed."""


def look(
    model: Any,
    latent: Tensor,
    added: Tensor,
    sigmas: Sequence[Tensor],
    cond: Tensor,
    extra: dict[str, Any],
    recorders: Sequence[AttentionRecorder],
    layers: Sequence[str],
    guidance: float | None = None,
) -> None:
    """Show a noised picture to a MODEL of our own, once per recorder, and fill the recorders.

    latent, added: the picture [1, C, h, w], scaled, and its noise. sigmas: the level the noise is
    put on at, then what each pass is told. cond [R, T, C] and extra: what ComfyUI calls a
    conditioning, with a row for each row of the answer. guidance: the first half of the rows is
    unconditional; used between passes. Raises ModelError when a layer was never seen.
    """
    alphas = [1 / (1 + sigma**2) for sigma in sigmas]
    running: list[AttentionRecorder] = []
    watch(model, layers, running, last=recorders[-1])

    def sampler(network: Any, start: Tensor, _: Tensor, extra_args: Any, **_unused: Any) -> Tensor:
        sample = noised(latent, added, alphas[0]).expand(start.shape).to(start)
        for call, recorder in enumerate(recorders, start=1):
            throw_exception_if_processing_interrupted()
            running[:] = [recorder]
            try:
                scaled = sample * (1 + sigmas[call] ** 2).sqrt().to(sample)
                clean = network(scaled, sigmas[call].to(sample).expand(len(sample)), **extra_args)
            except _Enough:
                return sample
            if call < len(recorders):
                clean = _guided(clean, guidance)
                step = alphas[call].to(sample), alphas[call + 1].to(sample)
                sample = ddim_step(sample, clean, *step, "sample")
        return sample

    raw = model.get_model_object("latent_format").process_out(latent)
    batch = (len(cond), -1, -1, -1)
    conditioning = [[cond, _told(model, raw) | extra]]
    comfy.sample.sample_custom(
        model,
        added.expand(batch),
        1.0,
        KSAMPLER(sampler),
        torch.stack([*sigmas[1:], torch.zeros(())]),
        conditioning,
        conditioning,
        raw.expand(batch),
        disable_pbar=True,
        seed=0,
    )
    _check_all_seen(recorders, layers)


def watch(
    model: Any, layers: Sequence[str], running: list[AttentionRecorder], last: AttentionRecorder
) -> None:
    """Patch a MODEL of our own so that the running recorder sees the layers it wants.

    The pass ends, with _Enough, when `last` has seen them all.
    """
    unet = model.model.diffusion_model
    wanted = {place_of(layer): layer for layer in layers}

    def see(hidden: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        layer = wanted.get((*options["block"], options.get("block_index", 0)))
        if layer is not None:
            throw_exception_if_processing_interrupted()
            attention = unet.get_submodule(layer).attn2
            rows = positive_rows(len(hidden), options)
            query, key = attention.to_q(hidden[rows]), attention.to_k(context[rows])
            running[0].add(layer, query, key, attention.heads, grid_seen(hidden, options))
            if last.done:
                raise _Enough
        return hidden, context, value

    model.set_model_attn2_patch(see)


def positive_rows(rows: int, options: dict[str, Any]) -> list[int]:
    """Which of a UNet batch's rows belong to the positive prompt."""
    chunks = options.get("cond_or_uncond") or [0]
    if rows % len(chunks):
        raise ModelError(
            f"A patch on the model makes {rows} rows of {len(chunks)} prompts; leave out the patch "
            "that divides the picture among prompts, or turn keep_patches off."
        )
    each = rows // len(chunks)
    return [
        i for c, which in enumerate(chunks) if not which for i in range(c * each, (c + 1) * each)
    ]


def grid_seen(hidden: Tensor, options: dict[str, Any]) -> Grid:
    """The (height, width) of the places that a cross-attention asks from."""
    height, width = options["activations_shape"][-2:]
    if hidden.shape[1] != height * width:
        raise ModelError(
            f"A patch on the model leaves {hidden.shape[1]} places of {height}x{width}; leave out "
            "token merging, or turn keep_patches off."
        )
    return height, width


def _told(model: Any, raw: Tensor) -> dict[str, Any]:
    """What an inpainting model is told besides the text: that nothing is hidden."""
    if not model.model.concat_keys:
        return {}
    return {"concat_latent_image": raw, "concat_mask": torch.zeros_like(raw[:, :1])}


def _guided(clean: Tensor, guidance: float | None) -> Tensor:
    """The answer for each row, its unconditional rows (the first half) mixed in."""
    if guidance is None:
        return clean
    uncond, cond = clean.chunk(2)
    return guide(cond, uncond, guidance).repeat(2, 1, 1, 1)


def _check_all_seen(recorders: Sequence[AttentionRecorder], layers: Sequence[str]) -> None:
    missing = [layer for layer in layers if any(layer not in one.maps for one in recorders)]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(layers)} cross-attentions never ran, first {missing[0]}; "
            "leave out the node that replaces the model's blocks, or turn keep_patches off."
        )
