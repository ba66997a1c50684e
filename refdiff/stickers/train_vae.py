"""Trains the stickers' AutoencoderKL on crops of the pool, and encodes the pool with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .loop import Loop, Losses
from .pool import Shard, read_pool

CROP = 64
BATCH = 8


def new_vae():  # type: ignore[no-untyped-def]
    """The exact shape of the shipped VAE: 8x smaller, four channels.

    Both UIs fix 32 norm groups, so 32 channels are normalised one by one and lose their mean; the
    encoder ends in 128 for the latent to keep the picture's overall colour.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 64, 64, 128), layers_per_block=1, norm_num_groups=32, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=256,
    )  # fmt: skip


def train_vae(pool: Path, work: Path, steps: int) -> None:
    """Saves `work/vae` as a diffusers folder; its scaling factor makes latents of unit spread."""
    torch.manual_seed(0)
    vae, shards = new_vae(), read_pool(pool, most=6)
    vae.preview = torch.nn.Conv2d(4, 3, 1)  # latent to colour, linearly: a readable latent, sooner
    torch.nn.init.constant_(vae.quant_conv.bias[4:], -6.0)  # a sharp posterior, or nothing is learnt

    def step(generator: torch.Generator) -> Losses:
        crops = _crops(shards, generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(crops).latent_dist
            latent = posterior.sample(generator)
            latent = latent + 0.05 * torch.randn(latent.shape, generator=generator)
            picture = vae.decode(latent).sample.float()
        pixel = (picture - crops).abs().mean() + 2 * ((picture - crops) ** 2).mean()
        edge = _gradients(picture, crops)
        preview = (vae.preview(latent.float()) - F.avg_pool2d(crops, 8)).abs().mean()
        kl = posterior.kl().float().mean() / crops[0].numel()
        return {"loss": pixel + edge + preview + 1e-4 * kl, "pixel": pixel, "edge": edge, "preview": preview}

    loop = Loop(vae, step, work / "vae-training", steps, rate=1e-3, warmup=30, averaging=0.99)
    loop.run()
    vae = loop.averaged().eval()
    del vae.preview
    vae.register_to_config(scaling_factor=round(1 / _spread(vae, shards), 5))
    vae.save_pretrained(work / "vae")


def encode_pool(pool: Path, work: Path) -> None:
    """Writes `latents.npy` (posterior mean, scaled, float16) into every shard without one."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(work / "vae").eval().to(memory_format=torch.channels_last)
    for path in sorted(pool.glob("*/things.json")):
        if (path.parent / "latents.npy").exists():
            continue
        (shard,) = read_pool(path.parents[1], only=path.parent.name)
        latents = [_encode(vae, shard.pictures[i : i + 10]) for i in range(0, len(shard.pictures), 10)]
        partial = shard.folder / "partial.npy"
        np.save(partial, torch.cat(latents).half().numpy())
        partial.rename(shard.folder / "latents.npy")


@torch.inference_mode()
def _encode(vae, pictures: np.ndarray) -> Tensor:  # type: ignore[no-untyped-def]
    with torch.autocast("cpu", torch.bfloat16):
        latent = vae.encode(to_pixels(pictures).contiguous(memory_format=torch.channels_last)).latent_dist.mean
    return latent.float() * vae.config.scaling_factor


def to_pixels(pictures: np.ndarray) -> Tensor:
    """[N, H, W, 3] uint8 to [N, 3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _crops(shards: list[Shard], generator: torch.Generator) -> Tensor:
    crops = []
    for _ in range(BATCH):
        shard = shards[_pick(len(shards), generator)]
        index = _pick(len(shard.pictures), generator)
        things, side = shard.things[index], shard.pictures.shape[1]
        centre = np.array(things[_pick(len(things), generator)].centre) * side if things else side / 2
        shift = torch.randint(-CROP // 2, CROP // 2, (2,), generator=generator).numpy()
        top, left = np.clip(centre + shift - CROP // 2, 0, side - CROP).astype(int)
        crops.append(shard.pictures[index, top : top + CROP, left : left + CROP])
    return to_pixels(np.stack(crops))


def _pick(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def _gradients(picture: Tensor, target: Tensor) -> Tensor:
    difference = picture - target
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def _spread(vae, shards: list[Shard]) -> float:  # type: ignore[no-untyped-def]
    vae.register_to_config(scaling_factor=1.0)
    return float(_encode(vae, shards[0].pictures[:64]).std())
