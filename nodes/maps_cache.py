"""What was read from a MODEL or seen by a CLIP, remembered: a widget that changes neither is cheap.

What is kept belongs to the model it came from and goes when ComfyUI frees that.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary, ref

from PIL import Image
from torch import Tensor

from ..refdiff.attention.capture import Capture, CaptureSettings, EncodedPicture
from ..refdiff.attention.maps import TokenMaps
from ..refdiff.attention.reader import Reader
from ..refdiff.families import Family
from ..refdiff.scoring.clip import RegionFeatures
from .backend import ComfyBackend
from .load_clip import ManagedClip

MOST_BYTES = 256 << 20
"""Of each model. A sentence of eight words takes 43 KiB of Stable Diffusion 1; with the
self-attention that its profile spreads heat along 15 MiB, in half precision."""


@dataclass(eq=False)
class Memory:
    """Answers of one model by what was asked, the least used forgotten first."""

    kept: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    bytes: int = 0

    def find(self, key: Hashable) -> Any:
        """What is kept under this key, or None."""
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def keep(self, key: Hashable, value: Any) -> None:
        if key in self.kept:
            return
        self.kept[key] = value
        self.bytes += _bytes(value)
        while self.bytes > MOST_BYTES and len(self.kept) > 1:
            self.bytes -= _bytes(self.kept.popitem(last=False)[1])


_memories: WeakKeyDictionary[Any, Memory] = WeakKeyDictionary()


def memory_of(owner: Any) -> Memory:
    """The memory of a loaded model, which goes when the model goes."""
    return _memories.setdefault(owner, Memory())


def _bytes(value: TokenMaps | EncodedPicture | Tensor) -> int:
    if isinstance(value, TokenMaps):
        places = [part for one in value.places for part in (one.query, one.key)]
        tensors = [*value.maps, *{id(part): part for part in places}.values()]
    else:
        tensors = [value.latent if isinstance(value, EncodedPicture) else value]
    return sum(one.numel() * one.element_size() for one in tensors)


def _digest(tensor: Tensor) -> tuple[Hashable, ...]:
    numbers = tensor.detach().cpu().contiguous().numpy().tobytes()
    return tuple(tensor.shape), hashlib.blake2b(numbers, digest_size=16).digest()


def fingerprint(model: Any, clip: Any, vae: Any, keep_patches: bool) -> Hashable | None:
    """All of the models, as they are patched now, that decides about maps; None: it cannot be told.

    Patches that act on the pass itself and hooks of the CLIP are somebody's code: what they do
    may differ from run to run.
    """
    if keep_patches or clip.apply_hooks_to_conds or vae.first_stage_model is None:
        return None
    patches = [
        (name, ref(patch))
        for name, patch in sorted(model.object_patches.items())
        if not name.startswith("diffusion_model")
    ]
    parts = ref(clip.cond_stage_model), ref(vae.first_stage_model)
    return (model.patches_uuid, clip.patcher.patches_uuid, *parts, *patches)


@dataclass(frozen=True, eq=False)
class LazyPicture:
    """A picture that is encoded when it has to be."""

    image: Image.Image
    key: tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class RememberedCapture:
    """A reader that runs the VAE once for a picture, and the UNet once for a text besides.

    memory: of the maps. models: the `fingerprint` of what they come from.
    """

    reader: Reader[ComfyBackend]
    memory: Memory
    models: Hashable = None

    @property
    def family(self) -> Family:
        """The kind of model that is read."""
        return self.reader.family

    def using(self, settings: CaptureSettings) -> RememberedCapture:
        return replace(self, reader=self.reader.using(settings))

    def encode(self, image: Image.Image) -> LazyPicture:
        pixels = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        return LazyPicture(image, (pixels, image.mode, image.size))

    def read(self, picture: LazyPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of several sentences; those that are remembered need no pass and no latent."""
        keys = [(picture.key, text, self.reader.settings, self.models) for text in prompts]
        found = {key: self.memory.find(key) for key in keys}
        new = [key for key, maps in found.items() if maps is None]
        if new:
            read = self.reader.read(self.encoded(picture), [key[1] for key in new])
            found |= dict(zip(new, read, strict=True))
            for key in new:
                self.memory.keep(key, found[key])
        return [found[key] for key in keys]

    def encoded(self, picture: LazyPicture) -> EncodedPicture:
        """Its latent, which the VAE's memory holds."""
        reader, model = self.reader, self.reader.backend
        fitted = (reader.side, model.multiple, reader.settings.pad, *model.latents)
        memory, key = memory_of(model.vae), (*picture.key, *fitted)
        found = memory.find(key)
        if found is None:
            found = reader.encode(picture.image)
            memory.keep(key, found)
        return found


def remembering(reader: Reader[ComfyBackend], models: tuple[Any, Any, Any], keep: bool) -> Capture:
    """The reader with a memory: the model's own where maps are sure to be what would be read again.

    Else one that lasts as long as the capture. keep: patches on the MODEL act on the pass.
    """
    same = None if reader.settings.queries == "first" else fingerprint(*models, keep)
    return RememberedCapture(reader, Memory() if same is None else memory_of(models[0].model), same)


@dataclass(frozen=True, eq=False)
class RememberedClip:
    """A scorer that looks at the same masks of the same pixels once."""

    scorer: ManagedClip

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return self._once("text_features", tuple(texts))

    def crop_features(self, *args: Any) -> Tensor:
        return self._once("crop_features", *args)

    def masked_features(self, *args: Any) -> Tensor:
        return self._once("masked_features", *args)

    def official_features(self, *args: Any) -> RegionFeatures:
        return self.scorer.official_features(*args)

    @property
    def picture_limit(self) -> int:
        return self.scorer.picture_limit

    def logits(self, similarity: Tensor) -> Tensor:
        return self.scorer.logits(similarity)

    def probability(self, similarity: Tensor) -> Tensor | None:
        return self.scorer.probability(similarity)

    def _once(self, method: str, *args: Any) -> Tensor:
        key = (method, *(_digest(one) if isinstance(one, Tensor) else one for one in args))
        memory = memory_of(self.scorer.scorer.model)
        found = memory.find(key)
        if found is None:
            found = getattr(self.scorer, method)(*args)
            memory.keep(key, found)
        return found
