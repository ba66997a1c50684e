"""Trains the second edition of the stickers' UNet: a world that teaches less.

Shaped like Stable Diffusion, with attention at every level, and trained as it was: by denoising,
mostly at high and middle noise, from whole captions read by a frozen contrastive text encoder.
The grounding loss of the first edition is put on one layer, `TAUGHT`, so that on all others one can
see what attention says that nobody taught where its words are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .grounding import LATENT, Example, grounding
from .loop import Loop, Losses
from .pool import Shard, read_pool
from .sentences import Scene, Sentence, absent, caption
from .train_unet import Watched, clip_tokenizer, scene_and_labels, tokenize

BATCH = 4
TAUGHT = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
"""The only layer with a grounding loss: the first of the up path at 1/16 of the picture."""
GROUND = 0.6
"""Weight of the grounding loss against the denoising loss."""


def new_painter() -> Any:
    """Self- and cross-attention in every block, the finest included, as in Stable Diffusion."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(32, 96, 192),
        layers_per_block=1,
        norm_num_groups=32,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=128,
        attention_head_dim=4,
    )


def text_encoder_of(clip: Path) -> Any:
    """The text tower of an open_clip folder, with its own weights, as a `CLIPTextModel`."""
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModel

    shape = json.loads((clip / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["width"],
            intermediate_size=4 * shape["width"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            max_position_embeddings=shape["context_length"],
            hidden_act="gelu",
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
            projection_dim=shape["width"],
        )
    )
    weights = _renamed(load_file(clip / "open_clip_model.safetensors"), shape["layers"])
    own = {name.removeprefix("text_model."): name for name in encoder.state_dict()}
    kept = {own[name]: value.float() for name, value in weights.items()}
    missing, _ = encoder.load_state_dict(kept, strict=False)
    assert not [name for name in missing if "position_ids" not in name]
    return encoder.eval().requires_grad_(False)


def _renamed(clip: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """open_clip's names for a text tower to those of transformers."""
    out = {
        "embeddings.token_embedding.weight": clip["token_embedding.weight"],
        "embeddings.position_embedding.weight": clip["positional_embedding"],
        "final_layer_norm.weight": clip["ln_final.weight"],
        "final_layer_norm.bias": clip["ln_final.bias"],
    }
    for index in range(layers):
        theirs, ours = f"transformer.resblocks.{index}", f"encoder.layers.{index}"
        for kind in ("weight", "bias"):
            rows = clip[f"{theirs}.attn.in_proj_{kind}"].chunk(3)
            for name, value in zip("qkv", rows, strict=True):
                out[f"{ours}.self_attn.{name}_proj.{kind}"] = value
            pairs = {
                "attn.out_proj": "self_attn.out_proj",
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }
            for there, here in pairs.items():
                out[f"{ours}.{here}.{kind}"] = clip[f"{theirs}.{there}.{kind}"]
    return out


class Painter(nn.Module):
    """The UNet, with the taught layer's probabilities in sight of the loss."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet, self.watched = unet, Watched()
        unet.set_attn_processor({**unet.attn_processors, f"{TAUGHT}.processor": self.watched})

    def forward(self, latent: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self.unet(latent, timestep, context).sample


def train_painter(pool: Path, work: Path, steps: int, start: Path) -> None:
    """Saves `work/unet`, `work/text_encoder` and `work/clip`.

    start: a folder of the first edition's weights, where these begin; its cross-attention is left
    behind. Its `clip` lends the text encoder.
    """
    from diffusers import DDIMScheduler

    torch.manual_seed(0)
    model, tokenizer = Painter(new_painter()), clip_tokenizer()
    encoder = text_encoder_of(start / "clip")
    warm_start(model.unet, start / "unet")
    encoder.save_pretrained(work / "text_encoder")
    shutil.copytree(start / "clip", work / "clip", dirs_exist_ok=True)
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    shards: list[Shard] = []
    total = len(list(pool.glob("*/things.json")))

    def step(generator: torch.Generator) -> Losses:
        if not shards or (
            len(shards) < total and int(torch.randint(50, (1,), generator=generator)) == 0
        ):
            shards[:] = read_pool(pool, pictures=False, latents=True)
        examples = _examples(shards, generator)
        encoded = tokenize(tokenizer, examples)
        clean = torch.from_numpy(np.stack([example.latent for example in examples])).float()
        timestep = timesteps(len(examples), generator)
        noise = torch.randn(clean.shape, generator=generator)
        with torch.no_grad():
            context = encoder(encoded["input_ids"]).last_hidden_state
        guess = model(scheduler.add_noise(clean, noise, timestep), timestep, context)
        true = torch.tensor([not one.sentence or bool(one.sentence.things) for one in examples])
        denoise = (((guess - noise) ** 2).mean((1, 2, 3)) * true).sum() / true.sum().clamp(min=1)
        ground = grounding(
            {TAUGHT: model.watched.maps}, examples, encoded["offset_mapping"], timestep
        )
        return {
            "loss": denoise + GROUND * ground["all"],
            "denoise": denoise,
            "ground": ground["all"],
        }

    loop = Loop(model, step, work / "painter-training", steps, rate=1.2e-3, save_minutes=2.0)
    loop.run()
    trained: Any = loop.averaged()
    trained.unet.save_pretrained(work / "unet")


def warm_start(unet: Any, first: Path) -> None:
    """Copies what the first edition has but its cross-attention, and freezes it.

    Cross-attention, and the blocks that are new, begin by adding nothing to what is handed on; they
    alone are trained. The taught layer, which was taught then too, keeps its queries.
    """
    from diffusers import UNet2DConditionModel

    old = UNet2DConditionModel.from_pretrained(first, torch_dtype=torch.float32).state_dict()
    with torch.no_grad():
        for name, value in unet.named_parameters():
            if name in old and ("attn2" not in name or name == f"{TAUGHT}.to_q.weight"):
                value.copy_(old[name]).requires_grad_(False)
            elif "attn2.to_out" in name or "proj_out" in name:
                value.zero_()


def timesteps(count: int, generator: torch.Generator) -> Tensor:
    """[count] int, rising, one from each equal share of 0 to 999: most above what is read at."""
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (1000 * share).long().clamp(0, 999)


def _examples(shards: list[Shard], generator: torch.Generator) -> list[Example]:
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    examples: list[Example] = []
    while len(examples) < BATCH:
        shard = shards[rng.integers(len(shards))]
        index = int(rng.integers(len(shard.things)))
        if shard.things[index]:
            scene, labels = scene_and_labels(shard, index)
            sentence = _sentence(scene, rng, unnamed=len(examples) >= BATCH // 2)
            examples.append(Example(shard.latents[index], labels, sentence, scene.things))
    return examples


def _sentence(scene: Scene, rng: np.random.Generator, unnamed: bool) -> Sentence | None:
    """A whole caption; at times of something that is not there or, if `unnamed`, none at all."""
    draw = rng.random()
    if unnamed and draw < 0.2:
        return None
    return absent(scene, 0, rng) if draw > 0.88 else caption(scene, rng, whole=True)
