"""Trains the stickers' UNet and text encoder: denoising, and words grounded in their objects.

Denoising alone leaves the cross-attention of so small a model at chance. The grounding loss, in
the manner of TokenCompose (arXiv 2312.03626), asks the attention of every noun's token to lie
inside the objects it names; for a noun that names nothing in the picture, to be nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..nouns import NOUNS
from .grounding import LATENT, Example, grounding, labelling
from .looks import COLOURS
from .loop import Loop, Losses
from .pool import Shard, read_pool
from .sentences import MAKERS, Scene, Sentence, caption, sentences_for

BATCH = 24
WEIGHTS = {"denoise": 1.0, "ground": 0.6, "label": 0.5}
LABELLED = {"mid_block": 192, "up_blocks.0.attentions.1": 192, "up_blocks.1.attentions.1": 96}
"""Features, and their channels, from which a throw-away head must tell every cell's noun."""


def new_unet(channels: tuple[int, int, int] = (32, 96, 192), side: int = LATENT) -> Any:
    """The exact shape of the shipped UNet: a convolution-only top level, then attention twice."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side,
        block_out_channels=channels,
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


class GroundedDiffusion(nn.Module):
    """UNet and text encoder with the watched cross-attentions in place."""

    def __init__(self, unet: Any, text_encoder: Any, names: int) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.watched = {name: Watched() for name in unet.attn_processors if "attn2" in name}
        unet.set_attn_processor({**unet.attn_processors, **self.watched})
        classes = 1 + names + len(COLOURS)
        self.heads = nn.ModuleDict(
            {name.replace(".", "-"): nn.Conv2d(size, classes, 1) for name, size in LABELLED.items()}
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

    names = names_in(pool)
    model = make_model(start, len(names))
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
        examples = examples_of(shards, generator, BATCH)
        encoded = tokenize(tokenizer, examples)
        clean = torch.from_numpy(np.stack([example.latent for example in examples])).float()
        timestep = _timesteps(len(examples), generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = scheduler.add_noise(clean, noise, timestep)
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(noisy, timestep, encoded["input_ids"]).float()
        true = torch.tensor([s is None or bool(s.things) for s in (e.sentence for e in examples)])
        denoise = ((guess - noise) ** 2).mean((1, 2, 3))[true].mean()
        maps = {name: watched.maps for name, watched in model.watched.items()}
        ground = grounding(maps, examples, encoded["offset_mapping"], timestep)
        label = labelling(model.labels, examples, timestep, names)
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

    return CLIPTokenizerFast.from_pretrained(Path(__file__).parents[2] / "configs" / "tokenizer")


def names_in(pool: Path) -> dict[str, int]:
    """What the pool's scenes show: the class of each name, from 1 on, the forty nouns first."""
    scenes = [json.loads(path.read_text()) for path in sorted(pool.glob("*/things.json"))]
    shown = {thing["noun"] for shard in scenes for scene in shard for thing in scene}
    names = [*NOUNS, *sorted(shown - set(NOUNS))]
    return {name: index for index, name in enumerate(names, start=1)}


def make_model(start: Path | None, names: int = len(NOUNS)) -> GroundedDiffusion:
    """The UNet and text encoder to train: those in the folder `start`, or new ones."""
    torch.manual_seed(0)
    if start is None:
        return GroundedDiffusion(new_unet(), new_text_encoder(), names)
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    return GroundedDiffusion(
        UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32),
        CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32),
        names,
    )


def _heads(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Mostly the low noise at which pictures are read; the rest uniform, for drawing."""
    low = torch.randint(0, 300, (count,), generator=generator)
    any_ = torch.randint(0, 1000, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.55, low, any_)


def examples_of(shards: list[Shard], generator: torch.Generator, count: int) -> list[Example]:
    """Scenes at random, each with a sentence, or none."""
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    examples: list[Example] = []
    while len(examples) < count:
        shard = shards[rng.integers(len(shards))]
        index = int(rng.integers(len(shard.things)))
        if shard.things[index]:
            scene, labels = scene_and_labels(shard, index)
            sentence = _sentence(scene, rng)
            examples.append(Example(shard.latents[index], labels, sentence, scene.things))
    return examples


def scene_and_labels(shard: Shard, index: int) -> tuple[Scene, np.ndarray]:
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
    return next(
        iter(sentences_for(scene, rng, {kind: MAKERS[kind] for kind in kinds})), None
    ) or caption(scene, rng)


def tokenize(tokenizer: Any, examples: list[Example]) -> Any:
    texts = [example.sentence.text if example.sentence else "" for example in examples]
    return tokenizer(
        texts,
        padding="max_length",
        max_length=77,
        truncation=True,
        return_tensors="pt",
        return_offsets_mapping=True,
    )
