"""The picture that is painted into: kept as it came, changed only where paint goes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ..io.pictures import as_picture
from .brush import Window

LEAST_KNOWN = 64  # pixels from which a shift of colours can be told
PLAIN = 50.0  # spread, in 8-bit values, below which a gain is hardly believed


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture upright, as the models see it (RGB), and its own bytes.

    own: uint8 [H, W, 3], or [H, W, 4] where the picture has transparent parts. profile: its
    colour profile, to be saved with the answer. notes: what could not be kept.
    """

    picture: Image.Image
    own: NDArray[np.uint8]
    profile: bytes | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, image: Any) -> Canvas:
        """From whatever `as_picture` takes. Raises ValueError as it does."""
        picture = as_picture(image)
        opened = _opened(image)
        if opened is None:
            return cls(picture, np.array(picture))
        profile = opened.info.get("icc_profile")
        notes = ("its 16 bits a pixel became 8",) if opened.mode.startswith(("I", "F")) else ()
        if not opened.has_transparency_data:
            return cls(picture, np.array(picture), profile, notes)
        upright = ImageOps.exif_transpose(opened).convert("RGBA")
        return cls(picture, np.array(upright), profile, notes)

    def painted(self, paint: Image.Image, alpha: Tensor, window: Window) -> Image.Image:
        """This picture with paint of the window's size laid on; where alpha is 0, bytes stay.

        alpha: opacity [H, W] of the whole picture.
        """
        share = window.cut(alpha).numpy()[..., None]
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        before = np.asarray(self.picture)[rows, columns].astype(np.float32)
        mixed = before * (1 - share) + np.asarray(paint.convert("RGB"), np.float32) * share
        answer = self.own.copy()
        place = answer[rows, columns]
        open_ = share[..., 0] > 0
        place[open_, :3] = np.rint(mixed).astype(np.uint8)[open_]
        if answer.shape[2] == 4:
            solid = place[..., 3] * (1 - share[..., 0]) + 255 * share[..., 0]
            place[open_, 3] = np.rint(solid).astype(np.uint8)[open_]
        found = Image.fromarray(answer)
        if self.profile:
            found.info["icc_profile"] = self.profile
        return found

    def cut(self, window: Window, size: tuple[int, int]) -> Image.Image:
        """The window as the painter sees it, at (height, width)."""
        part = self.picture.crop(window.box)
        return part.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def recoloured(paint: Image.Image, before: Image.Image, alpha: Tensor) -> Image.Image:
    """The paint in the colours that it was shown: a VAE shifts them a little, or a lot.

    paint, before: RGB of one size. alpha: [H, W]; where it is 0 both should show the same, and each
    channel's gain and offset are fitted there: the gain by least squares, drawn towards 1 the more
    the less the colours differ; the offset by the median, which a few wrong pixels don't move.
    """
    same = (alpha == 0).numpy()
    if same.sum() < LEAST_KNOWN:
        return paint
    now = np.asarray(paint.convert("RGB"), np.float32)
    seen, wanted = now[same], np.asarray(before.convert("RGB"), np.float32)[same]
    together = ((seen - seen.mean(0)) * (wanted - wanted.mean(0))).mean(0)
    gain = np.clip((together + PLAIN**2) / (seen.var(0) + PLAIN**2), 0.5, 2.0)
    shifted = now * gain + np.median(wanted - gain * seen, 0)
    return Image.fromarray(np.rint(np.clip(shifted, 0, 255)).astype(np.uint8))


def changed_outside(before: Canvas, after: Image.Image, alpha: Tensor) -> int:
    """How many pixels differ where the opacity is 0; none should."""
    now = np.asarray(after)
    differs = torch.from_numpy((now != before.own).any(2))
    return int((differs & (alpha == 0)).sum())


def _opened(image: Any) -> Image.Image | None:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | os.PathLike):
        with Image.open(image) as opened:
            opened.load()
            return opened
    return None
