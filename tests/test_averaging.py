"""Several noises, timesteps and the mirrored picture as one batch, averaged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from refdiff.attention.capture import CaptureSettings, EncodedPicture
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.noise import Schedule, View, mean_of_views


@pytest.fixture(scope="module")
def picture() -> EncodedPicture:
    generator = torch.Generator().manual_seed(5)
    return EncodedPicture(torch.randn(1, 4, 8, 12, generator=generator), (64, 96))


def maps(pipe: Any, picture: EncodedPicture, **changes: Any) -> tuple[torch.Tensor, ...]:
    return DiffusersCapture(pipe, CaptureSettings(**changes))(picture, "a red cat").maps


def test_seeds_and_timesteps_are_the_mean_of_each_alone(
    tiny_pipe: Any, picture: EncodedPicture
) -> None:
    each = [
        maps(tiny_pipe, picture, seed=seed, timestep=timestep)
        for seed in (3, 4)
        for timestep in (50, 400)
    ]
    together = maps(tiny_pipe, picture, seed=3, seeds=2, timesteps=(50, 400))
    for layer, found in enumerate(together):
        mean = torch.stack([one[layer] for one in each]).mean(0)
        assert torch.allclose(found, mean, atol=1e-5)
        assert not torch.allclose(found, each[0][layer], atol=1e-5)


def test_flipping_averages_with_the_mirrored_picture(
    tiny_pipe: Any, picture: EncodedPicture
) -> None:
    mirrored = EncodedPicture(picture.latent.flip(-1), picture.size)
    plain, turned = maps(tiny_pipe, picture), maps(tiny_pipe, mirrored)
    both = maps(tiny_pipe, picture, flip=True)
    for a, b, mean in zip(plain, turned, both, strict=True):
        assert torch.allclose(mean, (a + b.flip(-1)) / 2, atol=1e-5)
    again = maps(tiny_pipe, mirrored, flip=True)
    assert all(torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(both, again, strict=True))


def test_the_official_schedule_is_averaged_call_by_call(
    tiny_pipe: Any, picture: EncodedPicture
) -> None:
    settings = {"mode": "logits", "guidance": 3.0, "schedule": "official"}
    each = [maps(tiny_pipe, picture, seed=seed, **settings) for seed in (0, 1)]
    together = maps(tiny_pipe, picture, seeds=2, **settings)
    for a, b, mean in zip(*each, together, strict=True):
        assert torch.allclose(mean, (a + b) / 2, atol=1e-4)


def test_averaging_goes_with_several_sentences(tiny_pipe: Any, picture: EncodedPicture) -> None:
    capture = DiffusersCapture(tiny_pipe, seeds=3, flip=True, mode="logits", guidance=2.0)
    together = capture.read(picture, ["a red cat", "tree"])
    for found in together:
        alone = capture(picture, found.text)
        assert all(
            torch.allclose(a, b, atol=1e-4) for a, b in zip(found.maps, alone.maps, strict=True)
        )


def test_views_are_all_combinations() -> None:
    views = CaptureSettings(seed=7, seeds=2, timesteps=(10, 20), flip=True).views(1000)
    assert len(views) == 8 and views[0] == View(7, Schedule(10, (10,)), False)
    assert views[-1] == View(8, Schedule(20, (20,)), True)
    assert CaptureSettings().views(1000) == (View(0, Schedule(100, (100,))),)
    left = torch.arange(6.0).view(1, 1, 2, 3)
    turned = mean_of_views(torch.cat([left, left.flip(-1)]), [views[0], views[1]])
    assert torch.equal(turned, left)


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match="official schedule has its own"):
        CaptureSettings(schedule="official", timesteps=(1, 2))
    with pytest.raises(ValueError, match="seeds is 0"):
        CaptureSettings(seeds=0)
    with pytest.raises(ValueError, match="timestep is 1000"):
        CaptureSettings(timesteps=(5, 1000)).views(1000)
