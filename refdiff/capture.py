"""What every capture shares, whatever library holds the UNet: settings, picture size, padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal, Protocol

import torch
from PIL import Image
from torch import Tensor

from .attention import MODES, AttentionRecorder, Box, Grid, Mode, Span, TokenMaps, guide
from .noise import Schedule, View, mean_of_views, official_calls, one_call


@dataclass(frozen=True)
class CaptureSettings:
    """How a picture is shown to the UNet, and which of its attention is read."""

    timestep: int = 100  # t, in the model's training timesteps (0..999)
    seed: int = 0  # of the noise epsilon
    size: float = 1.0  # side of the square that has the picture's area, in native sides
    grids: int | tuple[int, ...] = 2  # how many from the coarsest on, or which (0 = coarsest)
    mode: Mode = "probabilities"  # a = softmax(Q K^T / sqrt(d)), its logarithm, or the logits
    guidance: float | None = None  # w of w * (cond - uncond) + uncond; logits only
    schedule: Literal["one", "official"] = "one"  # one call at t, or the authors' two DDIM steps
    pad: bool = False  # a centred black square instead of the picture's own aspect
    layers: Literal["all", "down"] = "all"  # "down": down path and middle only, the fast setting
    # whose queries: each sentence's own pass, or kept from one pass: of the first sentence read
    # over a picture, or of an empty one; the others then cost their text only (the OVAM idea)
    queries: Literal["own", "first", "empty"] = "own"
    seeds: int = 1  # noises averaged: seed, seed + 1, ...
    timesteps: tuple[int, ...] = ()  # averaged; empty: timestep alone
    flip: bool = False  # averaged with the mirrored picture
    clip_skip: int = 0  # layers left out at the end of the text encoder

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; choose one of {', '.join(MODES)}.")
        if self.guidance is not None and self.mode != "logits":
            raise ValueError(f"guidance combines logits, not {self.mode}; set mode='logits'.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}."
                )
        if self.timesteps and self.schedule == "official":
            raise ValueError(f"timesteps is {self.timesteps}; the official schedule has its own.")
        if self.seeds < 1 or self.clip_skip < 0:
            raise ValueError(
                f"seeds is {self.seeds} and clip_skip {self.clip_skip}; wanted >= 1 and >= 0."
            )
        if not 0 < self.size <= 16:
            raise ValueError(f"size is {self.size}; give native sides, above 0 and at most 16.")
        if not self.grids or (isinstance(self.grids, int) and self.grids < 0):
            raise ValueError(f"grids is {self.grids!r}; give how many (>= 1) or which (0, 1, ...).")

    @classmethod
    def official(cls) -> CaptureSettings:
        """The authors' code: second coarsest grid, guided logits, two DDIM steps, 2x native."""
        return cls(size=2.0, grids=(1,), mode="logits", guidance=9.0, schedule="official", pad=True)

    @property
    def halves(self) -> int:
        """2 where guidance puts an empty companion before each sentence, else 1."""
        return 1 if self.guidance is None else 2

    def plan(self, train_timesteps: int) -> Schedule:
        """The noise level and the UNet calls for a model with that many timesteps."""
        return self.views(train_timesteps)[0].schedule

    def views(self, train_timesteps: int) -> tuple[View, ...]:
        """Everything whose maps are averaged, as rows of the same UNet calls."""
        if self.schedule == "official":
            plans = [official_calls(train_timesteps)]
        else:
            plans = [one_call(timestep) for timestep in self.timesteps or (self.timestep,)]
        for plan in plans:
            if not 0 <= plan.noised < train_timesteps:
                raise ValueError(
                    f"timestep is {plan.noised}; the model knows 0 to {train_timesteps - 1}."
                )
        seeds = range(self.seed, self.seed + self.seeds)
        turns = (False, True) if self.flip else (False,)
        return tuple(View(seed, plan, flip) for seed in seeds for plan in plans for flip in turns)


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """A picture as the UNet will see it; made once, read with any number of prompts.

    latent: [1, C, h, w] float32 on the CPU, scaled, without noise. size: (height, width) of the
    picture. content: the part of the latent that shows it, as in TokenMaps.
    """

    latent: Tensor
    size: tuple[int, int]
    content: Box | None = None


_CHOICES = {
    "schedule": ("one", "official"),
    "layers": ("all", "down"),
    "queries": ("own", "first", "empty"),
}


