"""Trains the stickers' UNet and text encoder: denoising, and words grounded in their objects.

Denoising alone leaves the cross-attention of so small a model at chance. The grounding loss, in
the manner of TokenCompose (arXiv 2312.03626), asks the attention of every noun's token to lie
inside the objects it names; for a noun that names nothing in the picture, to be nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .looks import COLOURS
from .loop import Loop, Losses
from .pool import Shard, read_pool
from .scenes import Thing
from .sentences import MAKERS, Scene, Sentence, caption, sentences_for
from .sprites import NOUNS

BATCH = 24
CLASSES = 1 + len(NOUNS) + len(COLOURS)
LATENT = 32
GROUNDED_BELOW = 800
"""Timesteps above this see too little of the picture to be asked where a word is."""
WEIGHTS = {"denoise": 1.0, "ground": 0.6, "label": 0.5}
LABELLED = {"mid_block": 192, "up_blocks.0.attentions.1": 192, "up_blocks.1.attentions.1": 96}
"""Features, and their channels, from which a throw-away head must tell every cell's noun."""
LAYER_WEIGHTS = {
    "down_blocks.1": 0.5,
    "down_blocks.2": 0.7,
    "mid_block": 1.0,
    "up_blocks.0": 1.0,
    "up_blocks.1": 1.5,
}


def new_unet() -> Any:
    """The exact shape of the shipped UNet: a convolution-only top level, then attention twice."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(32, 96, 192),
        layers_per_block=1,
        norm_num_groups=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
    )


def new_text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
            projection_dim=128,
        )
    )


class Watched:
    """Cross-attention written out, so that the loss can see its probabilities."""

    def __init__(self) -> None:
        self.maps: Tensor | None = None

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> Tensor:
        query = _heads(attn.to_q(hidden_states), attn.heads)
        key = _heads(attn.to_k(encoder_hidden_states), attn.heads)
        value = _heads(attn.to_v(encoder_hidden_states), attn.heads)
        with torch.autocast("cpu", enabled=False):
            maps = (query.float() @ key.float().transpose(-1, -2) * attn.scale).softmax(-1)
        self.maps = maps.mean(1)
        out = (maps.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


@dataclass(frozen=True)
class Example:
    latent: np.ndarray
    labels: np.ndarray
    sentence: Sentence | None
    things: tuple[Thing, ...]


class GroundedDiffusion(nn.Module):
    """UNet and text encoder with the watched cross-attentions in place."""

    def __init__(self, unet: Any, text_encoder: Any) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.watched = {name: Watched() for name in unet.attn_processors if "attn2" in name}
        unet.set_attn_processor({**unet.attn_processors, **self.watched})
        self.heads = nn.ModuleDict(
            {name.replace(".", "-"): nn.Conv2d(size, CLASSES, 1) for name, size in LABELLED.items()}
        )
        self.labels: dict[str, Tensor] = {}
        for name in LABELLED:
            unet.get_submodule(name).register_forward_hook(self._labeller(name.replace(".", "-")))

    def _labeller(self, name: str) -> Callable[..., None]:
        def read(_module: nn.Module, _inputs: Any, output: Any) -> None:
            features = output if isinstance(output, Tensor) else output[0]
            self.labels[name] = self.heads[name](features)

        return read

    def forward(self, latent: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        context = self.text_encoder(tokens).last_hidden_state
        return self.unet(latent, timestep, context).sample


def train_unet(pool: Path, work: Path, steps: int, start: Path | None = None) -> None:
    """Saves `work/unet` and `work/text_encoder`. start: a diffusers folder to go on from."""
    from diffusers import DDIMScheduler

    model = _model(start)
    tokenizer = clip_tokenizer()
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    shards: list[Shard] = []  # grows while the pool is still being encoded
    total = len(list(pool.glob("*/things.json")))

    def step(generator: torch.Generator) -> Losses:
        if len(shards) < total and (
            not shards or int(torch.randint(150, (1,), generator=generator)) == 0
        ):
            shards[:] = read_pool(pool, pictures=False, latents=True)
        examples = _examples(shards, generator)
        encoded = _tokenize(tokenizer, examples)
        clean = torch.from_numpy(np.stack([example.latent for example in examples])).float()
        timestep = _timesteps(len(examples), generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = scheduler.add_noise(clean, noise, timestep)
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(noisy, timestep, encoded["input_ids"]).float()
        true = torch.tensor([s is None or bool(s.things) for s in (e.sentence for e in examples)])
        denoise = ((guess - noise) ** 2).mean((1, 2, 3))[true].mean()
        ground = _grounding(model, examples, encoded["offset_mapping"], timestep)
        label = _labelling(model, examples, timestep)
        loss = WEIGHTS["denoise"] * denoise + WEIGHTS["ground"] * ground["all"]
        loss = loss + WEIGHTS["label"] * label
        return {"loss": loss, "denoise": denoise, "label": label, **ground}

    loop = Loop(model, step, work / "unet-training", steps, rate=1.2e-3, warmup=200)
    loop.run()
    trained: Any = loop.averaged()
    trained.unet.save_pretrained(work / "unet")
    trained.text_encoder.save_pretrained(work / "text_encoder")


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizerFast  # type: ignore[attr-defined]

    return CLIPTokenizerFast.from_pretrained(Path(__file__).parents[1] / "configs" / "tokenizer")


def _model(start: Path | None) -> GroundedDiffusion:
    torch.manual_seed(0)
    if start is None:
        return GroundedDiffusion(new_unet(), new_text_encoder())
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    return GroundedDiffusion(
        UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32),
        CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32),
    )


def _heads(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Mostly the low noise at which pictures are read; the rest uniform, for drawing."""
    low = torch.randint(0, 300, (count,), generator=generator)
    any_ = torch.randint(0, 1000, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.55, low, any_)


