"""Trains the UNet that paints, from nothing, on close-ups, with the text encoder of the stickers.

Whole scenes teach little of what a thing looks like, for words hardly help to denoise things so
small, and the UNet that finds has few channels where the picture is finest. In a close-up the
thing is most of the picture. It predicts velocity (arXiv 2202.00512), and no loss looks at its
attention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .closeups import SIDE, read_closeups
from .loop import Loop, Losses
from .train_painter import timesteps
from .train_unet import clip_tokenizer, new_unet

BATCH = 32
"""Close-ups a step."""


def new_painter() -> Any:
    """More channels than the UNet that finds, most of all where the picture is finest."""
    return new_unet((64, 128, 192), SIDE // 8)


def train_closeups(closeups: Path, work: Path, steps: int, start: Path) -> None:
    """Saves `work/painter`, a UNet. start: the weights whose text encoder it is conditioned on."""
    from diffusers import DDIMScheduler

    torch.manual_seed(0)
    unet = new_painter()
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    shown: list[Any] = []  # grows while close-ups are still being drawn
    texts = _Texts(start)

    def step(generator: torch.Generator) -> Losses:
        if not shown or (loop.done < 3000 and loop.done % 100 == 0):
            shown[:] = read_closeups(closeups)
        clean, captions = _drawn(shown, generator)
        timestep = timesteps(BATCH, generator)
        noise = torch.randn(clean.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            noisy = scheduler.add_noise(clean, noise, timestep)
            guess = unet(noisy, timestep, texts(captions)).sample
        velocity = scheduler.get_velocity(clean, noise, timestep)
        error = ((guess.float() - velocity) ** 2).mean((1, 2, 3))
        return {"loss": error.mean(), "high": error[BATCH // 2 :].mean()}

    loop = Loop(unet, step, work / "closeups-training", steps, rate=1e-3, averaging=0.999)
    loop.run()
    trained: Any = loop.averaged()
    trained.save_pretrained(work / "painter")


class _Texts:
    """Captions as the text encoder of the stickers gives them, each encoded once."""

    def __init__(self, start: Path) -> None:
        from transformers import CLIPTextModel

        self._encoder: Any = CLIPTextModel.from_pretrained(
            start / "text_encoder", dtype=torch.float32
        )
        self._tokenizer = clip_tokenizer()
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        """[N, 77, 128]"""
        new = sorted(set(captions) - set(self._known))
        if new:
            tokens = self._tokenizer(new, padding="max_length", max_length=77, return_tensors="pt")
            encoded = self._encoder(tokens["input_ids"]).last_hidden_state
            self._known.update(zip(new, encoded, strict=True))
        return torch.stack([self._known[caption] for caption in captions])


def _drawn(shown: list[Any], generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Close-ups at random: latents [BATCH, 4, h, w] and captions."""
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    picked = []
    for _ in range(BATCH):
        latents, captions = shown[rng.integers(len(shown))]
        index = rng.integers(len(latents))
        picked.append((latents[index], captions[index]))
    latents = np.stack([one for one, _ in picked])
    return torch.from_numpy(latents).float(), [text for _, text in picked]
