"""What `refdiff segment` does with an answer when asked: pick one, let SAM refine, draw all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Ready

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..masks.candidates import Candidates
    from ..masks.sam import Sam
    from ..result import Segmentation

NUMBERED = "candidates.png"


@dataclass
class After:
    """The options; call it with an answer and the candidates that were given."""

    ready: Ready
    everything: bool
    pick: int | None
    refine: str | None
    rounds: int

    def candidates(self, picture: Path, masks: Any) -> Candidates | None:
        """The candidates that the user's sources hold of a picture; None where there are none."""
        from ..masks.candidates import Candidates
        from ..masks.sources import candidates_of

        if masks is None or isinstance(masks, Candidates):
            return masks
        return candidates_of(masks, picture, device=self.ready.models.pipe.device)

    def __call__(self, found: Segmentation, given: Candidates | None) -> Segmentation:
        if self.pick is not None:
            from ..masks.picking import picked

            found = picked(found, self.pick, given)
        if self._sam is not None:
            from ..masks.refining import refined

            found = refined(found, self._sam, self.ready.models.clip, self.rounds)
        return found

    def drawn(self, found: Segmentation) -> Image | None:
        """All candidates with their numbers; None unless asked for."""
        from ..io.numbering import draw_numbered

        if not self.everything:
            return None
        labels = [f"{each.noun} {each.score:.2f}" for each in found.candidates]
        chosen = [each.chosen for each in found.candidates]
        return draw_numbered(found.image, found.masks, labels, chosen)

    @cached_property
    def _sam(self) -> Sam | None:
        from ..masks.sam import load_sam

        return None if self.refine is None else load_sam(self.refine, self.ready.models.pipe.device)
