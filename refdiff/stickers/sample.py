"""The objects of the picture that ships with the package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import SAMPLE_LABELS


def sample_masks() -> NDArray[np.bool_]:
    """The masks of the sample's six objects: red cat, blue cat, dog, tree, balloon, green car.

    bool [6, 256, 256], in that order.
    """
    labels = np.asarray(Image.open(SAMPLE_LABELS))
    return labels == np.arange(1, labels.max() + 1)[:, None, None]
