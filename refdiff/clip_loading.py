"""Reading an open_clip model: from a folder, by open_clip's name and tag, or from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from .errors import ModelError

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def read_model(
    source: str, device: str | torch.device, precision: str, network: bool = True
) -> tuple[Any, Any]:
    """open_clip's model and tokenizer. network: whether they may be downloaded."""
    try:
        import open_clip
    except ImportError as error:
        raise ModelError(
            "CLIP scores need open_clip; install it with `pip install open_clip_torch`."
        ) from error
    name, tag = _address(source, open_clip)
    try:
        with nullcontext() if network else _offline():
            model = open_clip.create_model(
                name,
                pretrained=tag,
                precision=precision,
                device=device,
                require_pretrained=True,
                weights_only=True,
            )
            return model, open_clip.get_tokenizer(name)
    except Exception as error:  # whatever a broken file or a failed download brings up
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"The CLIP model {source} cannot be read ({lines[0][:200]}); check that its files are "
            "complete, or that it may be downloaded and the network is there."
        ) from error


def _address(source: str, open_clip: Any) -> tuple[str, str | None]:
    """What open_clip calls the source: its name and, for its own models, the weights' tag."""
    folder = Path(source.removeprefix("local-dir:"))
    if folder.is_dir():
        _check_folder(folder)
        return f"local-dir:{folder}", None
    if source.startswith("hf-hub:"):
        return source, None
    name, _, tag = source.partition("/")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if folder.exists() or not tags:
        raise ModelError(
            f"{source} is neither a folder with {WEIGHTS[0]} nor a model that open_clip knows; "
            "give such a folder, a name such as ViT-B-16/openai, or hf-hub:owner/name."
        )
    if tag not in tags:
        raise ModelError(
            f"open_clip has no weights {tag or '(none named)'} for {name}; choose "
            f"{name}/TAG with one of {', '.join(tags)}."
        )
    return name, tag


def _check_folder(folder: Path) -> None:
    if not (folder / "open_clip_config.json").is_file():
        raise ModelError(
            f"{folder} has no open_clip_config.json; give a folder that open_clip has saved."
        )
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ModelError(
            f"{folder} has no {WEIGHTS[0]}; pickled weights (.bin, .pt) are not read, so save the "
            "weights as safetensors."
        )


@contextmanager
def _offline() -> Iterator[None]:
    """Inside, the hub's library reads its cache and nothing else."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
