"""Stopwatches: actions in turn, the networks inside an action, and its floating-point operations.

Every stopwatch waits for the device to finish. Seconds are wall-clock seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def now(device: torch.device) -> float:
    """The time, once the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """How long one call takes."""
    start = now(device)
    action()
    return now(device) - start


def interleaved(actions: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """What each action says it took, `runs` times; one after the other, first in each turn another.

    Whatever slows the machine for a while then slows all of them.
    """
    names = list(actions)
    found: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs):
        first = run % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(actions[name]())
    return found


def ratio(found: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """The median over the turns of one action's seconds by another's."""
    return median(a / b for a, b in zip(found[name], found[base], strict=True))


@contextmanager
def clocked(
    networks: Mapping[str, Sequence[nn.Module]], device: torch.device
) -> Iterator[dict[str, float]]:
    """Seconds spent inside each network while the block runs; a module's own modules count once.

    Networks whose pass is broken off cannot be clocked.
    """
    watches = {name: _Watch(device) for name in networks}
    spent = dict.fromkeys(networks, 0.0)
    handles = []
    try:
        for name, parts in networks.items():
            for module in (module for part in parts for module in part.modules()):
                handles.append(module.register_forward_pre_hook(watches[name].enter))
                handles.append(module.register_forward_hook(watches[name].leave))
        yield spent
    finally:
        for handle in handles:
            handle.remove()
        spent |= {name: watch.total for name, watch in watches.items()}


class _Watch:
    """Runs while at least one of its modules does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._depth = 0
        self._start = 0.0
        self.total = 0.0

    def enter(self, _module: nn.Module, _inputs: Any) -> None:
        if self._depth == 0:
            self._start = now(self._device)
        self._depth += 1

    def leave(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.total += now(self._device) - self._start


def flops(action: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one call."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # unknown to the counter
    with FlopCounterMode(display=False, custom_mapping={on_cpu: _attention_flops}) as counter:
        action()
    return counter.get_total_flops()


def _attention_flops(query: Any, key: Any, value: Any, *_args: Any, **_named: Any) -> int:
    """Of one call, from the shapes."""
    return sdpa_flop_count(query, key, value)
