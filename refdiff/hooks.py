"""The cross-attentions of a diffusers UNet, found and watched.

Nothing of the UNet is replaced: while it runs, hooks on the wanted layers' query and key
projections see what these give to the attention, whichever processor computes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .attention import AttentionRecorder, Grid
from .capture import grid_of
from .errors import ModelError


class _AllSeen(BaseException):
    """Leaves a pass of the UNet; no handler of errors on the way may keep it."""

    def __init__(self, layer: str) -> None:
        self.layer = layer


@contextmanager
def recording(
    unet: nn.Module, recorder: AttentionRecorder, latent: Grid, stop: bool = False
) -> Iterator[None]:
    """Let `recorder` see the cross-attentions it wants while `unet` runs on a latent of this size.

    The UNet's answer does not change, except that IP-Adapters and perturbed attention (PAG) step
    aside; afterwards, also after an exception, everything on it is as it was. Raises ModelError
    from the run when a layer's queries do not fill its grid. stop: nothing runs after the last
    wanted layer has shown its queries and keys; the `with` block then ends there, without an
    answer of the UNet.
    """
    handles: list[Any] = []
    stop = stop and not any(hasattr(module, "_diffusers_hook") for module in unet.modules())
    try:
        for name, stride in layer_table(unet):
            grid = grid_of(latent, stride)
            if recorder.wants(name, grid):
                handles += _observe(name, unet.get_submodule(name), recorder, grid, stop)
        # compiled code would not see the hooks
        with torch.compiler.set_stance("force_eager"), without_adapters(unet):
            yield
    except _AllSeen as seen:
        _offload(unet, seen.layer)
    finally:
        for handle in handles:
            handle.remove()


def _observe(
    name: str, attention: Any, recorder: AttentionRecorder, grid: Grid, stop: bool
) -> list[Any]:
    """Hooks that bring one layer's queries and keys to the recorder."""
    queries: list[Tensor] = []

    def keep_query(_module: nn.Module, _inputs: Any, query: Tensor) -> None:
        if query.shape[1] != grid[0] * grid[1]:
            raise ModelError(
                f"{name} asks from {query.shape[1]} places where {grid[0]}x{grid[1]} were "
                "expected; undo token merging, or whatever else changes the UNet's layers."
            )
        queries[:] = [query]

    def add_key(module: nn.Module, _inputs: Any, key: Tensor) -> None:
        if not queries:
            return
        key = key if module is attention.to_k else key.chunk(2, dim=-1)[0]
        recorder.add(name, queries.pop(), key, attention.heads, grid)
        if stop and recorder.done:
            raise _AllSeen(name)

    fused = [attention.to_kv] if getattr(attention, "fused_projections", False) else []
    return [
        attention.to_q.register_forward_hook(keep_query),
        *(keys.register_forward_hook(add_key) for keys in (attention.to_k, *fused)),
    ]


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


def check_all_seen(
    recorder: AttentionRecorder, layers: Sequence[str], shape: tuple[int, int] | None = None
) -> None:
    """Raise ModelError when a layer was never seen, so that no map is missing unnoticed.

    shape: the rows and tokens that every layer must have been asked about.
    """
    missing = [layer for layer in layers if layer not in recorder.maps]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(layers)} cross-attentions were never asked, first "
            f"{missing[0]}; use attention processors that call the layer's own to_q and to_k."
        )
    for layer in layers if shape else ():
        seen = recorder.asked[layer]
        if seen != shape:
            raise ModelError(
                f"{layer} was asked about {seen[0]} rows of {seen[1]} tokens, not {shape}; "
                "remove attention processors that change the batch or the text."
            )
