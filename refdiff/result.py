"""The answer: a mask, ready for whatever comes next, and everything it was decided from."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .expression import Expression
from .io.overlay import draw_overlay
from .settings import Settings


@dataclass(frozen=True)
class Candidate:
    """One proposal: its scores s^G, s^D and weight, their fusion, its share of the picture.

    score: its share among the things that its noun may mean, 0..1 (in the paper's and the authors'
    profile the sum as it is). noun: what it was proposed for; a sentence may look for several.
    """

    noun: str
    generative: float
    clip: float | None
    place: float
    score: float
    area: float
    chosen: bool


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found.

    mask: bool [H, W], the picture's size. instances: bool [K, H, W], the objects that make it
    up, one each; none when nothing was found. heat: float32 [h, w] in 0..1, working size. masks:
    bool [N, h, w], the proposals, one per candidate. presence: 0..1, how sure the model is that
    the thing is there at all. times: seconds per stage. ambiguity: 0..1, how close the second best
    thing comes, 1 for a tie. runner_up: bool [H, W], its mask; None without another candidate or
    where several are looked for.
    """

    image: Image.Image
    mask: Tensor
    instances: Tensor
    heat: Tensor
    expression: Expression
    candidates: tuple[Candidate, ...]
    masks: Tensor
    presence: float
    notes: tuple[str, ...]
    times: dict[str, float]
    settings: Settings
    ambiguity: float = 0.0
    runner_up: Tensor | None = None

    @property
    def score(self) -> float:
        """The best score of a candidate that was chosen; 0 where there is none."""
        return max((one.score for one in self.candidates if one.chosen), default=0.0)

    @property
    def empty(self) -> bool:
        """True when nothing was found; the mask is then all zeros."""
        return not bool(self.mask.any())

    @property
    def mask_image(self) -> Image.Image:
        """PIL "L", 255 inside: the `mask_image=` of any inpainting pipeline."""
        return Image.fromarray(self.numpy())

    @property
    def runner_up_image(self) -> Image.Image:
        """The runner-up as `mask_image` is; all 0 where there is none."""
        second = self.runner_up if self.runner_up is not None else self.mask & False
        return Image.fromarray(second.cpu().numpy().astype(np.uint8) * 255)

    def numpy(self) -> np.ndarray:
        """uint8 [H, W], 255 inside."""
        return self.mask.cpu().numpy().astype(np.uint8) * 255

    def torch(self) -> Tensor:
        """float32 [1, H, W], 1.0 inside: a ComfyUI MASK."""
        return self.mask[None].float()

    def overlay(self) -> Image.Image:
        """The picture under the heat, with the mask's outline and the root word."""
        return draw_overlay(self.image, self.heat, self.mask, self.expression.root.name)

    def report(self) -> dict[str, Any]:
        """Everything but the pictures, as plain data for JSON."""
        return {
            "text": self.expression.text,
            "understood": self.expression.to_dict(),
            "found": not self.empty,
            "presence": round(self.presence, 4),
            "score": round(self.score, 4),
            "ambiguity": round(self.ambiguity, 4),
            "notes": list(self.notes),
            "choice": [i for i, candidate in enumerate(self.candidates) if candidate.chosen],
            "candidates": [_rounded(asdict(candidate)) for candidate in self.candidates],
            "seconds": {stage: round(seconds, 4) for stage, seconds in self.times.items()},
            "settings": self.settings.to_dict(),
        }

    def _repr_png_(self) -> bytes:
        """Draws itself in a notebook."""
        data = io.BytesIO()
        self.overlay().save(data, "PNG")
        return data.getvalue()


def _rounded(plain: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 5) if isinstance(value, float) else value
        for name, value in plain.items()
    }
