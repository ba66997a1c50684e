"""Encoded pictures remembered per VAE, so that a changed sentence does not encode again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image

from ..refdiff.attention import TokenMaps
from ..refdiff.capture import CaptureSettings, EncodedPicture
from .capture import ComfyCapture

KEPT = 8
"""Pictures remembered of each VAE; a latent of 512 x 512 pixels takes 64 KiB."""

_latents: WeakKeyDictionary[Any, OrderedDict[tuple, EncodedPicture]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class StoredCapture:
    """A capture that looks a picture's latent up first. It goes when ComfyUI frees the VAE."""

    capture: ComfyCapture

    def using(self, settings: CaptureSettings) -> StoredCapture:
        return StoredCapture(self.capture.using(settings))

    def encode(self, image: Image.Image) -> EncodedPicture:
        pixels = hashlib.sha256(image.tobytes()).digest()
        key = (pixels, image.mode, image.size, *self.capture.fitting)
        kept = _latents.setdefault(self.capture.vae, OrderedDict())
        if key not in kept:
            kept[key] = self.capture.encode(image)
            while len(kept) > KEPT:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]

    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        return self.capture.read(picture, prompts)
