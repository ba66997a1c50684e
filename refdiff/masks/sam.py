"""SAM, SAM 2 and SAM 3 by transformers: every mask of a picture, and the mask of what is asked.

Models come from a folder, a .safetensors file beside its config.json, or the hub's local cache.
Nothing is downloaded, nothing unpickled, no code of a model's runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import ModelError
from ..models.pipelines import as_path
from .candidates import Mask, without_crumbs
from .handover import Prompts

KINDS = {
    "sam": ("SamModel", "SamProcessor", "SamImageProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor", "Sam2ImageProcessor"),
    "sam3": ("Sam3TrackerModel", "Sam3TrackerProcessor", "Sam2ImageProcessor"),
}
CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
SIDE = 32  # points a side of the grid that asks for everything
QUALITY, STABILITY = 0.8, 0.9  # least predicted IoU, and IoU of a mask cut 1 above and 1 below
BATCH = 64  # points asked at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sam:
    """A SAM of transformers and its processor; see `load_sam`."""

    model: Any
    processor: Any

    @torch.inference_mode()
    def everything(
        self,
        image: Image.Image,
        side: int = SIDE,
        quality: float = QUALITY,
        stability: float = STABILITY,
    ) -> Iterator[Mask]:
        """Masks [H, W] of all that a grid of side x side points lies on, one at a time.

        Those of little promise are left out, crumbs and holes of the others too; the same thing
        may come several times.
        """
        across = (np.arange(side) + 0.5) / side
        points = [[x * image.width, y * image.height] for y in across for x in across]
        shown = self._shown(image, input_points=[[[point] for point in points]])
        seen = self.model.get_image_embeddings(shown["pixel_values"])
        for part in shown["input_points"].split(BATCH, dim=1):
            answer = self.model(image_embeddings=seen, input_points=part, multimask_output=True)
            logits, promise = answer.pred_masks[0].float(), answer.iou_scores[0]
            good = (promise >= quality) & (_stability(logits) >= stability)
            for one in logits[good]:
                yield self._full(_clean(one), shown)

    @torch.inference_mode()
    def ask(self, image: Image.Image, prompts: Prompts, logits: bool = True) -> list[Mask]:
        """The masks [H, W] that answer the prompts, the most promising first."""
        shown = self._shown(image, **prompts.for_transformers())
        asked = {n: shown[n] for n in ("pixel_values", "input_points", "input_boxes")}
        asked["input_labels"] = shown["input_labels"]
        if logits:
            asked["input_masks"] = self._dense(prompts.logits)
        answer = self.model(**asked, multimask_output=True)
        order = answer.iou_scores[0, 0].argsort(descending=True).tolist()
        return [self._full(_clean(answer.pred_masks[0, 0, one].float()), shown) for one in order]

    def _shown(self, image: Image.Image, **prompts: Any) -> dict[str, Any]:
        made = self.processor(images=image, **prompts, return_tensors="pt")
        kind, device = self.model.dtype, self.model.device
        moved = {}
        for name, value in made.items():
            floating = isinstance(value, Tensor) and value.is_floating_point()
            value = value.to(kind) if floating else value
            moved[name] = value.to(device) if isinstance(value, Tensor) else value
        return moved

    def _dense(self, logits: Tensor) -> Tensor:
        config = self.model.config.prompt_encoder_config
        side = 4 * (config.image_size // config.patch_size)
        fitted = interpolate(logits[None, None], (side, side), mode="bilinear", antialias=True)
        return fitted.to(self.model.device, self.model.dtype)

    def _full(self, logits: Tensor, shown: dict[str, Any]) -> Mask:
        """Low-resolution logits [h, w] as a mask of the picture's size."""
        sizes = {"original_sizes": shown["original_sizes"].tolist()}
        if "reshaped_input_sizes" in shown:
            sizes["reshaped_input_sizes"] = shown["reshaped_input_sizes"].tolist()
        found = self.processor.post_process_masks(logits[None, None, None], **sizes)
        return found[0][0, 0].cpu().numpy().astype(bool)


def _stability(logits: Tensor) -> Tensor:
    """IoU of each mask cut 1 above zero and 1 below: [...] of [..., h, w]."""
    inner = (logits > 1).flatten(-2).sum(-1)
    outer = (logits > -1).flatten(-2).sum(-1)
    return inner / outer.clamp(min=1)


def _clean(logits: Tensor) -> Tensor:
    """Logits [h, w] whose small parts are outside, and small holes inside."""
    mask = logits > 0
    solid = torch.from_numpy(without_crumbs(mask.cpu().numpy())).to(logits.device)
    sunk = torch.where(mask & ~solid, -logits.abs() - 1e-3, logits)
    return torch.where(solid & ~mask, logits.abs() + 1e-3, sunk)


def load_sam(spec: str, device: str | torch.device = "cpu") -> Sam:
    """The SAM that "sam:MODEL", "sam2:MODEL" or "sam3:MODEL" names, in memory.

    MODEL: a folder, a .safetensors file with config.json beside it, or the id of a hub repository
    that is in the local cache. Raises ModelError for anything else.
    """
    kind, _, source = spec.partition(":")
    if kind not in KINDS or not source:
        raise ModelError(f"{spec!r} names no SAM; write {', '.join(f'{k}:MODEL' for k in KINDS)}.")
    path = as_path(source)
    if path.suffix == ".safetensors" and not (path.parent / "config.json").is_file():
        raise ModelError(
            f"'{path}' has no config.json beside it, which says how SAM is built; put it there."
        )
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise ModelError(f"'{path}' holds no .safetensors; pickled weights are not read.")
    try:
        _check(path)
        return _loaded(kind, path if path.exists() else source, device)
    except ModelError:
        raise
    except Exception as error:  # each library on the way raises its own kinds
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"{spec} cannot be read ({said}); give a folder or file that is here, or an id that "
            "is in the hub's cache."
        ) from error


def _check(path: Path) -> None:
    """Raise ModelError when the configs of a SAM ask for code or numbers that no model has."""
    from ..models.trust import check_config, check_folder, read_config

    if path.is_dir():
        check_folder(path)
    for name in CONFIGS if path.is_file() else ():
        if (config := path.parent / name).exists():
            check_config(read_config(config), config)


def _loaded(kind: str, source: Path | str, device: Any) -> Sam:
    import transformers

    names = KINDS[kind]
    model_kind, processor_kind, pixels_kind = (getattr(transformers, name) for name in names)
    single = isinstance(source, Path) and source.is_file()
    folder = source.parent if isinstance(source, Path) and single else source
    safe = {"local_files_only": True, "trust_remote_code": False}
    if single:
        from safetensors.torch import load_file

        config = model_kind.config_class.from_pretrained(folder, **safe)
        model = model_kind.from_pretrained(None, config=config, state_dict=load_file(source))
    else:
        model = model_kind.from_pretrained(folder, use_safetensors=True, **safe)
    try:
        processor = processor_kind.from_pretrained(folder, **safe)
    except (OSError, ValueError):
        log.warning("%s has no processor's config; the usual one is taken", folder)
        processor = processor_kind(pixels_kind())
    return Sam(model.eval().requires_grad_(False).to(device), processor)
