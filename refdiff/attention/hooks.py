"""The cross-attentions of a diffusers UNet, found and watched.

Nothing of the UNet is replaced: while it runs, hooks on the wanted layers' query and key
projections see what these give to the attention, whichever processor computes it. Where the heads'
outputs are wanted one by one, hooks on the output's projection make the answer of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .backend import AllSeen
from .capture import grid_of
from .heads import is_plain, products_of, projection_of
from .maps import AttentionRecorder, Grid
from .projections import Projections

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKING = threading.Lock()


@contextmanager
def alone(unet: nn.Module) -> Iterator[None]:
    """Wait until no other thread reads this UNet, then keep it to this one.

    ModelError when blocks of the UNet were replaced by something that remembers earlier pictures.
    """
    with _LOCKING:
        lock = _LOCKS.setdefault(getattr(unet, "_orig_mod", unet), threading.RLock())
    with lock:
        check_not_replaced(unet)
        yield


def check_not_replaced(unet: Any) -> None:
    """Raise ModelError when the forward of a block is not its own, as DeepCache leaves it.

    Such a block answers with what it computed of another picture, or not at all. Hooks of
    accelerate and diffusers, and compiled code, compute what the block does.
    """
    unet = getattr(unet, "_orig_mod", unet)
    blocks = [("mid_block", unet.mid_block)] if unet.mid_block is not None else []
    for path in ("down_blocks", "up_blocks"):
        blocks += [(f"{path}.{index}", block) for index, block in enumerate(getattr(unet, path))]
    for name, module in blocks:
        forward = vars(module).get("forward")
        known = hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook")
        own = getattr(forward, "__func__", None) is type(module).forward
        compiled = hasattr(forward, "_torchdynamo_orig_callable")
        if forward is not None and not (known or own or compiled):
            raise ModelError(
                f"The UNet's {name} has had its forward replaced, as DeepCache does; turn that off "
                "(DeepCacheSDHelper.disable) while words are read."
            )


@contextmanager
def recording(
    unet: nn.Module,
    recorder: AttentionRecorder,
    latent: Grid,
    stop: bool = False,
    adapters: bool = False,
) -> Iterator[None]:
    """Let `recorder` see the cross-attentions it wants while `unet` runs on a latent of this size.

    The UNet's answer does not change, except that IP-Adapters and perturbed attention (PAG) step
    aside; afterwards, also after an exception, everything on it is as it was. Raises ModelError
    from the run when a layer's queries do not fill its grid. stop: nothing runs after the last
    wanted layer has shown its queries and keys; the `with` block then ends there, without an
    answer of the UNet. adapters: leave them at work, for a UNet whose answer is wanted.
    """
    handles: list[Any] = []
    stop = stop and not any(hasattr(module, "_diffusers_hook") for module in unet.modules())
    try:
        for name, stride in layer_table(unet):
            grid = grid_of(latent, stride)
            if recorder.wants_places(name):
                before = unet.get_submodule(name.removesuffix("attn2") + "attn1")
                handles += _observe_places(name, before, recorder, grid, stop)
            if recorder.wants(name, grid):
                layer = unet.get_submodule(name)
                handles += _observe_words(name, layer, recorder, grid, stop, adapters)
        # compiled code would not see the hooks
        aside = nullcontext() if adapters else without_adapters(unet)
        with torch.compiler.set_stance("force_eager"), aside:
            yield
    except AllSeen as seen:
        _offload(unet, seen.layer)
    finally:
        for handle in handles:
            handle.remove()


def _observe_words(
    name: str,
    attention: Any,
    recorder: AttentionRecorder,
    grid: Grid,
    stop: bool,
    adapters: bool,
) -> list[Any]:
    """Hooks that bring one layer's queries and keys to the recorder."""

    def add(query: Tensor, key: Tensor, products: Tensor | None = None) -> None:
        recorder.add(name, query, key, attention.heads, grid, products)
        if stop and recorder.done:
            raise AllSeen(name)

    def add_valued(query: Tensor, key: Tensor, value: Tensor) -> None:
        weight = projection_of(attention.to_out[0], value)
        add(query, key, products_of(query, key, value, weight, attention.heads))

    if recorder.heads != "output":
        return Projections(name, attention, grid, add).hooks()
    if adapters or not is_plain(attention.to_out[0]):  # then more than the text may be answered
        return Projections(name, attention, grid, add_valued, until="value").hooks()
    return Projections(name, attention, grid, add, until="answer").hooks()


