"""One candidate by its number instead of the one that was chosen."""

from __future__ import annotations

from dataclasses import replace

from ..result import Segmentation
from .candidates import Candidates
from .resize import upsample


def picked(found: Segmentation, number: int, given: Candidates | None = None) -> Segmentation:
    """The same answer with candidate `number`, counted from 1, as its mask.

    given: the candidates that the answer was chosen from, where they were made by someone else;
    their masks come as they came. Raises ValueError for a number that there is none of.
    """
    if not 1 <= number <= len(found.candidates):
        raise ValueError(
            f"There is no candidate {number}; they are numbered from 1 to {len(found.candidates)}."
        )
    size = (found.image.height, found.image.width)
    at = number - 1
    mask = upsample(found.masks[at], size) if given is None else given.full([at])[0]
    candidates = tuple(
        replace(candidate, chosen=index == at) for index, candidate in enumerate(found.candidates)
    )
    notes = (*found.notes, f"candidate {number} was picked by its number")
    return replace(
        found,
        mask=mask,
        instances=mask[None],
        candidates=candidates,
        notes=notes,
        ambiguity=0.0,
        runner_up=None,
    )
