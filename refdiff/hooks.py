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


@contextmanager
def recording(unet: nn.Module, recorder: AttentionRecorder, latent: Grid) -> Iterator[None]:
    """Let `recorder` see the cross-attentions it wants while `unet` runs on a latent of this size.

    The UNet's answer does not change, and afterwards, also after an exception, nothing is left on
    it. Raises ModelError from the run when a layer's queries do not fill its grid.
    """
    handles: list[Any] = []
    try:
        for name, stride in layer_table(unet):
            grid = grid_of(latent, stride)
            if recorder.wants(name, grid):
                handles += _observe(name, unet.get_submodule(name), recorder, grid)
        with torch.compiler.set_stance("force_eager"):  # compiled code would not see the hooks
            yield
    finally:
        for handle in handles:
            handle.remove()


def _observe(name: str, attention: Any, recorder: AttentionRecorder, grid: Grid) -> list[Any]:
    """Hooks that bring one layer's queries and keys to the recorder."""
    fused = getattr(attention, "fused_projections", False)
    queries: list[Tensor] = []

    def keep_query(_module: nn.Module, _inputs: Any, query: Tensor) -> None:
        if query.shape[1] != grid[0] * grid[1]:
            raise ModelError(
                f"{name} asks from {query.shape[1]} places where {grid[0]}x{grid[1]} were "
                "expected; undo token merging, or whatever else changes the UNet's layers."
            )
        queries[:] = [query]

    def add_key(_module: nn.Module, _inputs: Any, key: Tensor) -> None:
        key = key.chunk(2, dim=-1)[0] if fused else key
        if queries:
            recorder.add(name, queries.pop(), key, attention.heads, grid)

    keys = attention.to_kv if fused else attention.to_k
    return [
        attention.to_q.register_forward_hook(keep_query),
        keys.register_forward_hook(add_key),
    ]


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


def check_all_seen(recorder: AttentionRecorder, layers: Sequence[str]) -> None:
    """Raise ModelError when a layer was never seen, so that no map is missing unnoticed."""
    missing = [layer for layer in layers if layer not in recorder.maps]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(layers)} cross-attentions were never asked, first "
            f"{missing[0]}; use attention processors that call the layer's own to_q and to_k."
        )
