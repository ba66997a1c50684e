"""A diffusers UNet shown pictures and sentences, call after call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .backend import Embeds, Shown
from .hooks import check_all_seen, recording
from .maps import AttentionRecorder
from .noise import add_noise, cfg_output, ddim_step


def run(
    pipe: Any,
    shown: Shown,
    text: Embeds,
    recorders: Sequence[AttentionRecorder],
    guidance: float | None,
) -> None:
    """Let each recorder see one call of the UNet; DDIM steps lead from call to call."""
    scheduler, rows = pipe.scheduler, (len(shown.clean), text.states.shape[1])
    alphas = scheduler.alphas_cumprod.float().cpu()[shown.levels][..., None, None, None]
    sample = add_noise(shown.clean, shown.noise, alphas[0])
    for call, recorder in enumerate(recorders, start=1):
        last = call == len(recorders)
        grid = (sample.shape[2], sample.shape[3])
        with recording(pipe.unet, recorder, grid, stop=last):
            output = _predict(pipe, sample, shown.clean, shown.levels[call], text)
        check_all_seen(recorder, rows)
        if not last:
            output = cfg_output(output.float().cpu(), guidance)
            kind = scheduler.config.prediction_type
            sample = ddim_step(sample, output, alphas[call], alphas[call + 1], kind)


def _predict(pipe: Any, sample: Tensor, clean: Tensor, at: Tensor, text: Embeds) -> Tensor:
    """One pass of the UNet; an inpainting UNet is told that nothing is hidden.

    at: the timestep of each row.
    """
    unet, device = pipe.unet, pipe._execution_device
    height, width = (side * pipe.vae_scale_factor for side in sample.shape[-2:])
    if unet.config.in_channels > sample.shape[1]:
        sample = torch.cat([sample, torch.zeros_like(clean[:, :1]), clean], dim=1)
    added = None
    if unet.config.addition_embed_type is not None:
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=device)
        ids = sizes.to(unet.dtype).expand(len(sample), -1)
        added = {"text_embeds": text.pooled, "time_ids": ids}
    sample = sample.to(device, unet.dtype)
    return unet(sample, at.to(device), text.states, added_cond_kwargs=added, return_dict=False)[0]
