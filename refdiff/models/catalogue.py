"""Finds models: the built-in stickers, a checkpoint of yours, and others on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import stickers
from ..errors import ModelError
from ..expression import Expression
from ..families import NAMES, PROFILES, Family, family_of, family_of_width
from ..scoring.clip import ClipScorer
from ..settings import Settings
from .checkpoints import CheckpointKind, open_checkpoint, recognise
from .personal import learn_words
from .pipelines import load_pipeline
from .trust import read_config

VARIABLE = "REFDIFF_MODEL"
STICKERS = "stickers"
NO_CLIP = "none"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STICKERS_ONLY = (
    "the built-in models know stickers only (forty nouns such as cat, car, cup); for photographs "
    "pass --model"
)


@dataclass(frozen=True, eq=False)
class Models:
    """A pipeline to read words from, a CLIP or None, and where they came from.

    is_sticker: they are the built-in ones, which know stickers only.
    """

    pipe: Any
    clip: ClipScorer | None
    is_sticker: bool
    source: str
    clip_source: str | None

    @property
    def family(self) -> Family:
        """Whose settings these models get; see `families`."""
        return family_of(self.pipe.unet.config)

    @property
    def empty_below(self) -> float:
        """The presence under which their answer is "nothing found"; 0 where none was measured."""
        return Settings.named("default", self.family).empty_below

    def caution(self, expression: Expression) -> str | None:
        """What to tell whoever asks the sticker models, and more so for what they never saw."""
        if not self.is_sticker:
            return None
        if expression.root.anything or stickers.known(expression.root.lemma):
            return STICKERS_ONLY
        return f"{expression.root.word.text!r} is not one of their nouns: {STICKERS_ONLY}"


def load_models(
    model: str | Path | None = None,
    clip: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    embeddings: Sequence[str | Path] = (),
    loras: Sequence[str] = (),
) -> Models:
    """The pipeline and the CLIP to segment with, in memory.

    model: what `load_pipeline` reads, or "stickers"; None takes REFDIFF_MODEL from the
    environment, else the built-in sticker models. clip: what `ClipScorer.load` reads, or "none";
    None takes the sticker CLIP with the sticker models and no CLIP with any other. device: None
    takes CUDA where there is one. dtype: None takes float16 on CUDA (float32 for the stickers).
    embeddings, loras: words of one's own, as `learn_words` reads them.
    Raises ModelError for models that cannot be read, ValueError for another device or dtype.
    """
    source = str(model or os.environ.get(VARIABLE) or stickers.WEIGHTS)
    built_in = _is_built_in(source)
    where = checked_device(device)
    kind = checked_dtype(dtype, where, built_in)
    if built_in and not (stickers.WEIGHTS / "model_index.json").is_file():
        raise ModelError(
            f"The built-in models are not in {stickers.WEIGHTS}; install refdiff again, or pass "
            "another model."
        )
    pipe = load_pipeline(stickers.WEIGHTS if built_in else source, where, kind)
    if embeddings or loras:
        pipe = learn_words(pipe, embeddings, loras)
    wanted = str(clip) if clip else str(stickers.WEIGHTS / "clip") if built_in else NO_CLIP
    scorer = None if wanted == NO_CLIP else ClipScorer.load(wanted, where, kind)
    return Models(
        pipe=pipe,
        clip=scorer,
        is_sticker=built_in,
        source=STICKERS if built_in else source,
        clip_source=None if scorer is None else str(clip or STICKERS),
    )


def load_painter(models: Models, source: str | Path | None = None) -> Any:
    """The pipeline to paint with, on the device and in the dtype of that which finds.

    source: what `load_pipeline` reads, or "stickers"; None takes the pipeline that finds, for the
    stickers that with the UNet that was taught to paint. Raises ModelError for what cannot be read.
    """
    built_in = models.is_sticker if source is None else _is_built_in(str(source))
    if source is None and not built_in:
        return models.pipe
    device, dtype = models.pipe.device, models.pipe.unet.dtype
    if not built_in:
        return load_pipeline(str(source), device, dtype)
    pipe = models.pipe if models.is_sticker else load_pipeline(stickers.WEIGHTS, device, dtype)
    return _sticker_painter(pipe)


def _sticker_painter(pipe: Any) -> Any:
    """The built-in pipeline with the UNet that paints, which predicts velocity."""
    if not stickers.PAINTER.is_dir():
        raise ModelError(
            f"The stickers' painter is not in this copy of refdiff ({stickers.PAINTER}), as in "
            "ComfyUI's registry; install the whole package, or name another with --painter."
        )
    from diffusers import DDIMScheduler, UNet2DConditionModel

    parts = {name: part for name, part in pipe.components.items() if name != "unet"}
    unet = UNet2DConditionModel.from_pretrained(
        stickers.PAINTER, subfolder="unet", dtype=pipe.unet.dtype
    )
    parts["scheduler"] = DDIMScheduler.from_pretrained(stickers.PAINTER, subfolder="scheduler")
    made = type(pipe)(**parts, unet=unet.to(pipe.device), requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def _is_built_in(source: str) -> bool:
    if source == STICKERS:
        return not Path(source).exists()
    return os.path.realpath(os.path.expanduser(source)) == os.path.realpath(stickers.WEIGHTS)


def checked_device(name: str | torch.device | None) -> torch.device:
    """The device of that name, or the best one there is; ValueError when it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"The device is {str(name)!r}, wanted cpu, cuda, cuda:1 or mps."
        ) from error
    there = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
    }
    if not there.get(device.type, False):
        raise ValueError(f"The device {device} is not there for torch to use; take cpu.")
    return device


