"""One attention's projections, watched while a UNet runs: its queries, keys, values and answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import ModelError
from .heads import answer_by_heads
from .maps import Grid

Until = Literal["key", "value", "answer"]


class Projections:
    """Gives `add` what an attention's projections make: queries and keys.

    name: the attention's, for messages. grid: rows and columns of its places. until: "value" gives
    the values too, which come after both; "answer" what `answer_by_heads` tells of the heads, while
    it makes the layer's answer in the place of its output's product. Only the thread that made this
    is watched, since another may paint with the same UNet meanwhile.
    """

    def __init__(
        self, name: str, attention: Any, grid: Grid, add: Callable[..., None], until: Until = "key"
    ) -> None:
        self._name, self._attention, self._grid = name, attention, grid
        self._add, self._until = add, until
        self._reader = threading.get_ident()
        self._query: Tensor | None = None
        self._key: Tensor | None = None
        self._joined: Tensor | None = None

    def hooks(self) -> list[Any]:
        """Handles of the hooks, now in place; removing them ends the watching."""
        attention = self._attention
        handles = [
            self._hook(attention.to_q, self._see_query),
            self._hook(attention.to_k, self._see_key),
        ]
        if self._until == "value":
            handles.append(self._hook(attention.to_v, self._see_value))
        if self._until == "answer":
            last = attention.to_out[0]  # others' hooks see the whole input and the whole answer
            handles.append(last.register_forward_pre_hook(self._hold))
            handles.append(last.register_forward_hook(self._answer, prepend=True))
        if getattr(attention, "fused_projections", False):
            if attention.is_cross_attention:
                handles.append(self._hook(attention.to_kv, self._see_key_and_value))
            else:
                handles.append(self._hook(attention.to_qkv, self._see_all))
        return handles

    def _hook(self, projection: nn.Module, see: Callable[[Tensor], None]) -> Any:
        def seen(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if threading.get_ident() == self._reader:
                see(output)

        return projection.register_forward_hook(seen)

    def _see_query(self, query: Tensor) -> None:
        rows, columns = self._grid
        if query.shape[1] != rows * columns:
            raise ModelError(
                f"{self._name} asks from {query.shape[1]} places where {rows}x{columns} were "
                "expected; undo token merging, or whatever else changes the UNet's layers."
            )
        self._query = query

    def _see_key(self, key: Tensor) -> None:
        if self._query is None:
            return
        self._key = key
        if self._until == "key":
            self._add(*self._taken())

    def _see_value(self, value: Tensor) -> None:
        if self._until == "value" and self._key is not None:
            self._add(*self._taken(), value)

    def _see_key_and_value(self, both: Tensor) -> None:
        key, value = both.chunk(2, dim=-1)
        self._see_key(key)
        self._see_value(value)

    def _see_all(self, all_: Tensor) -> None:
        query, key, _ = all_.chunk(3, dim=-1)
        self._see_query(query)
        self._see_key(key)

    def _hold(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        if threading.get_ident() != self._reader or self._key is None:
            return None
        self._joined = inputs[0]
        return inputs[0][:, :0]  # so that nothing is computed twice

    def _answer(self, module: Any, _inputs: Any, _output: Tensor) -> Any:
        if threading.get_ident() != self._reader or self._joined is None:
            return None
        joined, self._joined = self._joined, None
        heads = self._attention.heads
        whole, products = answer_by_heads(joined, module.weight, module.bias, heads)
        self._add(*self._taken(), products)
        return whole

    def _taken(self) -> tuple[Tensor, Tensor]:
        """Query and key, which are then forgotten."""
        query, key = self._query, self._key
        assert query is not None and key is not None
        self._query = self._key = None
        return query, key
