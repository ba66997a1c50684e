"""Whether a diffusers folder is whole: what is missing is named, before anything is loaded.

The libraries fill in for some of it without a word: without its files a tokenizer knows no words,
and weights that a file lacks are random numbers.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from ..attention.prompt_chunks import window_of
from ..errors import ModelError
from .trust import parts_of, read_config

WHOLE = "copy or download the whole model again."
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
"""Files any one group of which makes a tokenizer."""


def check_parts(folder: Path, index: dict[str, Any]) -> None:
    """Raise ModelError, naming them, when parts of a pipeline or files of parts are missing."""
    named = parts_of(index)
    wanted = {"unet", "vae", "scheduler"} - set(named)
    wanted |= {f"tokenizer{part.removeprefix('text_encoder')}" for part in named
               if part.startswith("text_encoder")} - set(named)  # fmt: skip
    if wanted:
        raise ModelError(f"{folder} names no {' and no '.join(sorted(wanted))}; {WHOLE}")
    for part, (_, kind) in named.items():
        missing = _missing(folder / part, str(kind))
        if missing:
            raise ModelError(f"{folder / part} lacks {missing}; {WHOLE}")
    for part in named:
        if part.startswith("text_encoder"):
            check_room(folder / part)


def _missing(folder: Path, kind: str) -> str:
    """What a part lacks, in words; empty when it is whole."""
    if "Tokenizer" in kind:
        return "" if has_tokenizer(folder) else "its vocabulary (vocab.json and merges.txt)"
    config = "scheduler_config.json" if "Scheduler" in kind else "config.json"
    if not (folder / config).is_file():
        return config
    if "Scheduler" in kind or any(folder.glob("*.safetensors")):
        return ""
    if any(file.suffix in (".bin", ".ckpt", ".pt", ".msgpack") for file in folder.iterdir()):
        return "its weights as safetensors (pickled ones are not read, so convert them)"
    return "its weights (.safetensors)"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's vocabulary."""
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZERS)


def numbers_in(folder: Path) -> int:
    """How many numbers the safetensors of a folder hold, in the largest set of weights there."""
    from safetensors import SafetensorError, safe_open

    sizes: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                held = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path} is not complete ({error}); download it again.") from error
        kind = path.name.split("-of-")[0].rsplit("-", 1)[0] if "-of-" in path.name else path.name
        sizes[kind] = sizes.get(kind, 0) + held
    return max(sizes.values(), default=0)


def check_room(folder: Path) -> None:
    """Raise ModelError when a text encoder's config asks for more weights than its files hold.

    What is missing would be made up at random, in as much memory as the config likes.
    """
    config = read_config(folder / "config.json")
    try:
        width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        layers, words = int(config["num_hidden_layers"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError):
        return  # another kind of text encoder, whose library looks after it
    wanted = words * width + layers * (4 * width * width + 2 * width * inner)
    held = numbers_in(folder)
    if held < wanted:
        raise ModelError(
            f"{folder} should hold {wanted:,} weights by its config and holds {held:,}; {WHOLE}"
        )


def check_tokenizers(pipe: Any) -> None:
    """Raise ModelError for a tokenizer that does not go with its text encoder."""
    for end in ("", "_2"):
        tokenizer = getattr(pipe, f"tokenizer{end}", None)
        encoder = getattr(pipe, f"text_encoder{end}", None)
        if encoder is None:
            continue
        if tokenizer is None:
            raise ModelError(f"{type(pipe).__name__} has a text encoder and no tokenizer; {WHOLE}")
        known, rows = len(tokenizer), encoder.get_input_embeddings().num_embeddings
        if not rows // 2 <= known <= rows:
            raise ModelError(
                f"The tokenizer{end} knows {known} pieces of words and the text_encoder{end} "
                f"{rows}; {WHOLE}"
            )
        window_of(tokenizer)
