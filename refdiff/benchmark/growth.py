"""How time grows with the picture's size, the sentences, the proposals and the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.diffusers import DiffusersCapture
from ..masks.resize import LONGEST, to_tensor
from ..scoring.clip import ClipScorer
from ..settings import Settings
from .clock import seconds
from .curve import Curve, Points
from .labelling import BATCHES, labelling
from .look import SENTENCES, noisy_picture, stored, to_heat

PIXELS = (256, 512, 768, 1024, 1536)
TEXTS = (1, 2, 4, 8, 16, 32)
OWN_TEXTS = (1, 2, 4, 8)  # with a pass of the UNet for each
MASKS = (10, 20, 50, 100, 200)
PICTURES = (1, 2, 4, 8)


def growth(
    pipe: Any,
    clip: ClipScorer,
    progress: Callable[[str], object],
    scale: float = 1.0,
    turns: int = 1,
) -> list[Curve]:
    """Four curves of seconds, each point timed once, and those of labelling, timed `turns` times.

    scale: of the largest numbers, smaller for a try.
    """

    def points(counts: Sequence[int], timed: Callable[[int], float], what: str) -> Points:
        found = []
        for count in _up_to(counts, scale):
            progress(f"growth: {count} {what}")
            found.append((count, timed(count)))
        return found

    sizes = points(PIXELS, partial(_picture, pipe), "px")
    progress("growth: sentences")
    sentences = {
        "a pass each": _sentences(pipe, _up_to(OWN_TEXTS, scale), Settings()),
        "stored queries": _sentences(pipe, _up_to(TEXTS, scale), stored()),
    }
    proposals = points(MASKS, partial(_proposals, clip), "proposals")
    batches = points(PICTURES, partial(_batch, pipe), "pictures")
    return [
        Curve("side of the picture, text to heat", "px", {"": sizes}),
        Curve("sentences on one picture, text to heat", "sentences", sentences),
        Curve("proposals, CLIP", "proposals", {"": proposals}),
        Curve("pictures in a batch, to token maps", "pictures", {"": batches}),
        *labelling(_up_to(BATCHES, scale), turns, progress),
    ]


def _up_to(counts: Sequence[int], scale: float) -> list[int]:
    return [count for count in counts if count <= counts[-1] * scale]


def _picture(pipe: Any, side: int) -> float:
    """Seconds from a picture of this side, and a text, to its heat."""
    settings = Settings().sized(side / DiffusersCapture(pipe).native)
    return to_heat(pipe, noisy_picture(side), SENTENCES[:1], settings)[0]


def _sentences(pipe: Any, counts: Sequence[int], settings: Settings) -> Points:
    """Seconds for the first, the first two ... of many sentences on one picture."""
    texts = [f"{text} in picture {index}" for index in range(4) for text in SENTENCES]
    picture = noisy_picture(DiffusersCapture(pipe).native)
    sums = list(accumulate(to_heat(pipe, picture, texts[: counts[-1]], settings)))
    return [(count, sums[count - 1]) for count in counts]


def _proposals(clip: ClipScorer, count: int) -> float:
    """Seconds in which CLIP looks at so many masks of one picture, both ways."""
    picture, masks = to_tensor(noisy_picture(LONGEST), (LONGEST, LONGEST)), random_masks(count)
    return seconds(lambda: clip.image_features(picture, masks, Settings().crop), clip.device)


def _batch(pipe: Any, count: int) -> float:
    """Seconds from so many pictures, with a text each, to their token maps."""
    capture = DiffusersCapture(pipe, Settings().capture)
    pictures = [noisy_picture(capture.native, seed) for seed in range(count)]

    def run() -> None:
        capture.read_batch(capture.encode_batch(pictures), [SENTENCES[:1]] * count)

    return seconds(run, pipe.unet.device)


def random_masks(count: int, side: int = LONGEST) -> Tensor:
    """Discs of all sizes: bool [count, side, side], none empty."""
    random = np.random.default_rng(0)
    places = torch.from_numpy(random.uniform(0, side, (count, 2, 1, 1)))
    radius = torch.from_numpy(random.uniform(0.05, 0.4, (count, 1, 1))) * side
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (rows - places[:, 0]) ** 2 + (columns - places[:, 1]) ** 2 <= radius**2
