"""Maps that were read already, in the place of a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from ..errors import WordError
from ..families import Family
from .capture import CaptureSettings, EncodedPicture
from .maps import TokenMaps


class KnownMaps:
    """A capture of one picture that reads nothing anew: a `Look` on it costs no pass.

    maps: by text. latent: left out where none was made. family: of the model that made them.
    """

    def __init__(
        self,
        maps: Mapping[str, TokenMaps],
        latent: EncodedPicture | None = None,
        family: Family = "other",
    ) -> None:
        self._maps = dict(maps)
        self._latent = latent
        self._family: Family = family

    @property
    def family(self) -> Family:
        """The kind of model that made the maps."""
        return self._family

    def using(self, settings: CaptureSettings) -> KnownMaps:
        """This capture itself: the maps are as they were read."""
        return self

    def encode(self, image: Image.Image) -> EncodedPicture:
        """The latent, or an empty one."""
        import torch

        size = (image.height, image.width)
        return self._latent or EncodedPicture(torch.zeros(1, 0, 0, 0), size)

    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of the texts; WordError for one that was never read."""
        for prompt in prompts:
            if prompt not in self._maps:
                known = ", ".join(map(repr, self._maps))
                raise WordError(f"{prompt!r} was not read here, only {known}; ask for these.")
        return [self._maps[prompt] for prompt in prompts]
