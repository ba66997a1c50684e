"""Passes of a ComfyUI MODEL that only look, through ComfyUI's own sampling.

A patch before each cross-attention sees what it will be asked and about which words; it changes
nothing. When the last wanted layer was seen, the rest of the last pass does not run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from comfy.model_management import load_models_gpu, throw_exception_if_processing_interrupted
from comfy.samplers import KSAMPLER
from torch import Tensor

from ..refdiff.attention import AttentionRecorder, Grid
from ..refdiff.capture import guided
from ..refdiff.errors import ModelError
from ..refdiff.noise import View, ddim_step, noise, noised
from .unet import place_of, sigma_at


class _Enough(Exception):
    """Every wanted layer was seen; what is left of the pass is not needed."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture as the rows of a pass see it: half by half, view by view, sentence by sentence.

    clean, noise: [R, C, h, w], the scaled latents and what is put on them. sigmas [1 + calls, R]:
    the level it is put on at, then what each call is told.
    """

    clean: Tensor
    noise: Tensor
    sigmas: Tensor

    @classmethod
    def of(
        cls, latent: Tensor, views: Sequence[View], sampling: Any, sentences: int, halves: int
    ) -> Shown:
        """latent: [1, C, h, w]. sampling: the MODEL's model_sampling."""
        clean = torch.cat([view.of(latent) for view in views])
        added = torch.cat([noise(view.seed, latent.shape) for view in views])
        times = [(view.schedule.noised, *view.schedule.calls) for view in views]
        sigmas = torch.tensor([[float(sigma_at(sampling, t)) for t in own] for own in times])
        rows = (
            each.repeat_interleave(sentences, 0).repeat(halves, *[1] * (each.ndim - 1))
            for each in (clean, added, sigmas)
        )
        return cls(next(rows), next(rows), next(rows).mT)


def look(
    model: Any,
    shown: Shown,
    cond: Tensor,
    extra: dict[str, Any],
    recorders: Sequence[AttentionRecorder],
    layers: Sequence[str],
    guidance: float | None = None,
) -> None:
    """Show a picture to a MODEL of our own, once per recorder, and fill the recorders.

    cond [R, T, C] and extra: what ComfyUI calls a conditioning, with a row for each row shown.
    guidance: the first half of the rows is unconditional; used between passes. Raises ModelError
    when a layer was never seen, or asked about other rows or words.
    """
    running: list[AttentionRecorder] = []
    watch(model, layers, running, (cond.shape[0], cond.shape[1]), last=recorders[-1])
    raw = model.get_model_object("latent_format").process_out(shown.clean)
    conditioning = [[cond, _told(model, raw) | extra]]
    with _eagerly():
        comfy.sample.sample_custom(
            model,
            shown.noise,
            1.0,
            KSAMPLER(_sampler(shown, recorders, running, guidance)),
            torch.cat([shown.sigmas[1:, 0], torch.zeros(1)]),
            conditioning,
            conditioning,
            raw,
            disable_pbar=True,
            seed=0,
        )
    _check_all_seen(recorders, layers)


def _sampler(
    shown: Shown,
    recorders: Sequence[AttentionRecorder],
    running: list[AttentionRecorder],
    guidance: float | None,
) -> Callable[..., Tensor]:
    """What ComfyUI takes for a sampler: a call of the network for each recorder."""
    levels = shown.sigmas[:, :, None, None, None]
    alphas = 1 / (1 + levels**2)

    def sampler(network: Any, start: Tensor, _: Tensor, extra_args: Any, **_unused: Any) -> Tensor:
        sample = noised(shown.clean, shown.noise, alphas[0]).to(start)
        for call, recorder in enumerate(recorders, start=1):
            throw_exception_if_processing_interrupted()
            running[:] = [recorder]
            scaled = sample * (1 + levels[call] ** 2).sqrt().to(sample)
            try:
                clean = network(scaled, shown.sigmas[call].to(sample), **extra_args)
            except _Enough:
                return sample
            if call < len(recorders):
                step = alphas[call].to(sample), alphas[call + 1].to(sample)
                sample = ddim_step(sample, guided(clean, guidance), *step, "sample")
        return sample

    return sampler


def _eagerly() -> AbstractContextManager[Any]:
    """Compiled parts of the model run as they are written, instead of being compiled for this."""
    compiling = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiling else nullcontext()


def keys_of(model: Any, layers: Sequence[str], cond: Tensor) -> dict[str, Tensor]:
    """What the layers of a MODEL of our own make of a text [R, T, C], without a pass."""
    throw_exception_if_processing_interrupted()
    load_models_gpu([model])
    base = model.model
    text = cond.to(model.load_device, base.manual_cast_dtype or base.get_dtype())
    unet = base.diffusion_model
    return {layer: unet.get_submodule(layer).attn2.to_k(text) for layer in layers}


def watch(
    model: Any,
    layers: Sequence[str],
    running: list[AttentionRecorder],
    asked: tuple[int, int],
    last: AttentionRecorder,
) -> None:
    """Patch a MODEL of our own so that the running recorder sees the layers it wants.

    The patch asks the layer's own projections for queries and keys, so it also sees layers whose
    attention another patch replaces. asked: the rows and tokens every layer must be asked about.
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
            places, words = hidden[rows], context[rows]
            _check_asked((len(places), words.shape[1]), asked)
            query, key = attention.to_q(places), attention.to_k(words)
            running[0].add(layer, query, key, attention.heads, grid_seen(hidden, options))
            if last.done:
                raise _Enough
        return hidden, context, value

    model.set_model_attn2_patch(see)


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


def _told(model: Any, raw: Tensor) -> dict[str, Any]:
    """What an inpainting model is told besides the text: that nothing is hidden."""
    if not model.model.concat_keys:
        return {}
    return {"concat_latent_image": raw, "concat_mask": torch.zeros_like(raw[:, :1])}


def _check_all_seen(recorders: Sequence[AttentionRecorder], layers: Sequence[str]) -> None:
    missing = [layer for layer in layers if any(layer not in one.maps for one in recorders)]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(layers)} cross-attentions never ran, first {missing[0]}; "
            "leave out the node that replaces the model's blocks, or turn keep_patches off."
        )
