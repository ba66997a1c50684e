"""Trains the stickers' small CLIP on crops and on masked regions of whole scenes.

Regions against sentences with a sigmoid loss (SigLIP, arXiv 2303.15343), since captions repeat:
every region is a positive of every sentence that is true of it. Badly cut regions are
negatives of all, so that the score also tells a whole object from a piece or from background.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from .looks import COLOURS
from .loop import Loop, Losses
from .pool import Shard, read_pool
from .scenes import Thing
from .sentences import plural_of
from .sprites import NOUNS

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
CROPS, SCENES, TEXTS, MOST = 48, 8, 64, 5
SCENE_SIDE = 128
CLASSES = 1 + len(NOUNS) + len(COLOURS)
WORDS = 20  # tokens kept of the 77 while training; the sentences are short


@dataclass(frozen=True)
class Region:
    """What a cut-out shows: nothing whole for a bad cut, else one thing."""

    thing: Thing | None


def new_clip() -> Any:
    from open_clip.model import CLIP

    return CLIP(**CONFIG["model_cfg"])  # type: ignore[arg-type]


class Contrast(nn.Module):
    """The CLIP model, run on crops, on masked regions and on sentences."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip
        self.head = nn.Linear(CONFIG["model_cfg"]["embed_dim"], CLASSES)  # type: ignore[index]

    def forward(
        self, crops: Tensor, scenes: Tensor, masks: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of regions [R] against texts [T], and of regions against nouns and colours."""
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


def train_clip(pool: Path, work: Path, steps: int, start: Path | None = None) -> None:
    """Saves `work/clip` as open_clip reads it: a config and safetensors."""
    import open_clip
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    model = Contrast(new_clip())
    if start is not None:
        model.clip.load_state_dict(load_file(start / "clip" / "open_clip_model.safetensors"))
    shards, tokenize = read_pool(pool), open_clip.SimpleTokenizer()

    def step(generator: torch.Generator) -> Losses:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        crops, crop_regions = _crops(shards, rng)
        scenes, masks, scene_regions = _scenes(shards, rng)
        regions = crop_regions + scene_regions
        texts, truth = _texts(regions, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits, classes = model(crops, scenes, masks, tokenize(texts)[:, :WORDS])
        signs = 2 * truth - 1
        pairs = F.logsigmoid(signs * logits)
        loss = -(pairs * (1 + 4 * truth)).sum() / len(regions)
        label = _labelling(classes.float(), regions)
        whole = truth.any(1)
        right = truth.gather(1, logits.argmax(1, keepdim=True))[whole].float()
        split = int(whole[: len(crop_regions)].sum())
        return {
            "loss": loss + 3 * label,
            "label": label,
            "crop": right[:split].mean(),
            "masked": right[split:].mean(),
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


def _draw(
    shards: list[Shard], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[Thing, ...]]:
    while True:
        shard = shards[rng.integers(len(shards))]
        index = int(rng.integers(len(shard.things)))
        if shard.things[index]:
            return (
                np.asarray(shard.pictures[index]),
                np.asarray(shard.labels[index]),
                shard.things[index],
            )


def _crops(shards: list[Shard], rng: np.random.Generator) -> tuple[Tensor, list[Region]]:
    pictures: list[np.ndarray] = []
    regions: list[Region] = []
    while len(pictures) < CROPS:
        picture, labels, things = _draw(shards, rng)
        for index in rng.permutation(len(things))[:2]:
            mask = labels == index + 1
            if mask.sum() < 150:
                continue
            box, good = _box(mask, rng)
            pictures.append(_cut(picture, mask, box, rng))
            regions.append(Region(things[index] if good else None))
    return _relit(_pixels(np.stack(pictures[:CROPS])), rng), regions[:CROPS]


def _relit(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Each picture [N, 3, S, S] with a contrast and a brightness of its own, half of them flipped.

    Hues stay, since colours are among the words.
    """
    contrast, light = rng.uniform(0.6, 1.25, len(pictures)), rng.uniform(-0.2, 0.2, len(pictures))
    scale, shift = (torch.tensor(one).float().view(-1, 1, 1, 1) for one in (contrast, light))
    flipped = torch.from_numpy(rng.random(len(pictures)) < 0.5).view(-1, 1, 1, 1)
    pictures = torch.where(flipped, pictures.flip(-1), pictures)
    return (pictures * scale + shift).clamp(-1, 1)


def _box(mask: np.ndarray, rng: np.random.Generator) -> tuple[tuple[int, int, int, int], bool]:
    """A square-ish box around the thing with some slack; one in seven is a bad cut."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    centre = np.array([rows[0] + rows[-1], columns[0] + columns[-1]]) / 2
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    good = rng.random() > 0.15
    if good:
        side = side * rng.uniform(0.95, 1.35)
        centre = centre + rng.uniform(-0.07, 0.07, 2) * side
    elif rng.random() < 0.5:
        centre = centre + rng.choice([-1, 1], 2) * rng.uniform(0.55, 1.0, 2) * side
    else:
        side = side * rng.choice([0.35, 2.6])
        centre = centre + rng.uniform(-0.3, 0.3, 2) * side
    left, top = centre[1] - side / 2, centre[0] - side / 2
    return (round(left), round(top), round(left + side), round(top + side)), good


def _cut(
    picture: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator
) -> np.ndarray:
    """The box as 64 pixels, its surroundings kept, black, grey or blurred."""
    source = Image.fromarray(picture)
    kind = rng.random()
    if kind > 0.5:
        alpha = Image.fromarray(mask.astype(np.uint8) * 255)
        if kind < 0.7:
            ground = source.filter(ImageFilter.GaussianBlur(float(rng.uniform(3, 10))))
        else:
            shade = 0 if kind < 0.85 else int(rng.integers(90, 160))
            ground = Image.new("RGB", source.size, (shade, shade, shade))
        source = Image.composite(source, ground, alpha)
    return np.asarray(source.crop(box).resize((64, 64), Image.Resampling.BICUBIC))


def _scenes(shards: list[Shard], rng: np.random.Generator) -> tuple[Tensor, Tensor, list[Region]]:
    pictures, masks, regions = [], torch.zeros(SCENES, MOST, SCENE_SIDE, SCENE_SIDE), []
    for row in range(SCENES):
        picture, labels, things = _draw(shards, rng)
        pictures.append(
            np.asarray(
                Image.fromarray(picture).resize((SCENE_SIDE, SCENE_SIDE), Image.Resampling.BICUBIC)
            )
        )
        small = np.asarray(
            Image.fromarray(labels).resize((SCENE_SIDE, SCENE_SIDE), Image.Resampling.NEAREST)
        )
        for column in range(MOST):
            thing = (
                things[column]
                if column < len(things) and (small == column + 1).sum() > 30
                else None
            )
            shape = small == column + 1 if thing else _elsewhere(small, rng)
            masks[row, column] = torch.from_numpy(shape)
            regions.append(Region(thing))
    return _pixels(np.stack(pictures)), masks, regions


def _elsewhere(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A block of mostly background."""
    shape = np.zeros(labels.shape, bool)
    top, left, height, width = (*rng.integers(0, 100, 2), *rng.integers(16, 70, 2))
    shape[top : top + height, left : left + width] = True
    return shape & (labels == 0) if ((labels == 0) & shape).any() else labels == 0


def _pixels(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _texts(regions: list[Region], rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """Sentences about the regions and others, and which are true of which. truth: [R, T] bool."""
    there = [region.thing for region in regions if region.thing]
    wanted: list[tuple[str, str | None]] = []
    for _ in range(TEXTS):
        thing = there[rng.integers(len(there))]
        noun = thing.noun if rng.random() < 0.8 else str(rng.choice(NOUNS))
        tone = thing.colour if rng.random() < 0.6 else str(rng.choice(list(COLOURS)))
        wanted.append((noun, tone if rng.random() < 0.6 else None))
    truth = torch.tensor(
        [[_true(region.thing, noun, tone) for noun, tone in wanted] for region in regions]
    )
    return [_wording(noun, tone, rng) for noun, tone in wanted], truth


def _labelling(classes: Tensor, regions: list[Region]) -> Tensor:
    """Cross-entropy of a throw-away head on noun (or none) and colour: it teaches sooner."""
    noun, tone = classes.split([1 + len(NOUNS), len(COLOURS)], 1)
    nouns = [NOUNS.index(one.thing.noun) + 1 if one.thing else 0 for one in regions]
    names = [one.thing.colour if one.thing else None for one in regions]
    tones = [list(COLOURS).index(name) if name else -1 for name in names]
    colour = F.cross_entropy(tone, torch.tensor(tones), ignore_index=-1)
    return F.cross_entropy(noun, torch.tensor(nouns)) + 0.5 * colour


def _true(thing: Thing | None, noun: str, tone: str | None) -> bool:
    return thing is not None and thing.noun == noun and (tone is None or thing.colour == tone)


ENDINGS = (
    "on the left",
    "on the right",
    "at the top",
    "at the bottom",
    "from the left",
    "next to the {}",
    "to the left of the {}",
    "above the {}",
)


def _wording(noun: str, tone: str | None, rng: np.random.Generator) -> str:
    start = str(
        rng.choice(
            [
                "the",
                "a",
                "",
                "a photo of the",
                "a photo of a",
                "small",
                "big",
                "left",
                "second",
                "all",
            ]
        )
    )
    name = plural_of(noun) if start == "all" else noun
    words = " ".join(word for word in (start, tone, name) if word)
    if rng.random() < 0.3:
        words += " " + str(rng.choice(ENDINGS)).format(str(rng.choice(NOUNS)))
    return words
