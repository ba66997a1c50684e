"""Load CLIP Scorer: an open_clip model under ComfyUI's memory management."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor, nn

from ..refdiff.clip_scorer import ClipScorer
from .wires import CATEGORY, SCORER, one_of, output

FOLDER = "open_clip"
BY_NAME = "by name"
ENDINGS = {".safetensors", ".json"}

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
folder_paths.folder_names_and_paths[FOLDER][1].update(ENDINGS)


@dataclass(frozen=True, eq=False)
class ManagedClip:
    """A ClipScorer whose weights ComfyUI moves to the device and away again.

    Answers like the scorer itself; every call first asks for the weights to be loaded. narrow: it
    knows nothing but the sticker models' pictures.
    """

    scorer: ClipScorer
    patcher: ModelPatcher
    narrow: bool = False

    def text_features(self, texts: Sequence[str]) -> Tensor:
        self._load()
        return self.scorer.text_features(texts)

    def crop_features(self, *args: Any) -> Tensor:
        self._load()
        return self.scorer.crop_features(*args)

    def masked_features(self, *args: Any) -> Tensor:
        self._load()
        return self.scorer.masked_features(*args)

    def probability(self, similarity: Tensor) -> Tensor | None:
        return self.scorer.probability(similarity)

    def _load(self) -> None:
        management.load_models_gpu([self.patcher])


def managed(scorer: ClipScorer) -> ManagedClip:
    """The scorer handed over to ComfyUI; its model must not be used on a device of its own."""

    def stop_if_asked(_module: nn.Module, _inputs: Any) -> None:
        management.throw_exception_if_processing_interrupted()

    scorer.model.visual.conv1.register_forward_pre_hook(stop_if_asked)
    devices = management.get_torch_device(), management.unet_offload_device()
    return ManagedClip(scorer, ModelPatcher(scorer.model, *devices))


def load_scorer(source: str, network: bool = True) -> ManagedClip:
    """Reads what `ClipScorer.load` reads; network: whether it may be downloaded."""
    half = management.should_use_fp16(management.get_torch_device())
    dtype = torch.float16 if half else torch.float32
    return managed(ClipScorer.load(source, "cpu", dtype, network))


def local_models() -> dict[str, Path]:
    """The open_clip folders under ComfyUI's model folders, by name."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]
    return {
        str(found.parent.relative_to(root)): found.parent
        for root in roots
        for found in sorted(root.rglob("open_clip_config.json"))
    }


class LoadClipScorer(io.ComfyNode):
    """An open_clip model for the discriminative half."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffLoadClipScorer",
            display_name="Load CLIP Scorer",
            category=CATEGORY,
            description="Loads an open_clip vision transformer that judges candidates by the "
            "sentence. Without one, Ref-Diff decides by the heat alone.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[BY_NAME, *local_models()],
                    default=BY_NAME,
                    tooltip="A folder in models/open_clip that holds open_clip_config.json and "
                    "safetensors, or the name below.",
                ),
                io.String.Input(
                    "name",
                    default="ViT-B-16/openai",
                    tooltip="open_clip's name and weights, or hf-hub:owner/name. Used when model "
                    "is 'by name'.",
                ),
                io.Boolean.Input(
                    "allow_download",
                    default=False,
                    tooltip="Fetch a named model that is not in the cache yet.",
                ),
            ],
            outputs=[output(SCORER, "scorer", "For Ref-Diff Segment and Score Proposals.")],
        )

    @classmethod
    def execute(cls, model: str, name: str, allow_download: bool) -> io.NodeOutput:
        if model == BY_NAME:
            return io.NodeOutput(load_scorer(name, allow_download))
        found = local_models()
        return io.NodeOutput(load_scorer(str(found[one_of("model", model, [BY_NAME, *found])])))
