"""refdiff: the mask of what a sentence refers to, read out of a diffusion model.

    pipe = StableDiffusionPipeline.from_pretrained(...)
    look = refdiff.look(pipe, "photo.jpg")
    look("the left cup").mask_image

Names load what they need when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention.diffusers import DiffusersCapture
    from .errors import RefDiffError
    from .models.catalogue import load_models, load_painter
    from .painting.generate import generate
    from .painting.inpaint import inpaint
    from .pipeline import Look, segment
    from .result import Segmentation
    from .scoring.clip import ClipScorer
    from .settings import Settings

__version__ = "0.1.0"

__all__ = [
    "ClipScorer",
    "DiffusersCapture",
    "Look",
    "RefDiffError",
    "Segmentation",
    "Settings",
    "generate",
    "inpaint",
    "load_models",
    "load_painter",
    "look",
    "segment",
]

_HOMES = {
    "ClipScorer": "scoring.clip",
    "DiffusersCapture": "attention.diffusers",
    "Look": "pipeline",
    "RefDiffError": "errors",
    "Segmentation": "result",
    "Settings": "settings",
    "generate": "painting.generate",
    "inpaint": "painting.inpaint",
    "load_models": "models.catalogue",
    "load_painter": "models.catalogue",
    "segment": "pipeline",
}


def look(
    pipe: Any,
    image: Any,
    clip: ClipScorer | None = None,
    settings: Settings | str | None = None,
    proposals: Any = None,
) -> Look:
    """Look at a picture through a pipeline you hold; call the answer with any number of sentences.

    pipe: a Stable Diffusion 1, 2 or XL pipeline of diffusers, unchanged by this. The picture's
    share of the work is done here, once. The other arguments are those of `segment`.
    """
    from .attention.diffusers import DiffusersCapture
    from .pipeline import Look

    return Look(image, DiffusersCapture(pipe), clip, settings, proposals)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
