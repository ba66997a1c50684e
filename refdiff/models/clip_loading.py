"""Reading an open_clip model: from a folder, by open_clip's name and tag, or from the hub."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from .clip_trust import CONFIG, WEIGHTS, check_clip_config, check_clip_folder
from .parts import has_tokenizer
from .trust import read_config

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
HUB = "hf-hub:"
FETCHED = (
    CONFIG,
    *WEIGHTS,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
)
"""What is fetched of a hub repository: no Python and no pickles."""


def read_model(
    source: str, device: str | torch.device, precision: str, network: bool = True
) -> tuple[Any, Any]:
    """open_clip's model and tokenizer. network: whether they may be downloaded.

    What a folder or a hub repository asks for is looked through before open_clip sees it.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ModelError(
            "CLIP scores need open_clip; install it with `pip install open_clip_torch`."
        ) from error
    try:
        with nullcontext() if network else _offline(), warnings.catch_warnings():
            warnings.filterwarnings("error", "QuickGELU mismatch")
            name, tag, config = _address(source, open_clip)
            model = open_clip.create_model(
                name,
                pretrained=tag,
                precision=precision,
                device=device,
                require_pretrained=True,
                force_quick_gelu=_wants_quick_gelu(name, tag, open_clip),
                weights_only=True,
            )
            return model, _tokenizer(name, config, open_clip)
    except ModelError:
        raise
    except Exception as error:  # whatever a broken file or a failed download brings up
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"The CLIP model {source[:200]} cannot be read ({lines[0][:200]}); check that its "
            "files are complete, or that it may be downloaded and the network is there."
        ) from error


def _wants_quick_gelu(name: str, tag: str | None, open_clip: Any) -> bool:
    """Whether weights of open_clip's own list (OpenAI's, MetaCLIP's, DFN's) need QuickGELU.

    A folder's or the hub's configuration says so itself.
    """
    known = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    return bool(known.get("quick_gelu"))


def _address(source: str, open_clip: Any) -> tuple[str, str | None, dict[str, Any]]:
    """What open_clip calls the source, the tag of its own models' weights, and the config.

    A hub repository becomes the folder that it is cached in.
    """
    known = _known_names(open_clip)
    if source.startswith(HUB):
        folder = _from_hub(source.removeprefix(HUB), known)
        return f"local-dir:{folder}", None, check_clip_folder(folder, known, elsewhere=True)
    if (own := _folder(source)) is not None:
        return f"local-dir:{own}", None, check_clip_folder(own, known)
    name, _, tag = source.partition("/")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise ModelError(
            f"{source[:200]} is neither a folder with {WEIGHTS[0]} nor a model that open_clip "
            "knows; give such a folder, a name such as ViT-B-16/openai, or hf-hub:owner/name."
        )
    if tag not in tags:
        raise ModelError(
            f"open_clip has no weights {tag or '(none named)'} for {name}; choose "
            f"{name}/TAG with one of {', '.join(tags)}."
        )
    return name, tag, open_clip.get_model_config(name)


def _known_names(open_clip: Any) -> set[str]:
    """The tokenizers and text models of transformers that open_clip's own models use."""
    texts = [open_clip.get_model_config(name)["text_cfg"] for name in open_clip.list_models()]
    names = (text.get(key) for text in texts for key in ("hf_tokenizer_name", "hf_model_name"))
    return {name for name in names if name}


def _folder(source: str) -> Path | None:
    """The folder that is meant; None where there is none."""
    try:
        folder = Path(source.removeprefix("local-dir:")).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, ~nobody, a zero byte
        return None


def _from_hub(name: str, known: set[str]) -> Path:
    """A hub repository's folder in the cache; its config is looked at before its weights come."""
    from huggingface_hub import constants, hf_hub_download, snapshot_download

    offline = constants.HF_HUB_OFFLINE
    config = Path(hf_hub_download(name, CONFIG, local_files_only=offline))
    check_clip_config(read_config(config), f"{HUB}{name}", known)
    return Path(snapshot_download(name, allow_patterns=list(FETCHED), local_files_only=offline))


def _tokenizer(name: str, config: dict[str, Any], open_clip: Any) -> Any:
    """The tokenizer of a model, whose config was looked at; no code of its own ever runs."""
    text = config["text_cfg"]
    named = text.get("hf_tokenizer_name")
    folder = Path(name.removeprefix("local-dir:"))
    arguments = {"context_length": text.get("context_length", 77)}
    arguments |= text.get("tokenizer_kwargs") or {}
    if not named:
        return open_clip.tokenizer.SimpleTokenizer(**arguments)
    return open_clip.tokenizer.HFTokenizer(
        str(folder) if name != str(folder) and has_tokenizer(folder) else named,
        tokenizer_mode=text.get("tokenizer_mode"),
        trust_remote_code=False,
        **arguments,
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
