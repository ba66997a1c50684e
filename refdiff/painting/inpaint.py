"""From two sentences to a picture: find one thing, paint another in its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ..attention.capture import unet_size
from ..attention.diffusers import DiffusersCapture
from ..expression import Expression, parse
from ..families import brush_of
from ..masks.resize import to_tensor
from ..pipeline import Look
from ..result import Segmentation
from ..scoring.clip import ClipScorer, similarity
from ..settings import Settings
from .brush import Window, kept, on_cells, opacity, smoothly_filled, window_around
from .canvas import Canvas, changed_outside, recoloured
from .painter import PaintSettings, paint

Mode = Literal["replace", "swap", "remove", "keep"]
MODES = ("replace", "swap", "remove", "keep")
EMPTY = "empty background"
REMOVING = 0.5  # how much of the smooth filling is painted anew


@dataclass(frozen=True, eq=False)
class Painted:
    """A painted picture and how it came about.

    image: RGB, or RGBA where the picture has transparent parts, of the picture's size. opacity:
    float32 [H, W], 0 where every byte is as it was. window: what the painter saw. prefers: by how
    much CLIP finds the place closer to what was painted than to what was found, None without
    CLIP. changed_outside: pixels that differ where the opacity is 0.
    """

    image: Image.Image
    opacity: Tensor
    window: Window | None
    prompt: str
    found: Segmentation
    prefers: float | None = None
    changed_outside: int = 0
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """True when nothing was found, so that nothing was painted."""
        return self.window is None


def inpaint(
    pipe: Any,
    image: Any,
    find: str,
    paint: str | None = None,
    mode: Mode = "replace",
    clip: ClipScorer | None = None,
    settings: Settings | None = None,
    painting: PaintSettings | None = None,
    proposals: Any = None,
    painter: Any = None,
) -> Painted:
    """Find what `find` means in a picture and paint there, with one set of weights unless told.

    pipe, image, clip, settings, proposals: as in `refdiff.look`. paint: what to paint, a prompt.
    mode: "replace" paints it in the thing's place; "swap" paints the same words with another
    noun, which `paint` is ("dog": the red cat becomes a red dog); "remove" fills the place from
    its surroundings; "keep" paints everything but the thing. painter: another pipeline to paint
    with, such as a checkpoint made for inpainting.
    Raises ValueError for bad input, RefDiffError when the model cannot answer.
    """
    canvas = Canvas.of(image)
    prompt = prompt_of(parse(find), paint, mode)
    look = Look(canvas.picture, DiffusersCapture(pipe), clip, settings, proposals)
    found = look(find)
    brush = painting or PaintSettings()
    return painted(painter or pipe, canvas, found, prompt, mode, clip, brush)


def prompt_of(expression: Expression, words: str | None, mode: Mode) -> str:
    """The prompt to paint with; ValueError when there should be one, or should be none."""
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, wanted one of {', '.join(MODES)}.")
    words = (words or "").strip()
    if mode == "remove":
        return words or EMPTY
    if not words:
        raise ValueError(f'There is nothing to paint; say what, such as "a green teapot" ({mode}).')
    if mode != "swap":
        return words
    root = expression.root
    if len(expression.targets()) > 1:
        raise ValueError(f"{expression.text!r} means several things; swap one at a time.")
    described = [word.text for word in root.modifiers]
    return " ".join(["a", *described, words])


def painted(
    pipe: Any,
    canvas: Canvas,
    found: Segmentation,
    prompt: str,
    mode: Mode,
    clip: ClipScorer | None,
    settings: PaintSettings,
) -> Painted:
    """Paint on what was found; the picture as it was, with a note, when nothing was."""
    notes = (*found.notes, *canvas.notes)
    if found.empty:
        untouched = Image.fromarray(canvas.own)
        nothing = torch.zeros(canvas.own.shape[:2])
        return Painted(untouched, nothing, None, prompt, found, notes=notes)
    shape = kept if mode == "keep" else opacity
    alpha = shape(found.mask, settings.grow, settings.feather)
    context = settings.context or brush_of(pipe.unet.config).context
    window = window_around(alpha, DiffusersCapture(pipe).native, context)
    tries = _tries(pipe, canvas, alpha, window, prompt, mode, _suited(settings, found, mode))
    answers = [canvas.painted(each, alpha, window) for each in tries]
    sure = [_preference(clip, each, alpha, found, prompt, mode) for each in answers]
    best = max(range(len(answers)), key=lambda index: sure[index] or 0.0)
    image = answers[best]
    outside = changed_outside(canvas, image, alpha)
    return Painted(image, alpha, window, prompt, found, sure[best], outside, notes)


def _suited(settings: PaintSettings, found: Segmentation, mode: Mode) -> PaintSettings:
    """What a mode changes: a filled place is kept in part, and what was there is said not to be."""
    if mode != "remove":
        return settings
    strength = REMOVING if settings.strength is None else settings.strength
    negative = settings.negative or found.expression.root.phrase
    return replace(settings, strength=strength, negative=negative)


def _tries(
    pipe: Any,
    canvas: Canvas,
    alpha: Tensor,
    window: Window,
    prompt: str,
    mode: Mode,
    settings: PaintSettings,
) -> list[Image.Image]:
    """Paintings of the window at its own size."""
    capture = DiffusersCapture(pipe)
    deepest = 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    size = unet_size((window.height, window.width), capture.native, pipe.vae_scale_factor * deepest)
    shown = canvas.cut(window, size)
    seen = on_cells(window.cut(alpha), size)
    if mode == "remove":
        shown = smoothly_filled(shown, seen)
    made = paint(pipe, shown, seen, prompt, settings)
    back = (window.width, window.height)
    matched = [recoloured(each, shown, seen) for each in made]
    return [each.resize(back, Image.Resampling.LANCZOS) for each in matched]


def _preference(
    clip: ClipScorer | None,
    image: Image.Image,
    alpha: Tensor,
    found: Segmentation,
    prompt: str,
    mode: Mode,
) -> float | None:
    """How much closer the place is to what was painted than to what was found, by CLIP."""
    if clip is None:
        return None
    size = tuple(found.heat.shape)
    pixels = to_tensor(image.convert("RGB"), (size[0], size[1]))
    place = on_cells(alpha, (size[0], size[1])) >= 0.5
    features = clip.image_features(pixels, place[None], found.settings.crop)
    before = found.expression.root.phrase
    texts = clip.text_features([prompt, before])
    new, old = similarity(features, texts, beta=found.settings.beta)[0].tolist()
    return -old if mode == "remove" else new if mode == "keep" else new - old
