"""Puts the trained parts together as ordinary folders, for diffusers and for open_clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from .. import PAINTER, WEIGHTS

CONFIGS = Path(__file__).parents[2] / "configs"
PARTS = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(work: Path, folder: Path = WEIGHTS) -> None:
    """Writes what `work` holds (vae, unet, text_encoder, clip) to `folder`, in float16."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    _save_half(AutoencoderKL.from_pretrained(work / "vae"), folder / "vae")
    _save_half(UNet2DConditionModel.from_pretrained(work / "unet"), folder / "unet")
    _save_text_encoder(work / "text_encoder", folder / "text_encoder")
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.save_pretrained(folder / "scheduler")
    shutil.copytree(CONFIGS / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    shutil.copytree(work / "clip", folder / "clip", dirs_exist_ok=True)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0",
    }
    index |= PARTS | {name: [None, None] for name in ("safety_checker", "feature_extractor")}
    index |= {"image_encoder": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def export_painter(work: Path, folder: Path = PAINTER) -> None:
    """Writes the UNet that paints, in float16, and the scheduler that goes with it."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    _save_half(UNet2DConditionModel.from_pretrained(work / "painter"), folder / "unet")
    scheduler = DDIMScheduler.from_pretrained(WEIGHTS / "scheduler")
    velocity = DDIMScheduler.from_config(scheduler.config, prediction_type="v_prediction")
    velocity.save_pretrained(folder / "scheduler")


def _save_half(model: Any, folder: Path) -> None:
    """In float16, without the path that it was loaded from."""
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _save_text_encoder(source: Path, folder: Path) -> None:
    """With the keys that every version of transformers, and ComfyUI, can read."""
    from safetensors.torch import save_file
    from transformers import CLIPTextModel

    model = CLIPTextModel.from_pretrained(source)
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": value.to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if "position_ids" not in name
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | {"architectures": ["CLIPTextModel"], "dtype": "float16"}
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
