"""A joint attention in ComfyUI: what the same `Reader` reads in diffusers, same weights."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from refdiff.attention.capture import EncodedPicture
from refdiff.attention.reader import Reader

from ..sd3 import Sd3Backend as DiffusersSd3
from ..sd3 import sd3_pipeline
from .sd3 import Sd3Backend, twin_of
from .twins import difference, snapshot

SENTENCES = ["the red cat on the left", "a dog", "a blue sports-car"]
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "views": {"seeds": 2, "timesteps": (50, 700), "flip": True},
    "guided official": {"mode": "logits", "guidance": 3.0, "schedule": "official"},
}


@pytest.fixture(scope="module", params=[None, "rms_norm"])
def both(pack: ModuleType, request: pytest.FixtureRequest) -> tuple[DiffusersSd3, Sd3Backend]:
    pipe = sd3_pipeline(request.param, t5=False)
    return DiffusersSd3(pipe), Sd3Backend(*twin_of(pipe))


@pytest.fixture
def shown() -> EncodedPicture:
    latent = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1))
    return EncodedPicture(latent, (64, 96))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_maps_as_diffusers(
    both: tuple[DiffusersSd3, Sd3Backend], shown: EncodedPicture, name: str
) -> None:
    theirs, ours = (Reader(each, **SETTINGS[name]).read(shown, SENTENCES) for each in both)
    for one, other in zip(ours, theirs, strict=True):
        assert other.maps[0].std() > 1e-5 and difference(one, other) <= 1e-4 * min(
            1.0, float(other.maps[0].std()) * 10
        )
        assert (one.tokens, one.spans, one.text) == (other.tokens, other.spans, other.text)
        assert len(one.layers) == len(other.layers) and one.strides == other.strides


def test_nothing_after_the_last_block_runs_and_the_model_stays(
    both: tuple[DiffusersSd3, Sd3Backend], shown: EncodedPicture
) -> None:
    model = both[1].model
    before, ran = snapshot(model), []
    transformer = model.model.diffusion_model
    x = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(3))
    given = x, torch.tensor([300.0] * 2), torch.ones(2, 77, 4096), torch.ones(2, 64)
    with torch.no_grad():
        plain = transformer(*given)
    parts = [transformer.final_layer, transformer.joint_blocks[1].x_block.mlp]
    parts += [transformer.joint_blocks[0].x_block.mlp]
    handles = [part.register_forward_hook(lambda part, *_: ran.append(part)) for part in parts]
    Reader(both[1]).read(shown, SENTENCES)
    for handle in handles:
        handle.remove()
    assert ran == parts[2:]
    after = snapshot(model)
    assert after == before
    with torch.no_grad():
        assert torch.equal(transformer(*given), plain)


def test_the_pack_does_not_offer_it(
    pack: ModuleType, both: tuple[DiffusersSd3, Sd3Backend]
) -> None:
    from importlib import import_module

    unet = import_module(f"{pack.__name__}.nodes.unet")
    with pytest.raises(Exception, match="needs a Stable Diffusion 1, 2 or XL model; got SD3"):
        unet.check_model(both[1].model)
