"""Stable Diffusion pipelines from a folder, a single checkpoint file or a hub id.

A single file is loaded without asking the hub anything: what its weights don't say, how each
component is built and CLIP's tokenizer, ships in `configs/`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .checkpoints import Checkpoint, Recognised, open_checkpoint, recognise
from .errors import ModelError

CONFIGS = Path(__file__).parent / "configs"
FILES = (".safetensors", ".ckpt", ".pt", ".pth")
WHOLE = "pass a complete checkpoint."
CHOICES = "pass a diffusers folder, a .safetensors checkpoint, or a hub id like owner/name."


def load_pipeline(
    source: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A Stable Diffusion 1, 2 or XL pipeline (or its inpainting kind) ready on `device`.

    source: a diffusers folder, a single checkpoint file (.safetensors; .ckpt and .pt only where
    they hold nothing but tensors), or the id of a hub repository. Folders and files never reach
    for the network. Raises ModelError, in one sentence, for anything else.
    """
    path = Path(source).expanduser()
    with _quiet():
        if path.is_dir():
            pipe = _load_folder(path, dtype)
        elif path.is_file():
            pipe = _load_file(path, dtype)
        elif path.suffix.lower() in FILES or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            raise ModelError(f"There is no model at {str(source)!r}; {CHOICES}")
        else:
            pipe = _load_hub(str(source), dtype)
        return pipe.to(device, dtype)


def _load_folder(folder: Path, dtype: torch.dtype) -> Any:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{folder} holds no model_index.json, so it is no pipeline; {CHOICES}")
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        half = not any(folder.glob("unet/*model.safetensors")) and any(
            folder.glob("unet/*.fp16.safetensors")
        )
        return _from_pretrained(
            str(folder), parts, dtype, local_files_only=True, variant="fp16" if half else None
        )
    except ModelError:
        raise
    except Exception as error:  # each component raises its own kinds
        raise ModelError(f"The pipeline in {folder} cannot be read ({_short(error)}).") from error


def _load_hub(name: str, dtype: torch.dtype) -> Any:
    """From the local cache where the whole model is there already, else from the hub."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import HfApi

    def load(**options: Any) -> Any:
        parts = DiffusionPipeline.load_config(name, **options)
        return _from_pretrained(name, parts, dtype, **options)

    try:
        return load(local_files_only=True)
    except ModelError:
        raise
    except Exception:  # not cached, or not all of it
        logging.getLogger(__name__).info("%s is not in the local cache; asking the hub", name)
    try:
        HfApi().model_info(name, timeout=10)  # says no at once, a download tries for long
        return load()
    except ModelError:
        raise
    except Exception as error:  # whatever the network and its libraries raise
        raise ModelError(
            f"{name!r} is neither here nor to be had from the hub ({_short(error)}); {CHOICES}"
        ) from error


def _from_pretrained(source: str, parts: dict[str, Any], dtype: torch.dtype, **options: Any) -> Any:
    """The pipeline, without its safety checker: nothing is generated."""
    from diffusers import DiffusionPipeline

    if (parts.get("unet") or [None])[0] is None:
        raise ModelError(
            f"{source} is a {parts.get('_class_name', 'pipeline')}, which has no UNet to read "
            "words from; pass a Stable Diffusion 1, 2 or XL model."
        )
    if "safety_checker" in parts:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    return DiffusionPipeline.from_pretrained(source, dtype=dtype, **options)


def _load_file(path: Path, dtype: torch.dtype) -> Any:
    checkpoint = open_checkpoint(path)
    found = recognise(checkpoint)
    _check_width(checkpoint, found)
    try:
        pipe = _from_single_file(path, found, dtype)
    except NotImplementedError as error:  # torch, of a weight that was never filled
        raise ModelError(
            f"{path.name} looks like {found.family} but lacks some of its weights; {WHOLE}"
        ) from error
    except Exception as error:  # diffusers raises many kinds for weights that don't fit
        raise ModelError(
            f"{path.name} looks like {found.family} but its weights do not fit ({_short(error)}); "
            "load it as a diffusers folder."
        ) from error
    empty = [name for name, weight in _weights(pipe) if weight.is_meta]
    if empty:
        raise ModelError(
            f"{path.name} looks like {found.family} but lacks {len(empty)} of its weights, first "
            f"{empty[0]}; {WHOLE}"
        )
    return pipe


def _from_single_file(path: Path, found: Recognised, dtype: torch.dtype) -> Any:
    import diffusers

    folder = CONFIGS / found.family
    parts = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    options: dict[str, Any] = {
        "config": str(folder),
        "local_files_only": True,
        "dtype": dtype,
    }
    unet = diffusers.UNet2DConditionModel.from_single_file(
        str(path), subfolder="unet", **found.unet, **options
    )
    kind = parts["_class_name"]
    if found.inpainting:
        kind = kind.removesuffix("Pipeline") + "InpaintPipeline"
    scheduler = getattr(diffusers, parts["scheduler"][1])
    settings = scheduler.load_config(str(folder), subfolder="scheduler", local_files_only=True)
    if found.prediction is not None:
        settings["prediction_type"] = found.prediction
    if "tokenizer_2" not in parts:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    return getattr(diffusers, kind).from_single_file(
        str(path),
        unet=unet,
        scheduler=scheduler.from_config(settings),
        **_tokenizers(found.family, [name for name in parts if name.startswith("tokenizer")]),
        **options,
    )


def _tokenizers(family: str, names: list[str]) -> dict[str, Any]:
    """CLIP's tokenizer; OpenCLIP's text encoders were trained with zeros, "!", as padding."""
    from transformers import CLIPTokenizer

    open_clip = {"sd2": "tokenizer", "sdxl": "tokenizer_2"}.get(family)
    padding = {name: "!" if name == open_clip else "<|endoftext|>" for name in names}
    folder = str(CONFIGS / "tokenizer")
    return {name: CLIPTokenizer.from_pretrained(folder, pad_token=padding[name]) for name in names}


def _check_width(checkpoint: Checkpoint, found: Recognised) -> None:
    config = json.loads((CONFIGS / found.family / "unet" / "config.json").read_text("utf-8"))
    if found.text_width != config["cross_attention_dim"]:
        raise ModelError(
            f"{checkpoint.name} is built like {found.family} but reads text {found.text_width} "
            f"wide instead of {config['cross_attention_dim']}; load it as a diffusers folder."
        )


def _weights(pipe: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            for name, weight in module.named_parameters():
                yield f"{part}.{name}", weight


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors alone, and no progress bars, from the libraries while a model loads."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def _short(error: Exception) -> str:
    """The first sentence of a library's message, which may run over pages."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")[:160]
