"""The capture beside other processors and patches: seen through, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
    PAGIdentitySelfAttnProcessor2_0,
    SlicedAttnProcessor,
)
from peft import LoraConfig
from torch import Tensor
from torch.nn import functional

from refdiff.attention.capture import EncodedPicture
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.maps import TokenMaps
from refdiff.benchmark.random_models import random_pipeline
from refdiff.errors import ModelError

PROJECTIONS = ["to_q", "to_k", "to_out.0"]
CHANGES = [{}, {"strides": None, "queries": "first"}]


@pytest.fixture
def pipe() -> Any:
    return random_pipeline(tiny=True)


@pytest.fixture(scope="module")
def picture() -> EncodedPicture:
    generator = torch.Generator().manual_seed(6)
    return EncodedPicture(torch.randn(1, 4, 8, 8, generator=generator), (64, 64))


class InBatches:
    """The layout of xformers' processor: heads in the batch, queries a few at a time."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_named: Any
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(part).contiguous()
            for part in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        )
        parts = [
            functional.scaled_dot_product_attention(part, key, value) for part in query.split(7, 1)
        ]
        return attn.to_out[0](attn.batch_to_head_dim(torch.cat(parts, 1)))


def sliced(pipe: Any) -> None:
    pipe.unet.set_attn_processor(SlicedAttnProcessor(1))


def xformers_style(pipe: Any) -> None:
    pipe.unet.set_attn_processor(InBatches())


def fused(pipe: Any) -> None:
    pipe.fuse_qkv_projections(vae=False)


def fused_and_back(pipe: Any) -> None:
    pipe.fuse_qkv_projections(vae=False)
    pipe.unet.set_attn_processor(AttnProcessor())


def perturbed(pipe: Any) -> None:
    kinds = PAGCFGIdentitySelfAttnProcessor2_0(), PAGIdentitySelfAttnProcessor2_0()
    chosen = {
        name: kinds[index % 2] if name.endswith("attn1.processor") else AttnProcessor2_0()
        for index, name in enumerate(pipe.unet.attn_processors)
    }
    pipe.unet.set_attn_processor(chosen)


def ip_adapter(pipe: Any) -> None:
    unet, weights = pipe.unet, {}
    for index, name in enumerate(n for n in unet.attn_processors if n.endswith("attn2.processor")):
        rows = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        weights[f"{2 * index + 1}.to_k_ip.weight"] = torch.randn(rows)
        weights[f"{2 * index + 1}.to_v_ip.weight"] = torch.randn(rows)
    image = {"proj.weight": torch.randn(4 * 32, 16), "proj.bias": torch.zeros(4 * 32)}
    image |= {"norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)}
    unet._load_ip_adapter_weights([{"image_proj": image, "ip_adapter": weights}])
    assert any(isinstance(p, IPAdapterAttnProcessor2_0) for p in unet.attn_processors.values())


def state_of(pipe: Any) -> dict[str, Any]:
    """All that a capture could leave changed: processors, weights, hooks, forwards, settings."""
    unet = pipe.unet
    state: dict[str, Any] = {f"processor {n}": id(p) for n, p in unet.attn_processors.items()}
    state |= {f"weight {n}": (v.data_ptr(), v._version) for n, v in unet.named_parameters()}
    for name, module in unet.named_modules():
        state[f"module {name}"] = id(module)
        state[f"hooks {name}"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
        state[f"forward {name}"] = id(module.__dict__.get("forward"))
    state["keys"] = list(unet.state_dict())
    state["config"] = dict(unet.config)
    return state


def read(pipe: Any, picture: EncodedPicture, **changes: Any) -> list[TokenMaps]:
    capture = DiffusersCapture(pipe, **changes)
    return capture.read(picture, ["a red cat", "the dog on the left"])


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize(
    "install", [sliced, xformers_style, fused, fused_and_back, perturbed, ip_adapter]
)
def test_processors_are_seen_through_and_stay(
    tiny_pipe: Any,
    pipe: Any,
    picture: EncodedPicture,
    install: Callable[[Any], None],
    changes: dict[str, Any],
) -> None:
    install(pipe)
    before = state_of(pipe)
    found = read(pipe, picture, **changes)
    assert state_of(pipe) == before
    for a, b in zip(found, read(tiny_pipe, picture, **changes), strict=True):
        assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a.maps, b.maps, strict=True))


def test_adapters_return_after_an_exception_too(pipe: Any, picture: EncodedPicture) -> None:
    ip_adapter(pipe)
    before = state_of(pipe)

    def broken(*_inputs: Any) -> None:
        raise KeyboardInterrupt

    handle = pipe.unet.mid_block.register_forward_hook(broken)
    with pytest.raises(KeyboardInterrupt):
        read(pipe, picture)
    handle.remove()
    assert state_of(pipe) == before


