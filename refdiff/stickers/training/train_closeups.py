"""Trains the UNet that paints: from the one that finds, on close-ups, with the same text encoder.

Whole scenes teach little of what a thing looks like, for words hardly help to denoise things so
small. In a close-up the thing is half of the picture, and what it looks like is most of what there
is to learn; layout is decided at high noise, so most levels are high, and errors weigh as in the
prediction of velocity (arXiv 2202.00512), where the picture itself counts. A few scenes of the
pool, at the levels at which words are read, keep its attention on the words' things.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .closeups import read_closeups
from .grounding import grounding, labelling
from .loop import Loop, Losses
from .pool import read_pool
from .train_unet import WEIGHTS, clip_tokenizer, examples_of, make_model, tokenize

CLOSEUPS, SCENES = 14, 4
HEAVIEST = 20.0
"""Most that an error weighs against that of a picture without noise."""
LOW = 200
"""The timestep below which 15 of 100 close-ups are shown; the rest above."""
READ = (20, 300)
"""The timesteps of scenes."""


def train_closeups(pool: Path, closeups: Path, work: Path, steps: int, start: Path) -> None:
    """Saves `work/unet`, and beside it the text encoder and CLIP of `start`, as they were.

    start: the finished weights to begin with.
    """
    from diffusers import DDIMScheduler

    model, tokenizer = make_model(start), clip_tokenizer()
    model.text_encoder.requires_grad_(False)
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    weights = (1 / scheduler.alphas_cumprod).clamp(max=HEAVIEST)
    shards, shown = read_pool(pool, pictures=False, latents=True), read_closeups(closeups)

    def step(generator: torch.Generator) -> Losses:
        latents, captions = _drawn(shown, generator)
        examples = examples_of(shards, generator, SCENES)
        encoded = tokenize(tokenizer, examples)
        texts = tokenizer(captions, padding="max_length", max_length=77, return_tensors="pt")
        clean = torch.cat([latents, torch.from_numpy(np.stack([e.latent for e in examples]))])
        clean = clean.float()
        read_at = torch.randint(*READ, (SCENES,), generator=generator)
        timestep = torch.cat([timesteps(CLOSEUPS, generator), read_at])
        noise = torch.randn(clean.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = torch.cat([texts["input_ids"], encoded["input_ids"]])
            guess = model(scheduler.add_noise(clean, noise, timestep), timestep, tokens).float()
        error = ((guess - noise) ** 2).mean((1, 2, 3))
        paint = (error[:CLOSEUPS] * weights[timestep[:CLOSEUPS]]).mean()
        true = torch.tensor([e.sentence is None or bool(e.sentence.things) for e in examples])
        denoise = (error[CLOSEUPS:] * true).sum() / true.sum().clamp(min=1)
        maps = {
            name: None if watched.maps is None else watched.maps[CLOSEUPS:]
            for name, watched in model.watched.items()
        }
        ground = grounding(maps, examples, encoded["offset_mapping"], read_at)
        labels = {name: guess[CLOSEUPS:] for name, guess in model.labels.items()}
        label = labelling(labels, examples, read_at)
        new = min(1.0, loop.done / 300)  # its heads begin at random
        loss = paint + denoise + WEIGHTS["ground"] * ground["all"] + WEIGHTS["label"] * new * label
        return {"loss": loss, "paint": paint, "denoise": denoise, "ground": ground["all"]}

    loop = Loop(model, step, work / "closeups-training", steps, rate=7e-4, warmup=200)
    loop.run()
    trained: Any = loop.averaged()
    trained.unet.save_pretrained(work / "unet")
    for part in ("text_encoder", "clip"):
        shutil.copytree(start / part, work / part, dirs_exist_ok=True)


def timesteps(count: int, generator: torch.Generator) -> Tensor:
    """[count] int, rising, one from each equal share: 15 of 100 below `LOW`, the rest above."""
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    high = LOW + (share - 0.15) / 0.85 * (1000 - LOW)
    return torch.where(share < 0.15, share / 0.15 * LOW, high).long().clamp(0, 999)


def _drawn(shown: list[Any], generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Close-ups at random: latents [CLOSEUPS, 4, 32, 32] and captions."""
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    picked = []
    for _ in range(CLOSEUPS):
        latents, captions = shown[rng.integers(len(shown))]
        index = rng.integers(len(latents))
        picked.append((latents[index], captions[index]))
    return torch.from_numpy(np.stack([one for one, _ in picked])), [text for _, text in picked]
