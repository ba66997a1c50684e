"""A diffusers UNet shown a picture and sentences: a pass that is read, or kept queries asked.

The rows of a pass: the sentences' empty companions first where there is guidance, then the
sentences; within each of these halves view by view; within a view one row per sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .attention import AttentionRecorder
from .capture import CaptureSettings, gathered, guided, per_view
from .hooks import check_all_seen, keys_of, recording
from .noise import ddim_step, noise, noised
from .text_encoding import Text

Maps = dict[str, Tensor]  # layer, and call where there are several -> [P, T, h, w] on the CPU


def read_pass(
    pipe: Any,
    settings: CaptureSettings,
    layers: Sequence[str],
    clean: Tensor,
    text: Text,
    columns: Sequence[int],
    keep_queries: bool = False,
) -> tuple[Maps, list[AttentionRecorder]]:
    """The maps of P sentences, each over its own latent clean[p], and each call's recorder.

    text: with guidance P empty texts come first. columns: the tokens kept. The last call
    ends with the last wanted layer.
    """
    scheduler, halves = pipe.scheduler, settings.halves
    views = settings.views(scheduler.config.num_train_timesteps)
    alphas = scheduler.alphas_cumprod.float().cpu()
    shape = (1, *clean.shape[1:])
    sample = torch.cat([
        noised(view.of(clean), noise(view.seed, shape), alphas[view.schedule.noised])
        for view in views
    ]).repeat(halves, 1, 1, 1)  # fmt: skip
    shown = torch.cat([view.of(clean) for view in views]).repeat(halves, 1, 1, 1)
    text = _per_view(text, halves, len(views))
    steps = list(zip(*(view.schedule.calls for view in views), strict=True))
    maps: Maps = {}
    recorders = []
    for call, timesteps in enumerate(steps):
        last = call + 1 == len(steps)
        recorder = AttentionRecorder(layers, settings.mode, columns, keep_queries)
        at = torch.tensor(timesteps).repeat_interleave(len(clean)).repeat(halves)
        with recording(pipe.unet, recorder, (clean.shape[2], clean.shape[3]), stop=last):
            output = _predict(pipe, sample, shown, at, text)
        check_all_seen(recorder, layers, (len(sample), text.states.shape[1]))
        maps |= gathered(recorder, settings, views, call)
        recorders.append(recorder)
        if not last:
            output = guided(output.float().cpu(), settings.guidance)
            alpha, after = alphas[timesteps[0]], alphas[steps[call + 1][0]]
            kind = scheduler.config.prediction_type
            sample = ddim_step(sample, output, alpha, after, kind)
    return maps, recorders


def ask(
    pipe: Any,
    settings: CaptureSettings,
    layers: Sequence[str],
    kept: Sequence[AttentionRecorder],
    text: Text,
    columns: Sequence[int],
) -> Maps:
    """The maps of P sentences from the queries that each call of a pass of one sentence left.

    text: with guidance P empty texts come first. columns: the tokens kept.
    """
    views = settings.views(pipe.scheduler.config.num_train_timesteps)
    maps: Maps = {}
    for call, recorder in enumerate(kept):
        asked = AttentionRecorder(layers, settings.mode)
        for layer in layers:
            key = keys_of(pipe.unet, layer, text.states)
            asked.maps[layer] = recorder.score(layer, key, settings.halves, columns)
        maps |= gathered(asked, settings, views, call)
    return maps


def _per_view(text: Text, halves: int, views: int) -> Text:
    """One row per half and sentence to one per half, view and sentence."""
    pooled = None if text.pooled is None else per_view(text.pooled, halves, views)
    return Text(per_view(text.states, halves, views), pooled)


def _predict(pipe: Any, sample: Tensor, clean: Tensor, at: Tensor, text: Text) -> Tensor:
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
