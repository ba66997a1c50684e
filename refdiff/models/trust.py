"""What a stranger's model folder may ask for, read and judged before any library sees it.

A folder of safetensors and JSON can still name Python: a tokenizer or a class "of its own"
(`auto_map`, `trust_remote_code`, a custom pipeline) or attention code on the hub. Its numbers can
ask for more memory than there is. Both are refused here, by reading the JSON alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError

REMOTE_CODE = ("auto_map", "custom_pipeline", "custom_pipelines", "trust_remote_code")
"""Keys that make transformers or diffusers import Python from the folder or from the hub."""
CONFIGS = (
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "model_index.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "scheduler_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
"""What the libraries read by themselves and take names and numbers from."""
LARGEST_CONFIG = 4_000_000  # bytes; the shipped ones have a few thousand
LARGEST_NUMBER = 1 << 22  # no width, vocabulary or number of timesteps is beyond it
LIMITS = {
    "sample_size": 1024,
    "image_size": 4096,
    "context_length": 4096,
    "max_position_embeddings": 65_536,
    "layers_per_block": 16,
    "block_out_channels": 4096,
    "n_queries": 16_384,
    "mlp_ratio": 64,
}
"""The largest value of a key; other keys go by what they end with, in ENDINGS."""
ENDINGS = (("layers|heads|depth|layers_per_block", 512), ("dim|channels|width", 16_384))
BLOCKS = 8  # of a UNet or VAE; each halves the picture
UNBOUNDED = ("model_max_length", "max_len", "pixels")  # transformers writes 1e30 for "no limit"


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a model's folder; ModelError when it is none, too long or not a file."""
    try:
        if not path.is_file():
            raise ModelError(f"There is no file {path}; download the whole model again.")
        if path.stat().st_size > LARGEST_CONFIG:
            raise ModelError(f"{path} has over {LARGEST_CONFIG / 1e6:.0f} MB, so it is no config.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else error
        raise ModelError(f"{path} cannot be read as JSON ({said}); download it again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}, wanted an object; download the "
                         "model again.")  # fmt: skip
    return config


def check_folder(folder: Path) -> None:
    """Refuse a model folder whose JSON names code, or numbers no model has.

    The folder itself and the folders directly in it, which is where libraries look. Everything
    there must be a file or a folder: a pipe or a device would be waited for without end.
    """
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if not path.is_file() and not path.is_dir():
            what = "a link to nothing" if path.is_symlink() and not path.exists() else "no file"
            raise ModelError(f"{path} is {what}; a model's folder holds files only.")
        if path.name in CONFIGS:
            check_config(read_config(path), path)


def check_config(config: dict[str, Any], where: Path | str) -> None:
    """Refuse a config that names code to import, or a number out of bounds."""
    for key, value in _walk(config):
        if key in REMOTE_CODE and value not in (None, False, {}, []):
            raise ModelError(
                f"{where} asks for Python code by {key!r}; such code never runs here, so take a "
                "model that the libraries know by themselves."
            )
        if key.lstrip("_").startswith("attn_implementation") and re.search(r"[/|:@]", str(value)):
            raise ModelError(f"{where} asks for attention code {value!r} from the hub; remove it.")
        _check_number(key, value, where)


def _check_number(key: str, value: Any, where: Path | str) -> None:
    if isinstance(value, list):
        if key.endswith("block_out_channels") and len(value) > BLOCKS:
            raise ModelError(f"{where} has {len(value)} blocks, wanted {BLOCKS} at most.")
        for each in value:
            _check_number(key, each, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or key in UNBOUNDED:
        return
    by_ending = (most for ending, most in ENDINGS if re.search(rf"(?:{ending})$", key))
    most = LIMITS.get(key, next(by_ending, LARGEST_NUMBER))
    if not math.isfinite(value) or abs(value) > most:
        raise ModelError(f"{where} has {key} {value}, beyond {most}; no model like that is read.")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested objects and lists, with what stands there."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield from one.items()
            left += one.values()
        elif isinstance(one, list):
            left += one


# ---- diffusers folders ------------------------------------------------------------------------

LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that reading words never needs."""


def check_index(index: dict[str, Any], where: Path | str) -> None:
    """Refuse a model_index.json whose pipeline or parts are not classes of the libraries.

    Raises ModelError for a pipeline without a UNet too.
    """
    import diffusers

    check_config(index, where)
    name = index.get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise ModelError(
            f"{where} names the pipeline {name!r}, which diffusers does not have; custom "
            "pipelines are never run, so pass a Stable Diffusion 1, 2 or XL model."
        )
    if "unet" not in parts_of(index):
        raise ModelError(
            f"{where} is a {name}, which has no UNet to read words from; pass a Stable Diffusion "
            "1, 2 or XL model."
        )
    for part, named in parts_of(index).items():
        _check_class(part, named, where)


def parts_of(index: dict[str, Any]) -> dict[str, list[Any]]:
    """The parts that a model_index.json names, less those left out and those never needed."""
    return {
        part: named
        for part, named in index.items()
        if isinstance(named, list) and named and named[0] is not None and part not in OPTIONAL
    }


def _check_class(part: str, named: list[Any], where: Path | str) -> None:
    import diffusers
    import transformers

    library, name = named if len(named) == 2 else (named, None)
    home: Any = {"diffusers": diffusers, "transformers": transformers}.get(str(library))
    plain = isinstance(name, str) and name.isidentifier() and name[0].isupper()
    if home is None or not plain or not hasattr(home, str(name)):
        raise ModelError(
            f"{where} takes {part} from {named}, wanted a class of diffusers or transformers; "
            "other code is never run."
        )
