"""CLIP's view of regions: features of masks and of words (the paper's section 3.3).

Each mask is looked at twice: cut out of the picture (crop), and within the picture with the CLS
token seeing only the mask's patches (masked). Neither depends on the text, so one picture's
features serve any number of sentences. Images are float [3, H, W] in 0..1, masks bool [N, h, w]
of the same frame at any size, features unit-norm float32 on the CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from ..models.clip_loading import PRECISIONS, read_model
from .clip_tower import Tower, unit
from .crops import Box, CropStyle, bounding_box, cap_size, circled, cut_out, resize
from .pooled_tower import PooledTower, tower_of

CHUNK = 32  # crops that run as one batch
MASKS = 256  # masks that share a pass over the whole picture
TEXTS_KEPT = 512  # texts whose features are remembered
CROP_LIMIT = 16  # pictures are first shrunk to this many times the model's size
BLUR_SIDE = 24  # a blurred picture keeps this many details along its long side


@dataclass(frozen=True)
class RegionFeatures:
    """Each mask as CLIP sees it: cut out (crop) and in place (masked), both unit-norm [N, D]."""

    crop: Tensor
    masked: Tensor


def blend(text_features: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted sum of text features [T, D] -> [D], not brought back to unit norm.

    The authors' masked branch reads 0.5 * sentence + 0.5 * root word.
    """
    if len(text_features) != len(weights):
        raise ValueError(
            f"There are {len(text_features)} texts and {len(weights)} weights, wanted as many."
        )
    return torch.as_tensor(weights, dtype=text_features.dtype) @ text_features


