"""Load CLIP Scorer: an open_clip model under ComfyUI's memory management."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor, nn

from ..refdiff.models.clip_loading import WEIGHTS
from ..refdiff.scoring.clip import ClipScorer, RegionFeatures
from .types import CATEGORY, SCORER, found_by, one_of, output

FOLDER = "open_clip"
BY_NAME = "by name"
HUB = "hf-hub:"
LONGEST = 200  # letters of a name
ENDINGS = {".safetensors", ".json"}

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
folder_paths.folder_names_and_paths[FOLDER][1].update(ENDINGS)


@dataclass(frozen=True, eq=False)
class ManagedClip:
    """A ClipScorer whose weights ComfyUI moves to the device and away again.

    Answers like the scorer itself; every call first asks for the weights to be loaded. narrow: it
    knows nothing but the sticker models' pictures. words: of the text tower, where that is another
    model than patcher's.
    """

    scorer: ClipScorer
    patcher: ModelPatcher
    narrow: bool = False
    words: ModelPatcher | None = None

    def text_features(self, texts: Sequence[str]) -> Tensor:
        management.load_models_gpu([self.words or self.patcher])
        return self.scorer.text_features(texts)

    def crop_features(self, *args: Any) -> Tensor:
        self._load()
        return self.scorer.crop_features(*args)

    def masked_features(self, *args: Any) -> Tensor:
        self._load()
        return self.scorer.masked_features(*args)

    def official_features(self, *args: Any) -> RegionFeatures:
        self._load()
        return self.scorer.official_features(*args)

    @property
    def picture_limit(self) -> int:
        return self.scorer.picture_limit

    def logits(self, similarity: Tensor) -> Tensor:
        return self.scorer.logits(similarity)

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
    with _quietly():
        return managed(ClipScorer.load(source, "cpu", dtype, network))


@contextmanager
def _quietly() -> Iterator[None]:
    """What open_clip tells the root logger while it loads is left out of ComfyUI's log."""

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or "open_clip" not in record.pathname

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def local_models() -> dict[str, Path]:
    """The open_clip folders under ComfyUI's model folders, by name; links out of these are none."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]
    return {
        found.parent.relative_to(root).as_posix(): found.parent
        for root in roots
        for found in sorted(root.rglob("open_clip_config.json"))
        if found.resolve().is_relative_to(root.resolve())
    }


def checked_name(name: str) -> str:
    """A name of open_clip's own or of the hub; ValueError for anything that is a path.

    A graph from somebody else must not make the server look about its disk, or at another machine.
    """
    plain = isinstance(name, str) and re.fullmatch(rf"({HUB})?[\w.-]+(/[\w.-]+)?", name)
    if not plain or len(name) > LONGEST or ".." in name or Path(name).exists():
        raise ValueError(
            f"name is {str(name)[:LONGEST]!r}, wanted open_clip's name and weights, such as "
            "ViT-B-16/openai, or hf-hub:owner/name; put a folder of your own into "
            "models/open_clip and choose it in model."
        )
    return name


def cached_models() -> dict[str, Path]:
    """The open_clip folders that huggingface_hub has fetched before, by hf-hub:owner/name."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = {}
    for config in sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*/open_clip_config.json")):
        if any((config.parent / name).is_file() for name in WEIGHTS):
            name = config.parts[-4].removeprefix("models--").replace("--", "/", 1)
            found[f"hf-hub:{name}"] = config.parent
    return found


def listed_models() -> dict[str, Path]:
    """What the list offers: each folder by its name and the size of its weights."""
    found = {**local_models(), **cached_models()}
    return {f"{name} ({_size_of(folder)})": folder for name, folder in found.items()}


def _size_of(folder: Path) -> str:
    megabytes = sum(one.stat().st_size for one in folder.glob("*.safetensors")) / 1e6
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def _folder_of(model: str) -> Path:
    """The folder of an entry of the list, its size said or not, for files may have changed."""
    known = {**local_models(), **cached_models()}
    name = re.sub(r" \([\d.]+ [MG]B\)$", "", model)
    one_of("model", name, [BY_NAME, *known])
    return known[name]


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
                    options=[BY_NAME, *listed_models()],
                    default=BY_NAME,
                    tooltip="What lies in models/open_clip (folders with open_clip_config.json "
                    "and safetensors), what is in the cache of Hugging Face, or the name below.",
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
            **found_by("open_clip", "openclip", "clip loader", "siglip"),
        )

    @classmethod
    def execute(cls, model: str, name: str, allow_download: bool) -> io.NodeOutput:
        if model == BY_NAME:
            return io.NodeOutput(load_scorer(checked_name(name), allow_download))
        return io.NodeOutput(load_scorer(str(_folder_of(model))))