class Capture(Protocol):
    """A picture and sentences in, the maps of the sentences' tokens out."""

    def using(self, settings: CaptureSettings) -> Capture:
        """The same model under other settings."""
        ...

    def encode(self, image: Image.Image) -> EncodedPicture:
        """The share of the work that does not depend on the sentence."""
        ...

    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of each sentence."""
        ...


def working_size(size: Grid, native: int, multiple: int) -> Grid:
    """The (height, width) nearest to a picture's own aspect with the area of native x native.

    Sides are whole multiples and at least one of them; a picture too long for that keeps the
    area and loses aspect.
    """
    height, width = size
    longest = native * native / multiple
    fitted = [min(native * sqrt(ratio), longest) for ratio in (height / width, width / height)]
    tall, wide = (max(1, round(side / multiple)) * multiple for side in fitted)
    return tall, wide


def fit(
    image: Image.Image, native: int, multiple: int, pad: bool = False
) -> tuple[Image.Image, Box | None]:
    """The picture as RGB at its working size, and its content box (None: all of it).

    pad: on a centred black square, resized as one with LANCZOS (the authors' way).
    """
    image = image.convert("RGB")
    if not pad:
        height, width = working_size((image.height, image.width), native, multiple)
        return image.resize((width, height), Image.Resampling.LANCZOS), None
    scale = native / max(image.size)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (native - inner[0]) // 2, (native - inner[1]) // 2
    square = Image.new("RGB", (native, native))
    square.paste(image.resize(inner, Image.Resampling.LANCZOS), (left, top))
    return square, (top / native, left / native, inner[1] / native, inner[0] / native)


def grid_of(latent: Grid, stride: int) -> Grid:
    """The grid of a layer whose places are `stride` latent cells apart; odd sides round up."""
    return ceil(latent[0] / stride), ceil(latent[1] / stride)


def choose_layers(
    table: Sequence[tuple[str, int]], grids: int | tuple[int, ...]
) -> tuple[str, ...]:
    """The names of the layers at the asked grids, counted from the coarse end.

    table: (name, stride) of every cross-attention. A model with fewer grids gives those it has.
    """
    strides = sorted({stride for _, stride in table}, reverse=True)
    asked = range(grids) if isinstance(grids, int) else grids
    chosen = {strides[rank] for rank in asked if 0 <= rank < len(strides)}
    if not chosen:
        raise ValueError(f"grids is {grids!r}; the model has {len(strides)}, 0 is the coarsest.")
    return tuple(name for name, stride in table if stride in chosen)


def asked_layers(
    table: Sequence[tuple[str, int]], settings: CaptureSettings, up: str
) -> tuple[str, ...]:
    """The layers that the settings ask for. up: how the names on the way up begin."""
    chosen = choose_layers(table, settings.grids)
    if settings.layers == "down":
        chosen = tuple(name for name in chosen if not name.startswith(up))
    if not chosen:
        raise ValueError(f"grids {settings.grids!r} have no layer on the way down; widen them.")
    return chosen


def rows_of(
    recorder: AttentionRecorder, guidance: float | None, label: str = ""
) -> dict[str, Tensor]:
    """One run's maps on the CPU, one row per prompt; with guidance, its first half is uncond."""
    found: Mapping[str, Tensor] = recorder.maps
    if guidance is not None:
        halves = {name: maps.chunk(2) for name, maps in found.items()}
        found = {name: guide(cond, uncond, guidance) for name, (uncond, cond) in halves.items()}
    return {name + label: maps.cpu() for name, maps in found.items()}


def gathered(
    recorder: AttentionRecorder, settings: CaptureSettings, views: Sequence[View], call: int
) -> dict[str, Tensor]:
    """One call's maps, guided and averaged over the views, on the CPU: [P, T, h, w] per layer."""
    calls = views[0].schedule.calls
    label = f"@{calls[call]}" if len(calls) > 1 else ""
    found = rows_of(recorder, settings.guidance, label)
    return {name: mean_of_views(rows, views) for name, rows in found.items()}


def answer(
    maps: Mapping[str, Tensor],
    columns: Sequence[int],
    tokens: Sequence[str],
    spans: Sequence[Span],
    prompt: str,
    mode: Mode,
    content: Box | None = None,
) -> TokenMaps:
    """One sentence's answer: of the columns kept, maps [K, h, w], those that cover its words.

    tokens, spans: of every column; those beyond the prompt, of a suffix, cover nothing of it.
    """
    own = [k for k, at in enumerate(columns) if (span := spans[at]) and span[0] < len(prompt)]
    return TokenMaps(
        maps=tuple(layer[own] for layer in maps.values()),
        layers=tuple(maps),
        tokens=tuple(tokens[columns[k]] for k in own),
        spans=tuple(spans[columns[k]] for k in own),
        text=prompt,
        mode=mode,
        content=content,
    )


def per_view(rows: Tensor, halves: int, views: int) -> Tensor:
    """One row per half and sentence to one per half, view and sentence."""
    return torch.cat([half for half in rows.chunk(halves) for _ in range(views)])


def guided(output: Tensor, guidance: float | None) -> Tensor:
    """The UNet's answer for each row, its unconditional rows (the first half) mixed in."""
    if guidance is None:
        return output
    uncond, cond = output.chunk(2)
    return guide(cond, uncond, guidance).repeat(2, 1, 1, 1)
