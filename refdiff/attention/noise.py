"""The noise that is put on a picture, and the schedules by which the UNet is shown it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .maps import cfg_logits


def noise(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 on the CPU: the same numbers for a seed on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


def add_noise(latent: Tensor, added: Tensor, alpha: Tensor) -> Tensor:
    """x_t = sqrt(a_t) z + sqrt(1 - a_t) e, with a_t the product of alphas up to timestep t."""
    return alpha.sqrt() * latent + (1 - alpha).sqrt() * added


class Schedule(NamedTuple):
    """The timestep whose noise is put on, and the timesteps the UNet is told, in order."""

    noised: int
    calls: tuple[int, ...]


class View(NamedTuple):
    """One of the ways a picture is shown: which noise, at which timesteps, mirrored or not."""

    seed: int
    schedule: Schedule
    flip: bool = False

    def of(self, values: Tensor) -> Tensor:
        """Latents or maps [..., h, w], mirrored left to right if this view is; its own inverse."""
        return values.flip(-1) if self.flip else values


def mean_of_views(maps: Tensor, views: Sequence[View]) -> Tensor:
    """[V*P, T, h, w], all of view 0 first, to the mean over the views [P, T, h, w], unmirrored."""
    parts = maps.chunk(len(views))
    turned = [view.of(part) for view, part in zip(views, parts, strict=True)]
    return torch.stack(turned).mean(0) if len(turned) > 1 else turned[0]


def one_call(timestep: int) -> Schedule:
    """One look at the picture, noised and labelled alike."""
    return Schedule(timestep, (timestep,))


def official_calls(train_timesteps: int = 1000, steps: int = 20, used: int = 2) -> Schedule:
    """The authors' schedule: the last `used` of `steps` DDIM steps.

    Their code noises to one step above the first label: 20 steps over 1000 timesteps give noise
    of 101 and labels 51 and 1.
    """
    stride = train_timesteps // steps
    labels = [index * stride + 1 for index in range(used + 1)]
    return Schedule(labels[-1], tuple(reversed(labels[:-1])))


def ddim_step(
    sample: Tensor, output: Tensor, alpha: Tensor, alpha_next: Tensor, prediction: str
) -> Tensor:
    """One deterministic DDIM step (eta 0) from noise level `alpha` to `alpha_next`.

    output: what the UNet answered, read as `prediction` says: epsilon, v_prediction or sample.
    """
    keep, spread = alpha.sqrt(), (1 - alpha).sqrt()
    if prediction == "epsilon":
        clean, added = (sample - spread * output) / keep, output
    elif prediction == "v_prediction":
        clean, added = keep * sample - spread * output, keep * output + spread * sample
    elif prediction == "sample":
        clean, added = output, (sample - keep * output) / spread
    else:
        raise ValueError(
            f"prediction type {prediction!r}; known are epsilon, v_prediction and sample."
        )
    return add_noise(clean, added, alpha_next)


def cfg_output(output: Tensor, guidance: float | None) -> Tensor:
    """A model's answer for each row, its unconditional rows (the first half) mixed in."""
    if guidance is None:
        return output
    uncond, cond = output.chunk(2)
    return cfg_logits(cond, uncond, guidance).repeat(2, 1, 1, 1)
