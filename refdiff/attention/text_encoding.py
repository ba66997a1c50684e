"""Texts through the text encoders of a Stable Diffusion pipeline, however long they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .backend import Embeds
from .prompt_chunks import PromptChunks, prompt_chunks


def encode_texts(pipe: Any, texts: Sequence[str], clip_skip: int = 0, least: int = 1) -> Embeds:
    """What the pipeline's `encode_prompt` makes of each text, but with no limit on its length.

    Chunks are encoded each for itself and laid side by side; the shorter texts, and the shorter
    side of SDXL's two encoders, are filled up with empty windows. least: windows at least.
    SDXL's pooled text is that of the first window. clip_skip: as in CaptureSettings. The answer is
    on the pipeline's device in the UNet's dtype.
    """
    encoders = [(pipe.tokenizer, pipe.text_encoder)]
    if getattr(pipe, "text_encoder_2", None) is not None:
        encoders.append((pipe.tokenizer_2, pipe.text_encoder_2))
    read = [[prompt_chunks(tokenizer, text) for text in texts] for tokenizer, _ in encoders]
    count = max(least, *(len(each.ids) for sheets in read for each in sheets))
    parts = []
    for (tokenizer, encoder), sheets in zip(encoders, read, strict=True):
        ids = _filled(tokenizer, sheets, count).to(pipe._execution_device)
        parts.append(_encoded(encoder, ids, clip_skip, len(encoders) > 1))
    states, pooled = torch.cat([part.states for part in parts], dim=-1), parts[-1].pooled
    kind = pipe.unet.dtype
    return Embeds(states.to(kind), None if pooled is None else pooled.to(kind))


def _filled(tokenizer: Any, sheets: Sequence[PromptChunks], count: int) -> Tensor:
    """The ids of every text, [R, count, 77]."""
    empty = prompt_chunks(tokenizer, "").ids
    return torch.tensor([each.ids + empty * (count - len(each.ids)) for each in sheets])


def _encoded(encoder: Any, ids: Tensor, skip: int, xl: bool) -> Embeds:
    """One encoder's answer, windows side by side; SDXL reads the layer before the last."""
    output = encoder(ids.flatten(0, 1), output_hidden_states=xl or skip > 0)
    if xl:
        states = output.hidden_states[-(skip + 2)]
    elif skip:
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        states = norm(output.hidden_states[-(skip + 1)])
    else:
        states = output[0]
    pooled = output[0].unflatten(0, ids.shape[:2])[:, 0] if output[0].ndim == 2 else None
    return Embeds(states.unflatten(0, ids.shape[:2]).flatten(1, 2), pooled)
