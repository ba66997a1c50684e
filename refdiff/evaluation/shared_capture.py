"""One pass of the UNet for several ways of using its maps."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ..attention.capture import Capture, CaptureSettings, EncodedPicture
from ..attention.maps import TokenMaps
from ..families import Family


class SharedCapture:
    """A capture that remembers the last picture and what was read from it.

    Several `Look`s at the same picture, with the same capture settings, then cost one.
    """

    def __init__(self, capture: Capture, settings: CaptureSettings) -> None:
        self._capture = capture.using(settings)
        self._settings = settings
        self._picture: tuple[str, tuple[int, int], bytes] | None = None
        self._encoded: EncodedPicture | None = None
        self._maps: dict[str, TokenMaps] = {}

    @property
    def family(self) -> Family:
        """The kind of model behind it."""
        return self._capture.family

    def using(self, settings: CaptureSettings) -> SharedCapture:
        """This capture itself; ValueError for settings other than its own."""
        if settings != self._settings:
            raise ValueError(f"capture settings are {settings}, wanted {self._settings}.")
        return self

    def encode(self, image: Image.Image) -> EncodedPicture:
        """The picture's latent, made anew only for another picture."""
        picture = (image.mode, image.size, image.tobytes())
        if self._encoded is None or picture != self._picture:
            self._encoded, self._maps = self._capture.encode(image), {}
            self._picture = picture
        return self._encoded

    def read(self, picture: EncodedPicture, prompts: Sequence[str]) -> list[TokenMaps]:
        """The maps of several sentences, those read before without a pass."""
        if picture is not self._encoded:
            return self._capture.read(picture, prompts)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._maps]
        if new:
            self._maps |= dict(zip(new, self._capture.read(picture, new), strict=True))
        return [self._maps[prompt] for prompt in prompts]