def test_freeu_acts_on_what_is_read(tiny_pipe: Any, pipe: Any, picture: EncodedPicture) -> None:
    pipe.enable_freeu(s1=0.5, s2=0.4, b1=1.5, b2=1.6)
    before = state_of(pipe)
    found = DiffusersCapture(pipe, strides=None)(picture, "a red cat")
    assert state_of(pipe) == before and pipe.unet.up_blocks[0].b1 == 1.5
    plain = DiffusersCapture(tiny_pipe, strides=None)(picture, "a red cat")
    for name, acted, without in zip(found.layers, found.maps, plain.maps, strict=True):
        assert torch.allclose(acted, without, atol=1e-6) != name.startswith("up_blocks")


def test_token_merging_is_named(pipe: Any, picture: EncodedPicture) -> None:
    attention = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    inner = attention.forward

    def merged(hidden_states: Tensor, *args: Any, **named: Any) -> Tensor:
        return inner(hidden_states[:, ::2], *args, **named).repeat_interleave(2, 1)

    attention.forward = merged
    before = state_of(pipe)
    with pytest.raises(ModelError, match=r"asks from 32 places where 8x8 .* undo token merging"):
        read(pipe, picture, strides=None)
    assert state_of(pipe) == before and attention.forward is merged
    assert read(pipe, picture, strides=(32,))  # layers that nobody merged


class Uncalled:
    """A processor that goes round the layer's own projections."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_args: Any, **_named: Any) -> Tensor:
        return functional.linear(hidden_states, attn.to_q.weight)


class Cropped(AttnProcessor):
    """A processor that keeps the last four tokens of the text for something else."""

    def __call__(
        self, attn: Any, x: Tensor, encoder_hidden_states: Any = None, **named: Any
    ) -> Any:
        text = None if encoder_hidden_states is None else encoder_hidden_states[:, :-4]
        return super().__call__(attn, x, text, **named)


@pytest.mark.parametrize(
    ("processor", "sentence"),
    [
        (Uncalled(), "never asked, .* use attention processors that call"),
        (Cropped(), r"about 2 rows of 73 tokens, not \(2, 77\); remove attention processors"),
    ],
)
def test_what_cannot_be_seen_through_is_said(
    pipe: Any, picture: EncodedPicture, processor: Any, sentence: str
) -> None:
    pipe.unet.set_attn_processor(processor)
    before = state_of(pipe)
    with pytest.raises(ModelError, match=sentence):
        read(pipe, picture)
    assert state_of(pipe) == before


@pytest.mark.parametrize("changes", [*CHANGES, {"heads": "output"}])
def test_lora_acts_on_what_is_read(
    tiny_pipe: Any, pipe: Any, picture: EncodedPicture, changes: dict[str, Any]
) -> None:
    config = LoraConfig(r=2, target_modules=PROJECTIONS, init_lora_weights=False)
    torch.manual_seed(8)
    pipe.unet.add_adapter(config)
    before = state_of(pipe)
    adapted = read(pipe, picture, **changes)
    assert state_of(pipe) == before
    pipe.unet.fuse_lora()
    for merged, a, b in zip(
        read(pipe, picture, **changes), adapted, read(tiny_pipe, picture, **changes), strict=True
    ):
        assert all(
            torch.allclose(x, y, atol=1e-4) for x, y in zip(merged.maps, a.maps, strict=True)
        )
        assert not any(torch.allclose(x, y, atol=1e-4) for x, y in zip(a.maps, b.maps, strict=True))


@pytest.mark.parametrize("wrap", [lambda unet: torch.compile(unet, backend="eager"), None])
def test_a_compiled_unet_is_seen_through(
    tiny_pipe: Any, pipe: Any, picture: EncodedPicture, wrap: Any
) -> None:
    if wrap:
        pipe.unet = wrap(pipe.unet)
    else:
        pipe.unet.compile(backend="eager")
    found = read(pipe, picture)
    for a, b in zip(found, read(tiny_pipe, picture), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.maps, b.maps, strict=True))


def test_a_unet_that_wants_more_than_text_is_refused(pipe: Any) -> None:
    pipe.unet.register_to_config(encoder_hid_dim_type="image_proj")
    with pytest.raises(ModelError, match="inputs beyond picture and text"):
        DiffusersCapture(pipe)
    other = random_pipeline(tiny=True)
    other.text_encoder = None
    with pytest.raises(ModelError, match="lacks its text_encoder"):
        DiffusersCapture(other)