def _examples(shards: list[Shard], generator: torch.Generator) -> list[Example]:
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    examples: list[Example] = []
    while len(examples) < BATCH:
        shard = shards[rng.integers(len(shards))]
        index = int(rng.integers(len(shard.things)))
        if shard.things[index]:
            scene, labels = _scene(shard, index)
            sentence = _sentence(scene, rng)
            examples.append(Example(shard.latents[index], labels, sentence, scene.things))
    return examples


def _scene(shard: Shard, index: int) -> tuple[Scene, np.ndarray]:
    labels, things = np.asarray(shard.labels[index]), shard.things[index]
    counts = np.bincount(labels.ravel(), minlength=len(things) + 1)[1:]
    return Scene(things, tuple(float(count) / labels.size for count in counts)), labels


def _sentence(scene: Scene, rng: np.random.Generator) -> Sentence | None:
    draw = rng.random()
    if draw < 0.07:
        return None
    if draw < 0.45:
        return caption(scene, rng)
    kinds = ["absent"] if draw < 0.6 else [kind for kind in MAKERS if kind != "absent"]
    return next(iter(sentences_for(scene, rng, kinds)), None) or caption(scene, rng)


def _tokenize(tokenizer: Any, examples: list[Example]) -> Any:
    texts = [example.sentence.text if example.sentence else "" for example in examples]
    return tokenizer(
        texts,
        padding="max_length",
        max_length=77,
        truncation=True,
        return_tensors="pt",
        return_offsets_mapping=True,
    )


