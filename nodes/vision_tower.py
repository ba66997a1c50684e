"""The two towers of a CLIP that ComfyUI has loaded as CLIP_VISION and CLIP, as `ClipScorer` asks.

ComfyUI's own modules do the work, layer by layer: nothing is copied or converted, its memory
management may keep weights anywhere and in any precision, and LoRAs on the text encoder count.
Pictures are computed in float32, as CLIP Vision Encode does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention_for_device
from torch import Tensor, nn

from ..refdiff.scoring.clip import ClipScorer, RegionFeatures
from ..refdiff.scoring.clip_tower import Tower, unit
from ..refdiff.scoring.official import OfficialTower, official_features

LOGIT_SCALE = 100.0
"""ComfyUI's files lack it; OpenAI's and OpenCLIP's models were trained up to this bound of it
(arXiv 2103.00020, section 2.5)."""


class VisionTower(Tower):
    """The vision model of a CLIP_VISION, asked as a `Tower` of open_clip is."""

    averages = False

    def __init__(self, clip_vision: Any) -> None:
        model = clip_vision.model
        self._visual, self._projection = model.vision_model, model.visual_projection
        self._side, self._patcher = clip_vision.image_size, clip_vision.patcher

    @property
    def device(self) -> torch.device:
        """Where it computes; weights may be kept elsewhere."""
        return self._patcher.load_device

    @property
    def picture_size(self) -> tuple[int, int]:
        return self._side, self._side

    @property
    def patch_size(self) -> tuple[int, int]:
        down, across = self._visual.embeddings.patch_embedding.kernel_size
        return down, across

    @property
    def grid(self) -> tuple[int, int]:
        down, across = self.patch_size
        return self._side // down, self._side // across

    @property
    def layers(self) -> int:
        return len(self._visual.encoder.layers)

    @property
    def _own_positions(self) -> Tensor:
        return self._visual.embeddings.position_embedding.weight

    def _tokens(self, pictures: Tensor) -> Tensor:
        parts = self._visual.embeddings
        patches = parts.patch_embedding(pictures.to(self.device, torch.float32))
        positions = self._positions(patches.shape[2:], pictures.shape[2:]).to(patches)
        patches = patches.flatten(2).mT
        first = parts.class_embedding.to(patches).expand(len(patches), 1, -1)
        return self._visual.pre_layrnorm(torch.cat([first, patches], dim=1) + positions)

    def _run(
        self,
        tokens: Tensor,
        early: Tensor | None = None,
        late: Tensor | None = None,
        from_layer: int = 0,
    ) -> Tensor:
        attend = optimized_attention_for_device(tokens.device, late is not None, small_input=True)
        states = tokens
        for layer, block in enumerate(self._visual.encoder.layers):
            states = block(states, late if layer >= from_layer else early, attend)
        return states

    def _finished(self, states: Tensor) -> Tensor:
        return unit(self._projection(self._visual.post_layernorm(states)))


class OfficialVisionTower(VisionTower, OfficialTower):
    """The same, run as the authors run theirs."""


class TextTower:
    """One text encoder of a CLIP with its projection: "g", "h" or "l"; the CLIP stays as it is."""

    def __init__(self, clip: Any, name: str) -> None:
        self._clip, self.name = clip.clone(), name

    @property
    def patcher(self) -> Any:
        return self._clip.patcher

    @property
    def _part(self) -> Any:
        return getattr(self._clip.cond_stage_model, f"clip_{self.name}")

    @property
    def projection(self) -> nn.Module:
        """What brings texts and pictures together: [C] -> [D]."""
        return self._part.transformer.text_projection

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """What its last layer says at the end of each text, whatever CLIP Set Last Layer chose.

        Only the first window of a text is read, as CLIP does; brackets are text like any other.
        Like ComfyUI's own calls this sets the encoder's options anew and leaves them as loaded.
        """
        pieces = getattr(self._clip.tokenizer, f"clip_{self.name}")
        windows = [pieces.tokenize_with_weights(text, disable_weights=True)[0] for text in texts]
        part = self._part
        part.reset_clip_options()
        device = self.patcher.load_device
        part.set_clip_options({"projected_pooled": True, "execution_device": device})
        try:
            return part.encode([[item[0] for item in window] for window in windows])[1]
        finally:
            part.reset_clip_options()


class ClipPair(nn.Module):
    """What stands for open_clip's model where ComfyUI holds the weights."""

    logit_scale: Tensor

    def __init__(self, words: TextTower) -> None:
        super().__init__()
        self.encode_text = words
        self.register_buffer("logit_scale", torch.tensor(math.log(LOGIT_SCALE)))


class PairScorer(ClipScorer):
    """A `ClipScorer` of a CLIP_VISION and the text tower that belongs to it."""

    def __init__(self, clip_vision: Any, words: TextTower) -> None:
        size, mean, std = clip_vision.image_size, clip_vision.image_mean, clip_vision.image_std
        super().__init__(ClipPair(words), None, size, mean, std, tower=VisionTower(clip_vision))
        self._official = OfficialVisionTower(clip_vision)

    def official_features(self, crop: Tensor, masked: Tensor, masks: Tensor) -> RegionFeatures:
        return official_features(self, crop, masked, masks, self._official)

    def _read(self, texts: list[str]) -> Tensor:
        return unit(self.model.encode_text(texts))
