"""Trains the stickers' small CLIP on crops and on masked regions of whole scenes.

Regions against sentences with a sigmoid loss (SigLIP, arXiv 2303.15343), since captions repeat:
every region is a positive of every sentence that is true of it. Badly cut regions are
negatives of all, so that the score also tells a whole object from a piece or from background.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .emoji import names_of
from .looks import COLOURS
from .loop import Loop, Losses
from .pool import read_pool
from .regions import CROPS, STICKERS, Region, batch
from .sprites import Sprites

CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "init_logit_scale": 2.3026,
        "init_logit_bias": -5.0,
        "vision_cfg": {
            "image_size": 64,
            "layers": 6,
            "width": 192,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
WORDS = 20  # tokens kept of the 77 while training; the sentences are short


def new_clip() -> Any:
    from open_clip.model import CLIP

    return CLIP(**CONFIG["model_cfg"])  # type: ignore[arg-type]


class Contrast(nn.Module):
    """The CLIP model, run on crops, on masked regions and on sentences."""

    def __init__(self, clip: Any, names: int) -> None:
        super().__init__()
        self.clip = clip
        classes = 1 + names + len(COLOURS)
        self.head = nn.Linear(CONFIG["model_cfg"]["embed_dim"], classes)  # type: ignore[index]

    def forward(
        self, crops: Tensor, scenes: Tensor, masks: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of regions [R] against texts [T], and of regions against names and colours."""
        pooled = self.clip.encode_image(crops)
        masked = masked_regions(self.clip.visual, scenes, masks)
        features = torch.cat([pooled, masked.flatten(0, 1)]).float()
        regions = F.normalize(features, dim=-1)
        texts = F.normalize(short_texts(self.clip, tokens).float(), dim=-1)
        return regions @ texts.T * self.clip.logit_scale.exp() + self.clip.logit_bias, self.head(
            features
        )


def short_texts(clip: Any, tokens: Tensor) -> Tensor:
    """What `clip.encode_text` gives for texts [T, L] of fewer than 77 tokens, at their cost."""
    length = tokens.shape[1]
    states = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    states = clip.transformer(states, attn_mask=clip.attn_mask[:length, :length])
    last = clip.ln_final(states)[torch.arange(len(tokens)), tokens.argmax(-1)]
    return last @ clip.text_projection


def masked_regions(visual: Any, scenes: Tensor, masks: Tensor) -> Tensor:
    """One class token per mask, seeing itself and the patches inside. [B, K, D], gradients kept.

    As in `ClipScorer.masked_features`, whose patches also see the model's own class token.

    scenes: [B, 3, S, S] normalised; masks: [B, K, S, S] in 0..1.
    """
    patches = visual.conv1(scenes)
    rows, columns = patches.shape[-2:]
    side = visual.grid_size[0]
    grid = visual.positional_embedding[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
    patches = (patches + grid.to(patches.dtype)).flatten(2).transpose(1, 2)
    batch, count = masks.shape[:2]
    token = (visual.class_embedding + visual.positional_embedding[0]).to(patches.dtype)
    states = visual.ln_pre(torch.cat([token.expand(batch, 1 + count, -1), patches], 1))
    inside = F.adaptive_avg_pool2d(masks, (rows, columns)).flatten(2)
    inside = inside > torch.minimum(inside.amax(-1, keepdim=True) * 0.99, torch.tensor(0.5))
    length = states.shape[1]
    bar = torch.zeros(batch, length, length)
    marks = slice(1, 1 + count)
    bar[:, :, marks] = float("-inf")
    bar[:, marks] = float("-inf")
    bar[:, range(1, 1 + count), range(1, 1 + count)] = 0
    bar[:, marks, 1 + count :].masked_fill_(inside, 0)
    bar = bar.repeat_interleave(visual.transformer.resblocks[0].attn.num_heads, 0)
    for block in visual.transformer.resblocks:
        states = block(states, attn_mask=bar)
    return visual.ln_post(states[:, marks]) @ visual.proj


def train_clip(
    pool: Path, work: Path, steps: int, emoji: Sprites, start: Path | None = None
) -> None:
    """Saves `work/clip` as open_clip reads it: a config and safetensors.

    emoji: single stickers to tell apart besides the pool's, by style and name.
    """
    import open_clip
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    names = {name: index for index, name in enumerate(names_of(emoji), start=1)}
    model = Contrast(new_clip(), len(names))
    if start is not None:
        model.clip.load_state_dict(load_file(start / "clip" / "open_clip_model.safetensors"))
    shards, tokenize = read_pool(pool), open_clip.SimpleTokenizer()

    def step(generator: torch.Generator) -> Losses:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        cut_outs, pictures, masks, regions, sentences, truth = batch(shards, emoji, rng)
        # for so few tokens on a CPU a sixth faster than flash attention, there and back
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            logits, classes = model(cut_outs, pictures, masks, tokenize(sentences)[:, :WORDS])
        signs = 2 * truth - 1
        pairs = F.logsigmoid(signs * logits)
        loss = -(pairs * (1 + 4 * truth)).sum() / len(regions)
        label = _labelling(classes.float(), regions, names)
        whole, parts = truth.any(1), (CROPS, STICKERS, len(regions) - CROPS - STICKERS)
        right = truth.gather(1, logits.argmax(1, keepdim=True))[whole].float()
        crop, sticker, masked = right.split([int(part.sum()) for part in whole.split(parts)])
        return {
            "loss": loss + 3 * label,
            "label": label,
            "crop": crop.mean(),
            "sticker": sticker.mean(),
            "masked": masked.mean(),
        }

    loop = Loop(
        model, step, work / "clip-training", steps, rate=8e-4, warmup=300, weight_decay=0.05
    )
    loop.run()
    folder = work / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    clip: Any = loop.averaged().clip
    weights = {name: value.half().contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2))


def _labelling(classes: Tensor, regions: list[Region], names: Mapping[str, int]) -> Tensor:
    """Cross-entropy of a throw-away head on name (or none) and colour: it teaches sooner."""
    name, tone = classes.split([1 + len(names), len(COLOURS)], 1)
    things = [names[one.thing.noun] if one.thing else 0 for one in regions]
    paints = [one.thing.colour if one.thing else None for one in regions]
    tones = [list(COLOURS).index(paint) if paint else -1 for paint in paints]
    colour = F.cross_entropy(tone, torch.tensor(tones), ignore_index=-1)
    return F.cross_entropy(name, torch.tensor(things)) + 0.5 * colour
