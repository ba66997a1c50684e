"""A picture looked at once and asked under many settings: attention and CLIP are remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..attention.capture import Capture, CaptureSettings, EncodedPicture
from ..attention.maps import TokenMaps
from ..attention.propagate import SelfAttention
from ..errors import WordError
from ..expression import Expression, parse
from ..families import Family
from ..masks.rle import empty, encode
from ..pipeline import Look
from ..scoring.clip import ClipScorer
from ..settings import Settings
from ..steps import read_heat, read_regions
from .datasets.items import Item
from .predictions import Prediction

KEPT = 2  # ways of asking the UNet, and of making heat, that are kept: the present one and another


class Studied:
    """One picture and its sentences, read once for each way in which the UNet is asked.

    What is kept is small: not the self-attention that heat is spread along (tens of MB for each
    sentence), but the heat it led to; another way of making heat reads a sentence once more.
    """

    def __init__(
        self,
        picture: Image.Image,
        items: Sequence[Item],
        capture: Capture,
        clip: ClipScorer | None,
    ) -> None:
        self.items = tuple(items)
        self._picture = picture
        self._capture = capture
        self._kept: dict[CaptureSettings, _Kept] = {}
        self._clip: Any = None if clip is None else RememberedClip(clip)
        self._read = [_read(item.text) for item in items]

    def answers(self, settings: Settings) -> list[Prediction]:
        """The masks of all sentences; the UNet is run only where nothing kept answers."""
        kept = _latest(self._kept, settings.capture, lambda: _Kept(self._capture, settings.capture))
        look = _Look(self._picture, kept, self._clip, settings)
        try:
            return [
                _answer(look, item, expression)
                for item, expression in zip(self.items, self._read, strict=True)
            ]
        finally:
            kept.places = None


class _Kept:
    """A capture that keeps the maps of one picture's sentences, and heat that was spread."""

    def __init__(self, capture: Capture, settings: CaptureSettings) -> None:
        self._capture = capture.using(settings)
        self._encoded: EncodedPicture | None = None
        self._maps: dict[str, TokenMaps] = {}
        self._heats: dict[Hashable, dict[Hashable, Tensor]] = {}
        self._regions: dict[str, Tensor | None] = {}
        # of the sentence read last
        self.places: tuple[str, tuple[SelfAttention, ...]] | None = None

    @property
    def family(self) -> Family:
        return self._capture.family

    def using(self, settings: CaptureSettings) -> _Kept:
        return self

    def encode(self, image: Image.Image) -> EncodedPicture:
        if self._encoded is None:
            self._encoded = self._capture.encode(image)
        return self._encoded

    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        for prompt in prompts:
            if prompt not in self._maps:
                self._maps[prompt] = replace(self._whole(picture, prompt), places=())
        return [self._maps[prompt] for prompt in prompts]

    def _whole(self, picture: EncodedPicture, prompt: str) -> TokenMaps:
        (maps,) = self._capture.read(picture, [prompt])
        self.places = (prompt, maps.places)
        return maps

    def spread(
        self, maps: TokenMaps, columns: tuple[int, ...], size: tuple[int, int], settings: Settings
    ) -> Tensor:
        """Heat spread along the self-attention, which is read again if it has to be."""
        way = (settings.stride_weights, settings.compete, settings.spread)
        heats = _latest(self._heats, way, dict)
        if (maps.text, columns) not in heats:
            heats[maps.text, columns] = read_heat(self._again(maps), columns, size, settings)
        return heats[maps.text, columns]

    def regions(self, maps: TokenMaps, size: tuple[int, int], settings: Settings) -> Tensor | None:
        """What the self-attention parts, kept for each sentence."""
        if maps.text not in self._regions:
            self._regions[maps.text] = read_regions(self._again(maps), size, settings)
        return self._regions[maps.text]

    def _again(self, maps: TokenMaps) -> TokenMaps:
        """The maps with their self-attention, of the last pass or of one more."""
        if self.places is None or self.places[0] != maps.text:
            assert self._encoded is not None
            self._whole(self._encoded, maps.text)
        assert self.places is not None
        return replace(maps, places=self.places[1])


class _Look(Look):
    """A look whose spread heat is kept."""

    def __init__(
        self, picture: Image.Image, kept: _Kept, clip: ClipScorer | None, settings: Settings
    ) -> None:
        super().__init__(picture, kept, clip, settings)
        self._kept = kept

    def _read_heat(self, maps: TokenMaps, columns: tuple[int, ...]) -> Tensor:
        if self.settings.spread == "off":
            return super()._read_heat(maps, columns)
        return self._kept.spread(maps, columns, self.size, self.settings)

    def _read_regions(self, maps: TokenMaps) -> Tensor | None:
        if self.settings.proposals != "regions":
            return None
        return self._kept.regions(maps, self.size, self.settings)


def _latest(kept: dict[Any, Any], key: Hashable, make: Callable[[], Any]) -> Any:
    """What is kept under a key, or made now; what was asked for longest ago goes."""
    value = kept.pop(key) if key in kept else make()
    while len(kept) >= KEPT:
        del kept[next(iter(kept))]
    kept[key] = value
    return value


class RememberedClip:
    """A `ClipScorer` that keeps the features of every mask it was shown."""

    def __init__(self, clip: ClipScorer) -> None:
        self._clip = clip
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)

    def crop_features(self, image: Tensor, masks: Tensor, *rest: Any) -> Tensor:
        """As `ClipScorer.crop_features`, without looking twice."""
        return self._remembered("crop_features", image, masks, rest)

    def masked_features(self, image: Tensor, masks: Tensor, *rest: Any) -> Tensor:
        """As `ClipScorer.masked_features`, without looking twice."""
        return self._remembered("masked_features", image, masks, rest)

    def _remembered(self, name: str, image: Tensor, masks: Tensor, rest: Any) -> Tensor:
        asked = (name, _digest(image), *rest)
        keys = [(*asked, _digest(mask)) for mask in masks]
        new = [row for row, key in enumerate(keys) if key not in self._kept]
        if new:
            found = getattr(self._clip, name)(image, masks[new], *rest)
            self._kept |= {keys[row]: feature for row, feature in zip(new, found, strict=True)}
        return torch.stack([self._kept[key] for key in keys])


def _digest(tensor: Tensor) -> bytes:
    array = tensor.detach().cpu().contiguous().numpy()
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()


def _read(text: str) -> Expression | None:
    try:
        return parse(text)
    except ValueError:
        return None


def _answer(look: Look, item: Item, expression: Expression | None) -> Prediction:
    nothing = Prediction(item.id, empty(item.size), item.text, (), presence=0.0)
    if expression is None:
        return nothing
    try:
        found = look(expression)
    except WordError:
        return nothing
    return Prediction(
        item.id, encode(found.mask.cpu().numpy()), item.text, (), presence=found.presence
    )
