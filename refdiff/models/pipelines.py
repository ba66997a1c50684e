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
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from .checkpoints import OLD_TEXT, Checkpoint, CheckpointKind, open_checkpoint, recognise
from .parts import check_parts, check_tokenizers
from .trust import OPTIONAL, check_folder, check_index, read_config

CONFIGS = Path(__file__).parents[1] / "configs"
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
    path = as_path(source)
    with _quiet():
        if path.is_dir():
            pipe = _load_folder(path, dtype)
        elif path.is_file():
            pipe = _load_file(path, dtype)
        elif path.suffix.lower() in FILES or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            raise ModelError(f"There is no model at {str(source)!r}; {CHOICES}")
        else:
            pipe = _load_folder(_from_hub(str(source)), dtype)
        return pipe.to(device, dtype)


def as_path(source: str | Path) -> Path:
    """The path that is meant; ModelError for ~nobody, one too long, or with a zero byte in it."""
    try:
        path = Path(source).expanduser()
        path.is_dir()
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ModelError(
            f"{str(source)[:100]!r} is no path that can be looked at ({said}); {CHOICES}"
        ) from error
    return path


def _load_folder(folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline of a diffusers folder, every config of which was looked at before."""
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} holds no model_index.json, so it is no pipeline; {CHOICES}")
    index = read_config(folder / "model_index.json")
    check_index(index, folder)
    check_folder(folder)
    check_parts(folder, index)
    half = not any(folder.glob("unet/*model.safetensors")) and any(
        folder.glob("unet/*.fp16.safetensors")
    )
    try:
        pipe = _from_pretrained(folder, index, dtype, variant="fp16" if half else None)
    except Exception as error:  # each component raises its own kinds
        raise ModelError(f"The pipeline in {folder} cannot be read ({_short(error)}).") from error
    _check_filled(pipe, str(folder))
    check_tokenizers(pipe)
    return pipe


def _from_pretrained(
    folder: Path, index: dict[str, Any], dtype: torch.dtype, **options: Any
) -> Any:
    """The pipeline, without its safety checker: nothing is generated."""
    from diffusers import DiffusionPipeline

    if "safety_checker" in index:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    return DiffusionPipeline.from_pretrained(
        str(folder),
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )


def _from_hub(name: str) -> Path:
    """The folder of a hub repository: in the local cache where it is whole there, else fetched.

    Its model_index.json is read before anything else is asked for. Only safetensors and what
    describes them are fetched. A name whose first half is a folder here is a path with a
    slip in it, and is not sent to the hub.
    """
    try:
        return _snapshot(name, local_files_only=True)
    except ModelError:
        raise
    except Exception:  # not cached, or not all of it
        _check_mistyped(Path(name))
    logging.getLogger(__name__).warning("%s is not here; asking the hub for it", name)
    try:
        from huggingface_hub import HfApi

        HfApi().model_info(name, timeout=10)  # says no at once, a download tries for long
        return _snapshot(name)
    except ModelError:
        raise
    except Exception as error:  # whatever the network and its libraries raise
        raise ModelError(
            f"{name!r} is neither here nor to be had from the hub ({_short(error)}); {CHOICES}"
        ) from error


def _snapshot(name: str, **options: Any) -> Path:
    """The cached folder of a repository; ModelError where its model_index.json is refused."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    index = Path(hf_hub_download(name, "model_index.json", **options))
    parts = read_config(index)
    check_index(parts, name)
    unwanted = dict.fromkeys(part for part in OPTIONAL if part in parts)
    folder = DiffusionPipeline.download(
        name, use_safetensors=True, trust_remote_code=False, **unwanted, **options
    )
    try:
        check_parts(Path(folder), parts)
    except ModelError as error:
        if options:
            raise FileNotFoundError(str(error)) from error  # not all of it is in the cache
        raise
    return Path(folder)


def _check_mistyped(path: Path) -> None:
    """Raise ModelError for owner/name where a folder called owner is here without that name."""
    if not path.parent.is_dir():
        return
    there = sorted(each.name for each in path.parent.iterdir())[:200]
    close = get_close_matches(path.name, there, 3) or there[:3]
    raise ModelError(
        f"There is no {path.name!r} in the folder {str(path.parent)!r} (it holds "
        f"{', '.join(close) or 'nothing'}); mend the path. It is not asked of the hub; for a hub "
        "id run from a folder without that name."
    )


def _load_file(path: Path, dtype: torch.dtype) -> Any:
    checkpoint = open_checkpoint(path)
    found = recognise(checkpoint)
    _check_width(checkpoint, found)
    try:
        pipe = _from_single_file(path, checkpoint, found, dtype)
    except NotImplementedError as error:  # torch, of a weight that was never filled
        raise ModelError(
            f"{path.name} looks like {found.family} but lacks some of its weights; {WHOLE}"
        ) from error
    except Exception as error:  # diffusers raises many kinds for weights that don't fit
        raise ModelError(
            f"{path.name} looks like {found.family} but its weights do not fit ({_short(error)}); "
            "load it as a diffusers folder."
        ) from error
    _check_filled(pipe, f"{path.name} looks like {found.family} but")
    return pipe


def _check_filled(pipe: Any, what: str) -> None:
    """Raise ModelError for weights that no file had."""
    empty = [name for name, weight in _weights(pipe) if weight.is_meta]
    if empty:
        raise ModelError(f"{what} lacks {len(empty)} of its weights, first {empty[0]}; {WHOLE}")


def _from_single_file(
    path: Path, checkpoint: Checkpoint, found: CheckpointKind, dtype: torch.dtype
) -> Any:
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
    if found.old_text:
        options["text_encoder"] = _old_text_encoder(checkpoint, folder, dtype)
    return getattr(diffusers, kind).from_single_file(
        str(path),
        unet=unet,
        scheduler=scheduler.from_config(settings),
        **own_tokenizers(found.family, [name for name in parts if name.startswith("tokenizer")]),
        **options,
    )


def _old_text_encoder(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> Any:
    """The text encoder of a file from before transformers said `text_model.`, its keys renamed.

    ComfyUI renames them alike.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = read_config(folder / "text_encoder" / "config.json")
    encoder: Any = CLIPTextModel(CLIPTextConfig(**config))
    inner = "text_model." if any(n.startswith("text_model.") for n in encoder.state_dict()) else ""
    state = {
        inner + name.removeprefix(OLD_TEXT): checkpoint.read(name)
        for name in checkpoint.shapes
        if name.startswith(OLD_TEXT) and not name.endswith("position_ids")
    }
    encoder.load_state_dict(state)
    return encoder.to(dtype).eval()


def own_tokenizers(family: str, names: list[str]) -> dict[str, Any]:
    """CLIP's tokenizer; OpenCLIP's text encoders were trained with zeros, "!", as padding."""
    from transformers import CLIPTokenizer

    open_clip = {"sd2": "tokenizer", "sdxl": "tokenizer_2"}.get(family)
    padding = {name: "!" if name == open_clip else "<|endoftext|>" for name in names}
    folder = str(CONFIGS / "tokenizer")
    return {name: CLIPTokenizer.from_pretrained(folder, pad_token=padding[name]) for name in names}


def _check_width(checkpoint: Checkpoint, found: CheckpointKind) -> None:
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
