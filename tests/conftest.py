"""Models of the real classes with small random weights, and drawn pictures, made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refdiff.benchmark.random_models import PIXELS, TINY_CLIP, random_clip, random_pipeline
from refdiff.scoring.clip import ClipScorer

UNIT = """attention battery choice expression heat instances peaks phrases place proposals
published_maps referring_metrics scoring settings_file""".split()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m unit` the other files are not even imported."""
    own = collection_path.stem.removeprefix("test_") in UNIT
    others = collection_path.suffix == ".py" and not own
    alone = config.getoption("markexpr") == "unit" and collection_path.name.startswith("test_")
    return True if alone and others else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by what it needs: nothing, models, ComfyUI, or a browser as well."""
    for item in items:
        name = item.path.stem.removeprefix("test_")
        if item.path.parent.name == "comfy":
            item.add_marker("browser" if name in ("browser", "choose", "workflows") else "comfy")
        else:
            models = name not in UNIT or item.get_closest_marker("models")
            item.add_marker("models" if models else "unit")


@pytest.fixture(scope="session")
def tiny_pipe() -> Any:
    """A Stable Diffusion pipeline of a few MB; its native side is 128 px."""
    return random_pipeline(tiny=True)


@pytest.fixture(scope="session")
def tiny_model(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a diffusers folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_scorer() -> ClipScorer:
    """A CLIP of a few MB."""
    return random_clip(tiny=True)


@pytest.fixture(scope="session")
def tiny_clip(tiny_scorer: ClipScorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as an open_clip folder."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    save_file(tiny_scorer.model.state_dict(), folder / "open_clip_model.safetensors")
    config = json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": PIXELS})
    (folder / "open_clip_config.json").write_text(config)
    return folder


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """Two discs and a bar on stripes, 97 x 131 (height, width)."""
    rows, columns = np.mgrid[:97, :131]
    pixels = np.where((rows // 8 % 2 == 0)[..., None], (200, 205, 180), (180, 190, 205))
    for (y, x), radius, colour in (((40, 30), 20, (200, 40, 40)), ((60, 100), 24, (40, 60, 200))):
        pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = colour
    pixels[80:90, 20:70] = (40, 160, 60)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def photo(picture: Image.Image, tmp_path: Path) -> Path:
    """The picture as a file of its own folder."""
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    picture.save(path)
    return path
