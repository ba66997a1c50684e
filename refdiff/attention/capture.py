"""What everything that reads attention shares: settings, a picture's size, the answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal, Protocol, get_args

from PIL import Image
from torch import Tensor

from ..families import Family
from .maps import MODES, Box, Grid, Heads, Mode, Span, TokenMaps
from .noise import View, official_calls, one_call
from .propagate import SelfAttention


@dataclass(frozen=True)
class CaptureSettings:
    """How a picture is shown to the UNet, and which of its attention is read."""

    timestep: int = 100  # t, in the model's training timesteps (0..999)
    seed: int = 0  # of the noise epsilon
    size: float = 1.0  # side of the square that has the picture's area, in native sides
    # pixels between a layer's places in the picture as the UNet sees it; None: every layer
    strides: tuple[int, ...] | None = None
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
    # pixels between the places whose self-attention is kept to spread heat along; None: none
    places: int | None = None
    # which of the layers there, counted in the order of a pass from 0; None: every one
    places_at: tuple[int, ...] | None = None
    # "output": by what each head says of the layer's answer (GoCA), of probabilities of a
    # sentence's own pass; with kept queries and logits the mean all the same
    heads: Heads = "mean"
    # (stride, which of the layers there, from 0): layers weigh by how far their self-attention
    # links the places that are alike to this one (GoCA); None: all weigh the same
    reference: tuple[int, int] | None = None
    background: str = ""  # read behind each text, for the background to have words of its own

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
        if self.strides is not None and not all(stride > 0 for stride in self.strides or (0,)):
            raise ValueError(f"strides is {self.strides}; give pixels such as (32, 16), or None.")

    @classmethod
    def official(cls) -> CaptureSettings:
        """The authors' code: 1/32 of the picture, guided logits, two DDIM steps, 2x native."""
        return cls(
            size=2.0, strides=(32,), mode="logits", guidance=9.0, schedule="official", pad=True
        )

    @property
    def halves(self) -> int:
        """2 where guidance puts an empty companion before each sentence, else 1."""
        return 1 if self.guidance is None else 2

    def views(self, train_timesteps: int) -> tuple[View, ...]:
        """Everything whose maps are averaged, as rows of the same calls of the model."""
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
    """A picture as the model will see it; made once, read with any number of prompts.

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
    "heads": get_args(Heads),
}


class Capture(Protocol):
    """A picture and sentences in, the maps of the sentences' tokens out."""

    @property
    def family(self) -> Family:
        """The kind of model; see `families`."""
        ...

    def using(self, settings: CaptureSettings) -> Capture:
        """The same model under other settings."""
        ...

    def encode(self, image: Image.Image) -> EncodedPicture:
        """The share of the work that does not depend on the sentence."""
        ...

    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of each sentence."""
        ...


def unet_size(size: Grid, native: int, multiple: int) -> Grid:
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
        height, width = unet_size((image.height, image.width), native, multiple)
        return image.resize((width, height), Image.Resampling.LANCZOS), None
    side = max(image.size)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    square = Image.new("RGB", (side, side))
    square.paste(image, (left, top))
    content = (top / side, left / side, image.height / side, image.width / side)
    return square.resize((native, native), Image.Resampling.LANCZOS), content


def grid_of(latent: Grid, stride: int) -> Grid:
    """The grid of a layer whose places are `stride` latent cells apart; odd sides round up."""
    return ceil(latent[0] / stride), ceil(latent[1] / stride)


def choose_layers(strides: Mapping[str, int], wanted: Sequence[int] | None) -> dict[str, int]:
    """The layers at the wanted strides, with their strides; None keeps them all.

    strides: of every cross-attention, in pixels of the picture as the UNet sees it. A model that
    lacks some of the wanted strides gives those it has; ValueError where it has none of them.
    """
    chosen = {name: s for name, s in strides.items() if wanted is None or s in wanted}
    if not chosen:
        known = ", ".join(f"1/{stride}" for stride in sorted(set(strides.values()), reverse=True))
        raise ValueError(
            f"strides is {tuple(wanted or ())}, and the model attends to words at {known} of the "
            "picture; ask for some of these."
        )
    return chosen


def asked_layers(
    strides: Mapping[str, int], settings: CaptureSettings, up: str | None
) -> dict[str, int]:
    """The layers that the settings ask for. up: how the names on the way up begin, if any do."""
    chosen = choose_layers(strides, settings.strides)
    if settings.layers == "down" and up is not None:
        chosen = {name: stride for name, stride in chosen.items() if not name.startswith(up)}
    if not chosen:
        raise ValueError(f"strides {settings.strides} have no layer on the way down; add some.")
    return chosen


def asked_places(
    strides: Mapping[str, int], settings: CaptureSettings, up: str | None
) -> tuple[str, ...]:
    """The layers beside which self-attention is kept; ValueError where the model has none of them.

    strides: of every cross-attention in the order of a pass, in pixels. A model that lacks some of
    those that are asked for, as distilled ones do, gives those it has; layers="down" leaves out
    those on the way up. up: how the names there begin.
    """
    if settings.places is None:
        return ()
    there = [name for name, stride in strides.items() if stride == settings.places]
    at = range(len(there)) if settings.places_at is None else settings.places_at
    found = tuple(there[index] for index in at if 0 <= index < len(there))
    if not found:
        counts = {stride: list(strides.values()).count(stride) for stride in strides.values()}
        known = ", ".join(f"{count} of {stride} pixels" for stride, count in counts.items())
        raise ValueError(
            f"places is {settings.places} and places_at {settings.places_at}; the model looks at "
            f"itself in {known}."
        )
    if settings.layers == "down" and up is not None:
        found = tuple(name for name in found if not name.startswith(up))
    return found


def asked_reference(
    strides: Mapping[str, int], settings: CaptureSettings, read: Collection[str]
) -> str | None:
    """The layer that the others are weighed by; ValueError where it is none of those read.

    strides: of every cross-attention in the order of a pass, in pixels.
    """
    if settings.reference is None:
        return None
    stride, which = settings.reference
    there = [name for name, own in strides.items() if own == stride]
    if not 0 <= which < len(there) or there[which] not in read:
        numbers = [index for index, name in enumerate(there) if name in read]
        raise ValueError(
            f"reference is {settings.reference}; of the layers {stride} pixels apart "
            f"{', '.join(map(str, numbers)) or 'none'} can be named, as read with these settings."
        )
    return there[which]


def prompt_maps(
    maps: Mapping[str, Tensor],
    strides: Mapping[str, int],
    columns: Sequence[int],
    tokens: Sequence[str],
    spans: Sequence[Span],
    prompt: str,
    mode: Mode,
    content: Box | None = None,
    places: Sequence[SelfAttention] = (),
    background: bool = False,
    weights: Mapping[str, float] | None = None,
) -> TokenMaps:
    """One sentence's answer: of the columns kept, maps [K, h, w], those that cover its words.

    maps: by layer, and by call where there are several ("layer@51"). strides, weights: of layers.
    tokens, spans: of every column; those beyond the prompt, of a suffix, cover nothing of it, and
    are kept where they are the background's.
    """
    most = float("inf") if background else len(prompt)
    own = [k for k, at in enumerate(columns) if (span := spans[at]) and span[0] < most]
    layers = [name.partition("@")[0] for name in maps]
    return TokenMaps(
        maps=tuple(layer[own] for layer in maps.values()),
        layers=tuple(maps),
        strides=tuple(strides[layer] for layer in layers),
        tokens=tuple(tokens[columns[k]] for k in own),
        spans=tuple(spans[columns[k]] for k in own),
        text=prompt,
        mode=mode,
        content=content,
        places=tuple(places),
        layer_weights=None if weights is None else tuple(weights[layer] for layer in layers),
    )