def _observe_places(
    name: str, attention: Any, recorder: AttentionRecorder, grid: Grid, stop: bool
) -> list[Any]:
    """Hooks that bring the self-attention just before a layer to the recorder."""

    def add(query: Tensor, key: Tensor) -> None:
        recorder.add_places(name, query, key, attention.heads, grid)
        if stop and recorder.done:
            raise AllSeen(name)

    return Projections(name, attention, grid, add).hooks()


def _offloading(unet: nn.Module, layer: str) -> list[Any]:
    """The layer and the modules around it, outermost first, that have a hook of accelerate."""
    parts = layer.split(".")
    around = [unet.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
    return [module for module in around if hasattr(module, "_hf_hook")]


def _offload(unet: nn.Module, layer: str) -> None:
    """What accelerate's hooks would have done at the end of the modules a pass was left inside."""
    for module in reversed(_offloading(unet, layer)):
        module._hf_hook.post_forward(module, ())


@contextmanager
def without_adapters(unet: Any) -> Iterator[None]:
    """Plain attention in the place of the processors that need more than picture and text.

    IP-Adapter's want another picture, those of perturbed attention (PAG) spoil half of the batch.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    unet = getattr(unet, "_orig_mod", unet)
    displaced = [
        (module, module.processor)
        for module in unet.modules()
        if type(getattr(module, "processor", None)).__name__.startswith(_ADAPTERS)
    ]
    projection = unet.encoder_hid_proj
    try:
        for attention, _ in displaced:
            attention.set_processor(AttnProcessor2_0())
        if unet.config.encoder_hid_dim_type == "ip_image_proj":
            unet.encoder_hid_proj = None
        yield
    finally:
        unet.encoder_hid_proj = projection
        for attention, processor in displaced:
            attention.set_processor(processor)


_ADAPTERS = ("IPAdapter", "PAG")


def keys_of(unet: Any, layer: str, text: Tensor) -> Tensor:
    """What a cross-attention makes of a text [R, T, C] without a pass of the UNet: [R, T, D]."""
    attention = unet.get_submodule(layer)
    weight = next(attention.to_k.parameters())
    away = _offloading(unet, layer) if weight.device.type == "meta" else []
    for module in away:
        module._hf_hook.pre_forward(module)
    try:
        text = text if away else text.to(weight.device)
        if attention.norm_cross:
            text = attention.norm_encoder_hidden_states(text)
        return attention.to_k(text)
    finally:
        for module in reversed(away):
            module._hf_hook.post_forward(module, ())


def layer_table(unet: Any) -> list[tuple[str, int]]:
    """Every cross-attention of a UNet2DConditionModel, in the order of its pass.

    (module path, stride): the stride is how many latent cells apart the layer's places are; a
    VAE's cell is 8 pixels, so stride 4 is 1/32 of the picture.
    """
    table: list[tuple[str, int]] = []
    stride = 1
    for index, block in enumerate(unet.down_blocks):
        table += [(name, stride) for name in _cross_attentions(f"down_blocks.{index}", block)]
        stride *= 2 if getattr(block, "downsamplers", None) else 1
    if unet.mid_block is not None:
        table += [(name, stride) for name in _cross_attentions("mid_block", unet.mid_block)]
    for index, block in enumerate(unet.up_blocks):
        table += [(name, stride) for name in _cross_attentions(f"up_blocks.{index}", block)]
        stride //= 2 if getattr(block, "upsamplers", None) else 1
    return table


def _cross_attentions(path: str, block: nn.Module) -> list[str]:
    return [
        f"{path}.{name}"
        for name, module in block.named_modules()
        if name.endswith(".attn2") and getattr(module, "is_cross_attention", False)
    ]


def check_all_seen(recorder: AttentionRecorder, shape: tuple[int, int]) -> None:
    """Raise ModelError when a layer was never seen, so that no map is missing unnoticed.

    shape: the rows and tokens that every layer must have been asked about.
    """
    missing = recorder.missing
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(missing) + len(recorder.maps)} cross-attentions were never "
            f"asked, first {missing[0]}; use attention processors that call the layer's own to_q "
            "and to_k."
        )
    for layer, seen in recorder.asked.items():
        if seen != shape:
            raise ModelError(
                f"{layer} was asked about {seen[0]} rows of {seen[1]} tokens, not {shape}; "
                "remove attention processors that change the batch or the text."
            )