def _grounding(
    model: GroundedDiffusion, examples: list[Example], offsets: Tensor, timestep: Tensor
) -> Losses:
    rows, columns, targets = _mentions(examples, offsets, timestep)
    parts: dict[str, list[Tensor]] = {}
    total, weight = torch.zeros(()), 0.0
    for name, watched in model.watched.items():
        assert watched.maps is not None
        side = int(watched.maps.shape[1] ** 0.5)
        heat = torch.einsum("mnt,mt->mn", watched.maps[rows], columns)
        target = F.adaptive_avg_pool2d(targets[:, None], side).flatten(1)
        loss = _map_loss(heat, target)
        block = name.split(".attentions")[0]
        total, weight = total + LAYER_WEIGHTS[block] * loss, weight + LAYER_WEIGHTS[block]
        parts.setdefault(block, []).append(loss.detach())
    return {
        "all": total / weight,
        **{block: torch.stack(loss).mean() for block, loss in parts.items()},
    }


def _labelling(model: GroundedDiffusion, examples: list[Example], timestep: Tensor) -> Tensor:
    """How badly the heads tell each cell's noun (or background) and each painted cell's colour."""
    seen = timestep < GROUNDED_BELOW
    truth = torch.from_numpy(np.stack([_classes(example) for example in examples])).float()[seen]
    losses = []
    for guess in model.labels.values():
        target = F.adaptive_avg_pool2d(truth, guess.shape[-1])
        noun, tone = guess[seen].float().split([1 + len(NOUNS), len(COLOURS)], 1)
        noun_truth, tone_truth = target.split([1 + len(NOUNS), len(COLOURS)], 1)
        weight = 1 - 0.8 * noun_truth[:, 0]
        losses.append((-(noun.log_softmax(1) * noun_truth).sum(1) * weight).sum() / weight.sum())
        painted = (tone_truth.sum(1) + 1e-6).sum()
        losses.append(-(tone.log_softmax(1) * tone_truth).sum() / painted)
    return torch.stack(losses).mean()


def _classes(example: Example) -> np.ndarray:
    """Share of each of 32 x 32 cells that shows background, each noun, each colour: [C, 32, 32]."""
    side = example.labels.shape[0] // LATENT
    out = np.zeros((CLASSES, LATENT, LATENT), np.float32)
    for label in range(len(example.things) + 1):
        shape = (example.labels == label).reshape(LATENT, side, LATENT, side).mean((1, 3))
        if label == 0:
            out[0] += shape
            continue
        thing = example.things[label - 1]
        out[1 + NOUNS.index(thing.noun)] += shape
        if thing.colour:
            out[1 + len(NOUNS) + list(COLOURS).index(thing.colour)] += shape
    return out


def _map_loss(heat: Tensor, target: Tensor) -> Tensor:
    """Pixel cross-entropy, and for words that name something the overlap and the share inside."""
    heat = heat.clamp(1e-5, 1 - 1e-5)
    pixel = F.binary_cross_entropy(heat, target)
    there = target.sum(1) > 0
    heat, target = heat[there], target[there]
    inside = (heat * target).sum(1)
    overlap = 1 - 2 * inside / (heat.sum(1) + target.sum(1))
    strayed = (1 - (heat * (target > 0.05)).sum(1) / heat.sum(1)) ** 2
    return 2 * pixel + overlap.mean() + 0.5 * strayed.mean()


def _mentions(
    examples: list[Example], offsets: Tensor, timestep: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Row [M], token columns [M, 77] and target [M, 32, 32] of every noun in the batch."""
    rows, columns, targets = [], [], []
    for row, example in enumerate(examples):
        if example.sentence is None or timestep[row] >= GROUNDED_BELOW:
            continue
        for mention in example.sentence.mentions:
            meant = np.isin(example.labels, [thing + 1 for thing in mention.things])
            spans = offsets[row]
            rows.append(row)
            columns.append(
                (
                    (spans[:, 0] >= mention.start)
                    & (spans[:, 1] <= mention.end)
                    & (spans[:, 1] > spans[:, 0])
                ).float()
            )
            side = meant.shape[0] // LATENT
            targets.append(
                torch.from_numpy(meant.reshape(LATENT, side, LATENT, side).mean((1, 3))).float()
            )
    return torch.tensor(rows), torch.stack(columns), torch.stack(targets)