def similarity(
    regions: RegionFeatures, crop_text: Tensor, masked_text: Tensor | None = None, beta: float = 0.3
) -> Tensor:
    """The discriminative score beta * masked . text + (1 - beta) * crop . text (the paper's v . r).

    Texts are [D] or [T, D]; masked_text is crop_text unless given. Returns [N] or [N, T].
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}, wanted 0 (crop only) to 1 (masked only).")
    masked_text = crop_text if masked_text is None else masked_text
    masked, crop = torch.inner(regions.masked, masked_text), torch.inner(regions.crop, crop_text)
    return beta * masked + (1 - beta) * crop


class ClipScorer:
    """A real open_clip CLIP with a vision transformer, asked about regions; it is never changed.

    model: the open_clip model in eval mode. tokenizer: its own. size: side of its pictures in
    pixels. mean, std: of its pixels, 3 numbers each. device: where to move the model; None leaves
    it, and every call runs where the weights are then. tower: how to run the image tower of a model
    that is not open_clip's.
    Raises ModelError for a tower without CLS token and patches, which masks could not act on.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: str | torch.device | None = None,
        tower: Tower | None = None,
    ) -> None:
        self.tower = tower or tower_of(model)
        self.model: Any = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        self.size = size
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)
        self._texts: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def load(
        cls,
        source: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        network: bool = True,
    ) -> ClipScorer:
        """Read a CLIP from a folder, by open_clip's name and tag, or from the hub.

        source: a folder holding open_clip_config.json and open_clip_model.safetensors, a name such
        as "ViT-B-16/openai", or "hf-hub:owner/name". Weights are never unpickled. network: whether
        what is not in the cache may be downloaded.
        Raises ModelError when it cannot be read or is not a vision transformer.
        """
        if dtype not in PRECISIONS:
            raise ValueError(f"dtype is {dtype}, wanted float32, float16 or bfloat16; choose one.")
        model, tokenizer = read_model(str(source), device, PRECISIONS[dtype], network)
        height, width = tower_of(model).picture_size
        if height != width:
            raise ModelError(
                f"The CLIP model {source} takes pictures of {height} x {width} pixels; "
                "choose one whose pictures are square."
            )
        config = model.visual.preprocess_cfg
        model.eval().requires_grad_(False)
        return cls(model, tokenizer, height, config["mean"], config["std"])

    @property
    def picture_limit(self) -> int:
        """Long side in pixels beyond which a larger picture shows this CLIP no more."""
        return CROP_LIMIT * self.size

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.tower.device

    @torch.inference_mode()
    def image_features(
        self,
        image: Tensor,
        masks: Tensor,
        style: CropStyle | None = None,
        reach: float = 2.0,
        from_layer: int = 0,
    ) -> RegionFeatures:
        """Both views of each mask; see `crop_features` and `masked_features`."""
        crop = self.crop_features(image, masks, style)
        return RegionFeatures(crop, self.masked_features(image, masks, reach, from_layer))

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm features [T, D] of the texts; CLIP reads the first 77 pieces of each.

        Texts that were asked before are remembered.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts is {texts!r}, wanted a list of at least one text.")
        known = {text: self._texts[text] for text in texts if text in self._texts}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known |= dict(zip(new, self._read(new), strict=True))
        for text, feature in known.items():
            self._texts[text] = feature
            self._texts.move_to_end(text)
        while len(self._texts) > TEXTS_KEPT:
            self._texts.popitem(last=False)
        return torch.stack([known[text] for text in texts])

    def _read(self, texts: list[str]) -> Tensor:
        """Features of texts that were not asked before: unit-norm [T, D]."""
        return unit(self.model.encode_text(self.tokenizer(texts).to(self.device)))

    def logits(self, similarity: Tensor) -> Tensor:
        """Similarities times the model's own logit scale: their differences are log odds."""
        return similarity * self.model.logit_scale.detach().float().exp().cpu()

    def probability(self, similarity: Tensor) -> Tensor | None:
        """How probable it is that a region of this similarity [N] shows the text: [N] in 0..1.

        What a model trained with a sigmoid for every pair says (SigLIP, arXiv 2303.15343, section
        3.2). None for any other CLIP: trained to pick one text of many, it tells which fits better
        and not whether one fits at all.
        """
        if getattr(self.model, "logit_bias", None) is None:
            return None
        scale, bias = (
            one.detach().float().cpu() for one in (self.model.logit_scale, self.model.logit_bias)
        )
        return torch.sigmoid(scale.exp() * similarity + bias)

    @torch.inference_mode()
    def crop_features(self, image: Tensor, masks: Tensor, style: CropStyle | None = None) -> Tensor:
        """Plain CLIP on each mask's bounding box, f(x * M) of the paper: unit-norm [N, D]."""
        image = cap_size(_checked_image(image), self.picture_limit)
        _check_masks(masks)
        views = [self._crop_view(image, masks, one) for one in (style or CropStyle()).views()]
        return views[0] if len(views) == 1 else unit(torch.stack(views).mean(0))

    def _crop_view(self, image: Tensor, masks: Tensor, style: CropStyle) -> Tensor:
        """Features of one crop of each mask."""
        backdrop = self._backdrop(image, style.surroundings)
        boxes = [bounding_box(mask, image.shape[1], image.shape[2], style) for mask in masks.cpu()]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, box in enumerate(boxes):
            groups.setdefault(self._crop_size(box, style), []).append(index)
        features: dict[int, Tensor] = {}
        for size, same in groups.items():
            for start in range(0, len(same), CHUNK):
                rows = same[start : start + CHUNK]
                crops = (self._cut(image, backdrop, masks[i].cpu(), boxes[i], style) for i in rows)
                pictures = torch.stack([resize(crop, size) for crop in crops])
                found = self.tower.plain(self._normalised(pictures))
                features |= dict(zip(rows, found, strict=True))
        return torch.stack([features[index] for index in range(len(boxes))])

    @torch.inference_mode()
    def masked_features(
        self, image: Tensor, masks: Tensor, reach: float = 2.0, from_layer: int = 0
    ) -> Tensor:
        """CLIP on the whole picture with attention kept to each mask, f_M(x): unit-norm [N, D].

        Up to MASKS masks share a pass: each has its own CLS token, which sees itself and the mask's
        patches only. Patches and the model's own CLS token never see these, so they are as in an
        ordinary pass, and a mask of the whole picture gives the ordinary feature.
        reach: the long side's limit in multiples of the model's size (smaller pictures are
        enlarged to the model's size). from_layer: earlier layers see the whole picture. A tower
        that averages its patches averages the mask's instead, whatever from_layer, and SigLIP's
        pools the mask's alone, of a picture at the model's own size.
        """
        image = _checked_image(image)
        _check_masks(masks)
        layers = self.tower.layers
        if reach < 1 or not 0 <= from_layer <= layers:
            raise ValueError(
                f"reach is {reach} and from_layer {from_layer}, wanted reach from 1 up and "
                f"from_layer from 0 to {layers}; correct the settings."
            )
        rows, columns = self.patch_grid(image.shape[1], image.shape[2], reach)
        down, across = self.tower.patch_size
        own = isinstance(self.tower, PooledTower)
        picture = resize(image, (self.size,) * 2 if own else (rows * down, columns * across))
        shown = self._normalised(picture[None])
        parts = (_on_patches(part, (rows, columns)) for part in masks.split(MASKS))
        return torch.cat([self.tower.masked(shown, part, from_layer) for part in parts])

    def official_features(self, crop: Tensor, masked: Tensor, masks: Tensor) -> RegionFeatures:
        """Both views as the authors' code makes them; see `official.official_features`."""
        from .official import official_features

        return official_features(self, crop, masked, masks)

    def _normalised(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, h, w] in 0..1 as the model wants its pixels."""
        return (pictures - self.mean) / self.std

    def _backdrop(self, image: Tensor, surroundings: str) -> Tensor:
        """What is shown outside the masks, [3, H, W]."""
        if surroundings == "keep":
            return image
        if surroundings == "blur":
            small = cap_size(image, BLUR_SIDE)
            return resize(small, (image.shape[1], image.shape[2]))
        flat = torch.zeros(3, 1, 1) if surroundings == "black" else self.mean
        return flat.expand_as(image)

    def _cut(
        self, image: Tensor, backdrop: Tensor, mask: Tensor, box: Box, style: CropStyle
    ) -> Tensor:
        """A mask's box as CLIP is shown it, [3, tall, wide]."""
        fill = torch.zeros(3, 1, 1) if style.surroundings == "black" else self.mean
        crop = cut_out(image, backdrop, mask, box, fill)
        return circled(crop, mask, box, image.shape[1], image.shape[2]) if style.circle else crop

    def _crop_size(self, box: Box, style: CropStyle) -> tuple[int, int]:
        """Height and width at which the model sees a box."""
        if style.square or isinstance(self.tower, PooledTower):
            return self.size, self.size
        shorter = min(box[2:])
        down, across = self.tower.patch_size
        height = max(self.size, round(box[2] * self.size / shorter / down) * down)
        width = max(self.size, round(box[3] * self.size / shorter / across) * across)
        return height, width

    def patch_grid(self, height: int, width: int, reach: float) -> tuple[int, int]:
        """Rows and columns of patches for a picture at its own aspect."""
        if isinstance(self.tower, PooledTower):
            return self.tower.grid
        longest = max(height, width)
        scale = min(max(longest, self.size), reach * self.size) / longest
        down, across = self.tower.patch_size
        return max(1, round(height * scale / down)), max(1, round(width * scale / across))


def _checked_image(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ValueError(
            f"image is {image.dtype} of shape {tuple(image.shape)}, wanted float [3, H, W] in "
            "0..1; convert it."
        )
    return image.detach().float().cpu()


def _check_masks(masks: Tensor) -> None:
    if masks.ndim != 3 or masks.dtype != torch.bool or len(masks) == 0:
        raise ValueError(
            f"masks are {masks.dtype} of shape {tuple(masks.shape)}, wanted bool [N, H, W] with at "
            "least one mask; convert them."
        )
    empty = (~masks.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"masks {empty} are empty, wanted at least one pixel; leave them out.")


def _on_patches(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches each mask covers by half at least, or else the one it covers most: [N, P]."""
    cover = F.interpolate(masks[:, None].float(), grid, mode="area").flatten(1)
    most = F.one_hot(cover.argmax(1), cover.shape[1]).bool()
    inside = cover >= 0.5
    return torch.where(inside.any(1, keepdim=True), inside, most)
