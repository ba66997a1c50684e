"""What a single checkpoint file holds, told from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from ..errors import ModelError
from ..families import Family

UNET = "model.diffusion_model."
CONV_IN = UNET + "input_blocks.0.0.weight"
LAST_NORM = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"

# The text encoder's place in the file tells the family.
TEXT_ENCODERS: tuple[tuple[Family, str], ...] = (
    ("sdxl", "conditioner.embedders.1.model."),
    ("sd1", "cond_stage_model.transformer.text_model."),
    ("sd2", "cond_stage_model.model."),
)
OLD_TEXT = "cond_stage_model.transformer."  # where old SD1 files have what follows text_model.
# What is not a whole Stable Diffusion checkpoint, most telling names first.
OTHERS = (
    (r"lora_(up|down|A|B)\b|lora_(unet|te)|\.(hada|lokr)_", "a LoRA; load it onto a pipeline"),
    (r"\binput_hint_block|\bcontrol_model|controlnet_cond", "a ControlNet"),
    (r"^(down_blocks|input_blocks)\.", "a UNet alone"),
    (r"\b(double|joint|single|dual)\w*_blocks\.|\btransformer_blocks\.", "a diffusion transformer"),
    (r"\bdiffusion_model\.(layers|blocks)\.", "a diffusion transformer"),
    (r"^(first_stage_model|encoder|decoder|vae)\.", "a VAE alone"),
    (r"\btext_model\.|\btoken_embedding\b", "a text encoder alone"),
    (r"^(conv_first|body|RRDB|model)\.\d*", "an image upscaler or another kind of network"),
)
NESTED = 3  # state dicts within state dicts, at most
WANTED = "pass a whole Stable Diffusion 1, 2 or XL checkpoint."


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors: their shapes at once, their values when asked."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@dataclass(frozen=True)
class CheckpointKind:
    """A checkpoint's family and where it departs from the family's configs.

    family: sd1, sd2 or sdxl. channels: what the UNet takes, 4 or (inpainting) 9. text_width: of
    the text the UNet reads. prediction, sample_size: None where the family's own hold. old_text:
    the text encoder's names have no `text_model.` in them.
    """

    family: Family
    channels: int
    text_width: int
    prediction: str | None = None
    sample_size: int | None = None
    old_text: bool = False

    @property
    def inpainting(self) -> bool:
        return self.channels == 9

    @property
    def unet(self) -> dict[str, int]:
        """Changes to the family's UNet config."""
        size = {} if self.sample_size is None else {"sample_size": self.sample_size}
        return {"in_channels": self.channels, **size}


def open_checkpoint(path: Path) -> Checkpoint:
    """Names and shapes of a file's tensors, without running any code the file may hold."""
    if path.suffix.lower() == ".safetensors":
        return _open_safetensors(path)
    try:
        held: Any = torch.load(path, "cpu", weights_only=True, mmap=is_zipfile(path) or None)
    except Exception as error:  # unpickling raises anything
        raise ModelError(
            f"{path.name} is no checkpoint that can be read safely (only tensors are accepted "
            "from a pickle); convert it to .safetensors and pass that."
        ) from error
    for _ in range(NESTED):  # not for ever: a state dict may hold itself
        held = held["state_dict"] if isinstance(held, dict) and "state_dict" in held else held
    tensors = held if isinstance(held, dict) else {}
    tensors = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return Checkpoint(path.name, shapes, tensors.__getitem__)


def _open_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path.name} is cut short or no safetensors file ({error}); download it again."
        ) from error
    return Checkpoint(path.name, shapes, read)


def recognise(checkpoint: Checkpoint) -> CheckpointKind:
    """The family of a whole Stable Diffusion checkpoint in the original layout.

    Raises ModelError, saying what the file is instead where that can be told.
    """
    shapes, name = checkpoint.shapes, checkpoint.name
    if CONV_IN not in shapes:
        raise ModelError(f"{name} is {_other(shapes)}; {WANTED}")
    family = next((f for f, prefix in TEXT_ENCODERS if _has(shapes, prefix)), None)
    old_text = family is None and _has(shapes, OLD_TEXT + "embeddings.")
    family = "sd1" if old_text else family
    if family is None:
        refiner = _has(shapes, "conditioner.embedders.0.model.")
        what = "the SDXL refiner" if refiner else "a UNet without a text encoder"
        raise ModelError(f"{name} is {what}; {WANTED}")
    if not _has(shapes, "first_stage_model.encoder."):
        raise ModelError(f"{name} has no VAE to encode pictures with; {WANTED}")
    channels = _second(shapes[CONV_IN])
    if channels not in (4, 9):
        raise ModelError(
            f"{name}'s UNet takes {channels} channels, so it is an upscaling, depth or editing "
            f"model; {WANTED}"
        )
    width = next((_second(s) for n, s in shapes.items() if n.endswith("attn2.to_k.weight")), 0)
    training = _training(checkpoint, family, channels)
    return CheckpointKind(family, channels, width, *training, old_text=old_text)


def _training(checkpoint: Checkpoint, family: str, channels: int) -> tuple[str | None, int | None]:
    """(prediction type, native side in latent cells) where they differ from the family's own.

    Nothing in a Stable Diffusion 2 file says whether it was trained at 768 px to predict v, or at
    512 px (base, inpainting) to predict noise. ComfyUI's rule of thumb is used: the spread of
    one bias is above 0.09 in the 768 px models. Fine-tuned SDXL models that predict v say so by
    a tensor called v_pred.
    """
    if family == "sd2":
        wide = channels == 4 and LAST_NORM in checkpoint.shapes
        spread = checkpoint.read(LAST_NORM).float().std(correction=0) if wide else 0.0
        return (None, None) if spread > 0.09 else ("epsilon", 64)
    return ("v_prediction" if "v_pred" in checkpoint.shapes else None), None


def _second(shape: tuple[int, ...]) -> int:
    """The second side of a weight, 0 where it has none."""
    return shape[1] if len(shape) > 1 else 0


def _has(shapes: Mapping[str, Any], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _other(shapes: Mapping[str, Any]) -> str:
    for pattern, what in OTHERS:
        if any(re.search(pattern, name) for name in shapes):
            return what
    return "no model file that is known here" if shapes else "empty"
