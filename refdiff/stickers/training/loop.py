"""One training loop for the three sticker models: resumes, averages, logs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import Progress, TextColumn
from torch import Tensor, nn

Losses = Mapping[str, Tensor]
"""The parts of a loss; the entry `loss` is what is minimised."""


@dataclass
class Loop:
    """Trains `module` by `step(generator) -> Losses` until `steps` are done.

    A checkpoint in `folder` (weights, their running mean, optimiser, step) is written every
    `save_minutes` and picked up by the next run; `folder/log.jsonl` gets one line per 25 steps.
    """

    module: nn.Module
    step: Callable[[torch.Generator], Losses]
    folder: Path
    steps: int
    rate: float = 1e-3
    warmup: int = 100
    averaging: float = 0.998
    save_minutes: float = 4.0
    weight_decay: float = 0.01
    mean: dict[str, Tensor] = field(default_factory=dict)
    done: int = 0

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        optimiser = self._optimiser()
        self._resume(optimiser)
        columns = (*Progress.get_default_columns(), TextColumn("{task.fields[note]}"))
        saved, sums, count = time.monotonic(), dict[str, float](), 0
        with Progress(*columns) as progress:
            task = progress.add_task(
                self.folder.name, total=self.steps, completed=self.done, note=""
            )
            while self.done < self.steps:
                losses, count = self._one(optimiser), count + 1
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value
                if self.done % 25 == 0:
                    note = {name: round(value / count, 4) for name, value in sums.items()}
                    self._log({"step": self.done, **note})
                    progress.update(task, completed=self.done, note=str(note))
                    sums, count = {}, 0
                if time.monotonic() - saved > 60 * self.save_minutes:
                    self._save(optimiser)
                    saved = time.monotonic()
        self._save(optimiser)

    def averaged(self) -> nn.Module:
        """The module with the running mean of its weights in place of the last ones."""
        self.module.load_state_dict(self.mean, strict=False)
        return self.module

    def _one(self, optimiser: torch.optim.Optimizer) -> dict[str, float]:
        for group in optimiser.param_groups:
            group["lr"] = self.rate * self._schedule()
        losses = self.step(torch.Generator().manual_seed(self.done))
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        optimiser.step()
        self.done += 1
        decay = min(self.averaging, self.done / (self.done + 10))
        for name, value in self._weights().items():
            self.mean.setdefault(name, value.detach().clone()).lerp_(value.detach(), 1 - decay)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _schedule(self) -> float:
        """Linear warm-up, then half a cosine down to a twentieth."""
        warm = min(1.0, (self.done + 1) / self.warmup)
        return warm * (0.525 + 0.475 * math.cos(math.pi * min(1.0, self.done / self.steps)))

    def _optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.module.parameters(),
            self.rate,
            betas=(0.9, 0.98),
            weight_decay=self.weight_decay,
            foreach=True,
        )

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    def _save(self, optimiser: torch.optim.Optimizer) -> None:
        state = {
            "module": self.module.state_dict(),
            "mean": self.mean,
            "optimiser": optimiser.state_dict(),
            "done": self.done,
        }
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def _resume(self, optimiser: torch.optim.Optimizer) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        self.mean, self.done = state["mean"], state["done"]

    def _log(self, line: dict[str, float]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
