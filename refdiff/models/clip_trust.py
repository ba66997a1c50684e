"""What an open_clip folder may ask for, read and judged before open_clip sees it.

open_clip hands `tokenizer_kwargs` of a folder's config to transformers as they are, and with
`trust_remote_code` among them a tokenizer's Python runs. So a folder gets a tokenizer that is known
here, and of the arguments only those that open_clip's own models use.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .parts import has_tokenizer, numbers_in
from .trust import check_config, check_folder, read_config

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
ARGUMENTS = {"clean": str, "strip_sep_token": bool}
"""Of a tokenizer, and their types: those that the configs which open_clip ships use."""
LEAST_CONTEXT = 8  # tokens of a text; the shortest that open_clip's own models take
CLEANINGS = ("lower", "whitespace", "canonicalize")
TOKENIZERS = (
    "BertTokenizer",
    "CLIPTokenizer",
    "GemmaTokenizer",
    "MT5Tokenizer",
    "NllbTokenizer",
    "PreTrainedTokenizer",
    "RobertaTokenizer",
    "T5Tokenizer",
    "TokenizersBackend",
    "XLMRobertaTokenizer",
)
"""Classes of transformers (each with Fast behind it too) that open_clip's own models use."""


def check_clip_config(config: dict[str, Any], where: Path | str, known: set[str]) -> dict[str, Any]:
    """The config's model_cfg; ModelError for what is not known here to be harmless.

    known: names of tokenizers and text models that open_clip's own models use.
    """
    check_config(config, where)
    model: Any = config.get("model_cfg")
    parts = [model.get(part) for part in ("vision_cfg", "text_cfg")] if _is_dict(model) else []
    if not parts or not all(map(_is_dict, parts)):
        raise ModelError(f"{where} has no model_cfg with vision_cfg and text_cfg; save it again.")
    vision, text = parts
    arguments = text.get("tokenizer_kwargs") or {}
    unknown = [
        key
        for key, value in (arguments.items() if _is_dict(arguments) else [("of a list", 0)])
        if not isinstance(value, ARGUMENTS.get(key, type(None)))
    ]
    if unknown or arguments.get("clean", CLEANINGS[0]) not in CLEANINGS:
        raise ModelError(
            f"{where} gives its tokenizer arguments {arguments}, and only {', '.join(ARGUMENTS)} "
            "are passed on; remove the others."
        )
    if "hf_model_name" in text and str(text["hf_model_name"]) not in known:
        raise ModelError(
            f"{where} takes its text model from {text['hf_model_name']!r}, wanted one that "
            f"open_clip's own models use: {', '.join(sorted(known))}."
        )
    if "timm_model_name" in vision and not _is_siglip(vision):
        raise ModelError(
            f"{where} takes its image tower from timm ({vision['timm_model_name']!r}), and masks "
            "can act on open_clip's own and on SigLIP's; choose a model such as ViT-B-16/openai."
        )
    room = text.get("context_length", LEAST_CONTEXT)
    if not isinstance(room, int) or room < LEAST_CONTEXT:
        raise ModelError(
            f"{where} has context_length {room!r}, wanted {LEAST_CONTEXT} or more, for texts would "
            "lose their words; download the model again."
        )
    _check_pixels(config.get("preprocess_cfg") or {}, where)
    return model


def check_clip_folder(folder: Path, known: set[str], elsewhere: bool = False) -> dict[str, Any]:
    """Refuse a folder that is no open_clip model, not whole, or asks for code; its model_cfg.

    known: as for `check_clip_config`. elsewhere: a known tokenizer need not lie in the folder.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} has no {CONFIG}; give a folder that open_clip has saved.")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ModelError(
            f"{folder} has no {WEIGHTS[0]}; pickled weights (.bin, .pt) are not read, so save the "
            "weights as safetensors."
        )
    check_folder(folder)
    model = check_clip_config(read_config(folder / CONFIG), folder / CONFIG, known)
    if named := model["text_cfg"].get("hf_tokenizer_name"):
        _check_tokenizer(folder, str(named), known if elsewhere else set())
    _check_room(folder, model)
    return model


def _check_tokenizer(folder: Path, named: str, elsewhere: set[str]) -> None:
    """A tokenizer of transformers: its files, of a class known here; or one known by its name."""
    if not has_tokenizer(folder):
        if named in elsewhere:
            return
        raise ModelError(
            f"{folder} lacks its tokenizer ({named}: tokenizer.json and tokenizer_config.json); "
            "copy these into it."
        )
    kind = str(read_config(folder / "tokenizer_config.json").get("tokenizer_class"))
    if kind.removesuffix("Fast") not in TOKENIZERS:
        raise ModelError(
            f"{folder} has a tokenizer of the class {kind}, wanted one of {', '.join(TOKENIZERS)}."
        )


def _check_pixels(config: Any, where: Path | str) -> None:
    for name, least in (("mean", -math.inf), ("std", 0)):
        values = config.get(name, (0.5, 0.5, 0.5)) if _is_dict(config) else config
        good = isinstance(values, list | tuple) and len(values) == 3
        if not good or not all(isinstance(v, int | float) and least < v < 100 for v in values):
            raise ModelError(f"{where} has {name} {values!r}, wanted three numbers; save it again.")


def _check_room(folder: Path, model: dict[str, Any]) -> None:
    """Refuse a config that asks for far more weights than the folder's files hold."""
    try:
        wanted = _least_numbers(model)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be understood ({error}); save it again.") from (
            error
        )
    held = numbers_in(folder)
    if wanted > held:
        raise ModelError(
            f"{folder} asks for {wanted:,} weights by its config and holds {held:,}; download the "
            "whole model again."
        )


def _least_numbers(model: dict[str, Any]) -> int:
    """A lower bound on the weights of both transformers, without what is small."""
    found = 0
    for tower, (width, layers) in {"vision_cfg": (768, 12), "text_cfg": (512, 12)}.items():
        config = model[tower]
        if "hf_model_name" in config:
            continue
        if "timm_model_name" in config:
            found += _numbers_of_timm(str(config["timm_model_name"]))
            continue
        layers, width = config.get("layers", layers), int(config.get("width", width))
        count = sum(map(int, layers)) if isinstance(layers, list) else int(layers)
        ratio = float(config.get("mlp_ratio", 4.0))
        found += int(count * width * width * (1 if isinstance(layers, list) else 4 + 2 * ratio))
        if tower == "text_cfg":
            found += width * int(config.get("vocab_size", 49408))
        elif not isinstance(layers, list):
            side, patch = config.get("image_size", 224), config.get("patch_size", 16)
            sides, patches = (x if isinstance(x, list) else [x, x] for x in (side, patch))
            found += width * (sides[0] // patches[0]) * (sides[1] // patches[1])
    return found


def _is_siglip(vision: dict[str, Any]) -> bool:
    """Whether timm is asked for one of SigLIP's towers by its plain name, and for no weights."""
    plain = re.fullmatch(r"vit_\w+_patch\d+_siglip_\d+", str(vision["timm_model_name"]))
    asked = vision.get("timm_pool"), vision.get("timm_model_pretrained", False)
    return plain is not None and asked == ("map", False)


def _numbers_of_timm(name: str) -> int:
    """The weights of one of timm's models, counted without making them."""
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    return sum(one.numel() for one in model.parameters())


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
