"""Thousands of candidates of a large picture stay within bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("resource")

MOST = 1.5e9
"""Bytes beyond the loaded models."""
SCRIPT = """
import resource, sys
import numpy as np
import refdiff
from refdiff.io.pictures import as_picture
from refdiff.stickers import SAMPLE, WEIGHTS

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

models = refdiff.load_models(str(WEIGHTS))
capture = refdiff.DiffusersCapture(models.pipe)
before, random = peak(), np.random.default_rng(0)
picture = as_picture(SAMPLE).resize((4000, 3000))
low = random.uniform(0, (2500, 1500), (int(sys.argv[1]), 2))
boxes = np.concatenate([low, low + random.uniform(60, 1500, low.shape)], axis=1)
found = refdiff.segment(picture, "the red cat on the left", capture, models.clip, proposals=boxes)
print(len(found.candidates), peak() - before)
"""


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.full)])
def test_candidates_of_twelve_megapixels_need_little_memory(count: int) -> None:
    words = [sys.executable, "-c", SCRIPT, str(count)]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=1800)
    seen, needed = (int(number) for number in said.stdout.split())
    assert seen == count
    assert needed <= MOST, f"{needed / 1e9:.2f} GB for {count} candidates"
