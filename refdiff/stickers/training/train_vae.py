"""Trains the stickers' AutoencoderKL on crops of the pool, and encodes the pool with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .loop import Loop, Losses
from .pool import Shard, read_pool

CROP = 64
BATCH = 8


def new_vae() -> Any:
    """The exact shape of the shipped VAE: 8x smaller, four channels.

    Both UIs fix 32 norm groups, so 32 channels are normalised one by one and lose their mean; the
    encoder ends in 128 for the latent to keep the picture's overall colour.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=32,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=256,
    )


class EncoderTraining(nn.Module):
    """The VAE's encoder before a shallow decoder, which costs a tenth of the real one to train."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        nn.init.constant_(self.quant_conv.bias[4:], -6.0)  # a sharp posterior, or nothing is learnt
        self.head = nn.Sequential(
            nn.Conv2d(4, 192, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(192, 192, 1),
            nn.PixelShuffle(8),
        )
        self.preview = nn.Conv2d(4, 3, 1)

    def forward(self, crops: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The picture again, a small one read linearly off the latent, and the latent's cost."""
        mean, log_variance = self.quant_conv(self.encoder(crops)).float().chunk(2, 1)
        spread = (0.5 * log_variance.clamp(-30, 20)).exp()
        latent = mean + spread * torch.randn(mean.shape, generator=generator)
        cost = 0.5 * (mean**2 + spread**2 - 1 - log_variance).mean()
        return self.head(latent).float(), self.preview(latent), cost


def train_vae(pool: Path, work: Path, steps: int) -> None:
    """Saves `work/vae` as a diffusers folder; its scaling factor makes latents of unit spread."""
    torch.manual_seed(0)
    vae, shards = new_vae(), read_pool(pool, most=6)
    model = EncoderTraining(vae)

    def step(generator: torch.Generator) -> Losses:
        crops = _crops(shards, generator)
        with torch.autocast("cpu", torch.bfloat16):
            picture, preview, cost = model(crops, generator)
        small = (preview - F.avg_pool2d(crops, 8)).abs().mean()
        return _with_total(picture, crops, {"preview": 0.3 * small, "kl": 3e-3 * cost})

    loop = Loop(model, step, work / "vae-training", steps, rate=2e-3, warmup=30, averaging=0.99)
    loop.run()
    loop.averaged()
    vae.eval().register_to_config(scaling_factor=round(1 / _spread(vae, shards), 5))
    vae.save_pretrained(work / "vae")


def train_decoder(pool: Path, work: Path, steps: int) -> None:
    """Trains the real decoder of `work/vae` on its fixed latents, and saves it there again."""
    from diffusers import AutoencoderKL

    vae, shards = AutoencoderKL.from_pretrained(work / "vae"), read_pool(pool, most=6)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])

    def step(generator: torch.Generator) -> Losses:
        crops = _crops(shards, generator)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latent = vae.encode(crops).latent_dist.sample(generator)
            picture = vae.decode(latent).sample.float()
        return _with_total(picture, crops, {})

    loop = Loop(decoder, step, work / "decoder-training", steps, rate=1e-3, averaging=0.99)
    loop.run()
    loop.averaged()
    vae.save_pretrained(work / "vae")


def _with_total(picture: Tensor, crops: Tensor, parts: dict[str, Tensor]) -> Losses:
    parts["pixel"] = (picture - crops).abs().mean() + 2 * ((picture - crops) ** 2).mean()
    parts["edge"] = _gradients(picture, crops)
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def encode_pool(pool: Path, work: Path) -> None:
    """Writes `latents.npy` (posterior mean, scaled, float16) into every shard without one."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(work / "vae").eval().to(memory_format=torch.channels_last)
    for path in sorted(pool.glob("*/pictures.npy")):
        finished = path.with_name("things.json"), path.with_name("captions.json")
        if path.with_name("latents.npy").exists() or not any(one.exists() for one in finished):
            continue
        pictures = np.load(path)
        latents = [_encode(vae, pictures[i : i + 10]) for i in range(0, len(pictures), 10)]
        partial = path.with_name("partial.npy")
        np.save(partial, torch.cat(latents).half().numpy())
        partial.rename(path.with_name("latents.npy"))


@torch.inference_mode()
def _encode(vae: Any, pictures: np.ndarray) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        latent = vae.encode(
            to_pixels(pictures).contiguous(memory_format=torch.channels_last)
        ).latent_dist.mean
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
        centre = (
            np.array(things[_pick(len(things), generator)].centre) * side if things else side / 2
        )
        shift = torch.randint(-CROP // 2, CROP // 2, (2,), generator=generator).numpy()
        top, left = np.clip(centre + shift - CROP // 2, 0, side - CROP).astype(int)
        crops.append(shard.pictures[index, top : top + CROP, left : left + CROP])
    return to_pixels(np.stack(crops))


def _pick(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def _gradients(picture: Tensor, target: Tensor) -> Tensor:
    difference = picture - target
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def _spread(vae: Any, shards: list[Shard]) -> float:
    vae.register_to_config(scaling_factor=1.0)
    return float(_encode(vae, shards[0].pictures[:64]).std())
