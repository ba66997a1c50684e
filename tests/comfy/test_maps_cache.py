"""A widget that does not change the attention runs neither the UNet nor CLIP again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any
from weakref import ref

import pytest
import torch

SAME: list[dict[str, Any]] = [
    {"grow": 5},
    {"falloff": 9},
    {"edges": "snap"},
    {"choice": 2},
    {"empty_below": 0.9},
    {"instances": "separate"},
    {"invert": True},
    {"show_candidates": True},
]
OTHER: list[dict[str, Any]] = [{"text": "the blue cat"}, {"noise_index": 3}, {"profile": "paper"}]
WIDGETS = {
    "text": "the red cat",
    "focus": "",
    "choice": 1,
    "instances": "auto",
    "threshold": 0.0,
    "empty_below": 0.0,
    "edges": "off",
    "grow": 0,
    "falloff": 0,
    "profile": "default",
    "noise_index": 0,
}


@contextmanager
def calls(*modules: Any) -> Iterator[list[str]]:
    """The kinds of the modules that run while the block does."""
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda one, _: ran.append(type(one).__name__))
        for module in modules
    ]
    yield ran
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="module")
def parts(pack: ModuleType) -> dict[str, Any]:
    """The sticker models and their picture, as Segment takes them."""
    loader = import_module(f"{pack.__name__}.nodes.load_stickers").LoadStickerModels
    model, clip, vae, scorer, image, _ = loader.execute().args
    return {"model": model, "clip": clip, "vae": vae, "scorer": scorer, "image": image}


@pytest.fixture(scope="module")
def segment(pack: ModuleType, parts: dict[str, Any]) -> Callable[..., Any]:
    node = import_module(f"{pack.__name__}.nodes.segment").RefDiffSegment
    return lambda **changes: node.execute(**{**parts, **WIDGETS, **changes}).args


@pytest.fixture(scope="module")
def workers(parts: dict[str, Any]) -> list[Any]:
    """What must rest: the UNet, the VAE's encoder, CLIP's image tower."""
    vae = parts["vae"].first_stage_model.encoder
    return [parts["model"].model.diffusion_model, vae, parts["scorer"].scorer.model.visual]


@pytest.mark.parametrize("changes", SAME, ids=str)
def test_the_same_attention(
    segment: Callable[..., Any], workers: list[Any], changes: dict[str, Any]
) -> None:
    segment()
    with calls(*workers) as ran:
        segment(**changes)
    assert ran == []


def test_a_threshold_asks_clip_alone(segment: Callable[..., Any], workers: list[Any]) -> None:
    """It makes other masks, which CLIP has not seen."""
    segment()
    with calls(*workers[:2]) as ran:
        segment(threshold=0.55)
    assert ran == []


@pytest.mark.parametrize("changes", OTHER, ids=str)
def test_another_attention(
    segment: Callable[..., Any], workers: list[Any], changes: dict[str, Any]
) -> None:
    segment()
    with calls(workers[0]) as ran:
        segment(**changes)
    assert ran


def test_a_lora_is_another_model(
    segment: Callable[..., Any], parts: dict[str, Any], workers: list[Any]
) -> None:
    plain = segment()[1]
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    shape = parts["model"].model.state_dict()[key].shape
    change = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    user = parts["model"].clone()
    user.add_patches({key: ("diff", (change,))}, 0.5)
    with calls(workers[0]) as ran:
        other = segment(model=user)[1]
    assert ran and not torch.equal(plain, other)
    with calls(workers[0]) as ran:
        assert torch.equal(segment()[1], plain) and torch.equal(segment(model=user)[1], other)
    assert ran == []


def test_patches_that_act_are_asked_again(
    pack: ModuleType, segment: Callable[..., Any], workers: list[Any]
) -> None:
    types = import_module(f"{pack.__name__}.nodes.types")
    settings = types.NodeSettings(keep_patches=True)
    segment(settings=settings)
    with calls(workers[0]) as ran:
        segment(settings=settings)
    assert ran


def test_it_goes_with_the_model(pack: ModuleType, parts: dict[str, Any]) -> None:
    cache = import_module(f"{pack.__name__}.nodes.maps_cache")
    node = import_module(f"{pack.__name__}.nodes.segment").RefDiffSegment
    model, clip, vae = import_module(f"{pack.__name__}.nodes.stickers").sticker_models()
    own = {**parts, **WIDGETS, "model": model, "clip": clip, "vae": vae}
    node.execute(**own)
    memory, base = ref(cache.memory_of(model.model)), ref(model.model)
    assert memory() is not None and memory().kept and memory().bytes < 1 << 20
    import comfy.model_management

    comfy.model_management.unload_all_models()
    del model, clip, vae, own
    gc.collect()
    assert base() is None and memory() is None


def test_no_more_than_its_share_is_kept(pack: ModuleType) -> None:
    """The self-attention that comes with maps counts, and the least used goes first."""
    cache = import_module(f"{pack.__name__}.nodes.maps_cache")
    maps = import_module(f"{pack.__name__}.refdiff.attention.maps")
    places = import_module(f"{pack.__name__}.refdiff.attention.propagate")
    memory = cache.Memory()
    for number in range(5):
        side = torch.zeros(4096, 1536)  # 24 MiB; query and key are two of them
        seen = places.SelfAttention(side, side.clone(), 8, (64, 64))
        memory.keep(number, maps.TokenMaps((), (), (), (), (), str(number), places=(seen, seen)))
        memory.find(0)
    assert memory.bytes <= cache.MOST_BYTES and list(memory.kept) == [1, 2, 3, 4, 0]
    memory.keep(5, torch.zeros(24 << 20))
    assert memory.bytes <= cache.MOST_BYTES and list(memory.kept) == [3, 4, 0, 5]