def checked_dtype(
    name: str | torch.dtype | None, device: torch.device, built_in: bool = False
) -> torch.dtype:
    """The dtype of that name, or what suits the device; ValueError for one that is not known."""
    if name is None:
        return torch.float16 if device.type == "cuda" and not built_in else torch.float32
    dtype = name if isinstance(name, torch.dtype) else DTYPES.get(name.removeprefix("torch."))
    if dtype is None or dtype not in DTYPES.values():
        raise ValueError(f"The dtype is {str(name)!r}, wanted one of {', '.join(DTYPES)}.")
    return dtype


@dataclass(frozen=True)
class ModelEntry:
    """A model that was found.

    name: what `--model` takes; what: its family and profile, or why it cannot be used.
    """

    name: str
    place: str
    what: str
    usable: bool


def list_models(folders: Sequence[str | Path] = ()) -> list[ModelEntry]:
    """The built-in model, REFDIFF_MODEL's, those of the hub's local cache, those in the folders.

    Nothing is loaded: headers and configs alone are read. ValueError for a folder that is none.
    """
    found = [ModelEntry(STICKERS, "built in", *_look_at(stickers.WEIGHTS))]
    if chosen := os.environ.get(VARIABLE):
        path = Path(os.path.expanduser(chosen))
        what = _look_at(path) if os.path.exists(path) else ("a hub id, unless it is misspelt", True)
        found.append(ModelEntry(chosen, VARIABLE, *what))
    found += _cached()
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"'{folder}' is no folder; name one that holds models.")
        found += [
            ModelEntry(str(path), str(folder), *_look_at(path)) for path in _inside(Path(folder))
        ]
    return found


def _cached() -> Iterator[ModelEntry]:
    from huggingface_hub.constants import HF_HUB_CACHE

    names: dict[str, Path] = {}
    for index in sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*/model_index.json")):
        name = index.parents[2].name.removeprefix("models--").replace("--", "/", 1)
        names[name] = index.parent
    for name, folder in names.items():
        yield ModelEntry(name, "hub cache", *_look_at(folder))


def _inside(folder: Path) -> Iterable[Path]:
    """Pipelines and single checkpoint files under a folder, not the parts of pipelines."""
    pipelines = [index.parent for index in sorted(folder.rglob("model_index.json"))]
    yield from pipelines
    for path in sorted(folder.rglob("*.safetensors")):
        if not any(pipeline in path.parents for pipeline in pipelines):
            yield path


def _look_at(path: Path) -> tuple[str, bool]:
    """What lies at a path, and whether it can be used; a malformed file is no more than told."""
    try:
        return _judged(path)
    except Exception as error:  # a stranger's file brings up anything
        said = " ".join(str(error).split())[:160]
        return f"cannot be read ({type(error).__name__}: {said})", False


def _judged(path: Path) -> tuple[str, bool]:
    if path.is_file():
        try:
            return _described(recognise(open_checkpoint(path))), True
        except ModelError as error:
            return str(error), False
    try:
        parts = read_config(path / "model_index.json")
        unet = (parts.get("unet") or [None, None])[1]
    except (ModelError, TypeError, IndexError, KeyError):
        return "no pipeline: there is no readable model_index.json", False
    name = str(parts.get("_class_name", "pipeline"))
    if unet != "UNet2DConditionModel":
        return f"{name}, which has no UNet2DConditionModel to read words from", False
    if not any((path / "unet").glob("*.safetensors")):
        return f"{name}, without the weights of its UNet", False
    width = read_config(path / "unet" / "config.json").get("cross_attention_dim")
    family = family_of_width(width if isinstance(width, int) else 0)
    return f"{name}, {_numbers_of(family)}", True


def _described(found: CheckpointKind) -> str:
    name = NAMES[found.family] + (" inpainting" if found.inpainting else "")
    return f"{name}, {_numbers_of(found.family)}"


def _numbers_of(family: Family) -> str:
    """Whose published numbers the default profile takes for a family."""
    return f"profile of {family}" if PROFILES[family] else "profile of no family"
