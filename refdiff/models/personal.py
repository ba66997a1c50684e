"""Words of one's own: embeddings of textual inversion and LoRAs, put into a pipeline.

Both are read from .safetensors alone, because older kinds (.pt, .bin) are pickles, which can run
code when they are opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ModelError

_TOWERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}  # of SDXL's embeddings


def learn_words(pipe: Any, embeddings: Sequence[str | Path] = (), loras: Sequence[str] = ()) -> Any:
    """The pipeline, which now knows these words; it is changed and given back.

    embeddings: files of textual inversion (arXiv 2208.01618) of diffusers or A1111, or WORD=FILE;
    the word is the one that the file names, or else the file's name. loras: files, or FILE:WEIGHT.
    Raises ModelError for a file that is none of these or made for another model, ValueError for a
    weight that is no number.
    """
    for given in embeddings:
        _add_embedding(pipe, str(given))
    if loras:
        _add_loras(pipe, [_weighted(str(given)) for given in loras])
    return pipe


def _add_embedding(pipe: Any, given: str) -> None:
    word, _, name = given.rpartition("=") if not os.path.exists(given) else ("", "", given)
    path = Path(os.path.expanduser(name))
    held = _read(path, "an embedding")
    vectors = {tower: held[key] for key, tower in _TOWERS.items() if key in held}
    if not vectors:
        named, vectors = _single(held, path)
        word = word or named
    word = word or path.stem
    for tower, vector in vectors.items():
        encoder = getattr(pipe, tower, None)
        wide = 0 if encoder is None else encoder.get_input_embeddings().weight.shape[1]
        if vector.ndim not in (1, 2) or vector.shape[-1] != wide:
            raise ModelError(
                f"'{path}' holds vectors of {vector.shape[-1]} numbers and the model's {tower} "
                f"reads {wide}; take an embedding made for this family of models."
            )
        _load(pipe, word, vector, tower)


def _load(pipe: Any, word: str, vector: Tensor, tower: str) -> None:
    second = tower == "text_encoder_2"
    parts = {
        "text_encoder": getattr(pipe, tower),
        "tokenizer": pipe.tokenizer_2 if second else pipe.tokenizer,
    }
    if word in parts["tokenizer"].get_vocab():
        raise ModelError(
            f"{word!r} is a word of the model already; give the embedding another, such as "
            f"'<{word}>=FILE'."
        )
    pipe.load_textual_inversion({word: vector}, token=word, **parts)


def _single(held: dict[str, Tensor], path: Path) -> tuple[str, dict[str, Tensor]]:
    """The word that a file names, if any, and its vectors."""
    if "emb_params" in held:
        return "", {"text_encoder": held["emb_params"]}
    if len(held) == 1:
        [(word, vector)] = held.items()
        return word, {"text_encoder": vector}
    raise ModelError(
        f"'{path}' holds {len(held)} tensors, wanted an embedding: one tensor, or clip_l and "
        "clip_g for SDXL."
    )


def _weighted(given: str) -> tuple[Path, float]:
    name, _, weight = given.rpartition(":")
    if os.path.exists(given) or not name:
        return Path(given), 1.0
    try:
        return Path(os.path.expanduser(name)), float(weight)
    except ValueError:
        return Path(os.path.expanduser(given)), 1.0


def _add_loras(pipe: Any, loras: Sequence[tuple[Path, float]]) -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ModelError("A LoRA needs peft; pip install peft.") from None
    names = [f"lora{index}" for index in range(len(loras))]
    for name, (path, _) in zip(names, loras, strict=True):
        held = _read(path, "a LoRA")
        try:
            pipe.load_lora_weights(held, adapter_name=name)
        except Exception as error:  # a file made for something else brings up anything
            said = " ".join(str(error).split())[:160]
            raise ModelError(
                f"'{path}' is no LoRA for this model ({said}); take one made for its family."
            ) from error
    pipe.set_adapters(names, [weight for _, weight in loras])


def _read(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"There is no file '{path}'; name {what} as .safetensors.")
    if path.suffix.lower() != ".safetensors":
        raise ModelError(
            f"'{path}' is no .safetensors file, and older kinds can run code when they are opened; "
            f"convert {what} first."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"'{path}' cannot be read ({error}); download it again.") from error
