"""SigLIP as a judge: open_clip's real classes, the smallest of its image towers, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CustomTextCLIP
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from refdiff.attention.diffusers import DiffusersCapture
from refdiff.errors import ModelError
from refdiff.pipeline import Look
from refdiff.scoring.clip import ClipScorer, CropStyle
from refdiff.scoring.crops import resize
from refdiff.settings import Settings

SIDE = 256
CONFIG: dict[str, Any] = {
    "embed_dim": 768,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": SIDE,
        "timm_model_name": "vit_base_patch32_siglip_256",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {"width": 32, "heads": 2, "layers": 1, "no_causal_mask": True, "proj_bias": True},
}
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = {key: value for key, value in CONFIG.items() if key != "custom_text"}
    model = CustomTextCLIP(**config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1 or "latent" in name:  # its own start makes all pictures look alike
            torch.nn.init.normal_(weight, std=2 * weight.shape[-1] ** -0.5)
    place = tmp_path_factory.mktemp("siglip")
    save_file(model.state_dict(), place / "open_clip_model.safetensors")
    known = json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PIXELS})
    (place / "open_clip_config.json").write_text(known)
    return place


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.load(folder)


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(3, 90, 140, generator=torch.Generator().manual_seed(1))


def shown(scorer: ClipScorer, image: Tensor) -> Tensor:
    return (resize(image, (SIDE, SIDE))[None] - scorer.mean) / scorer.std


def test_a_crop_is_what_the_model_says_of_it(scorer: ClipScorer, pixels: Tensor) -> None:
    mask = torch.zeros(1, 90, 140, dtype=torch.bool)
    mask[0, 10:50, 20:60] = True
    for square in (True, False):
        style = CropStyle("keep", square=square)
        with torch.no_grad():
            own = scorer.model.encode_image(shown(scorer, pixels[:, 10:50, 20:60]))
        found = scorer.crop_features(pixels, mask, style)
        assert torch.allclose(found, normalize(own, dim=-1), atol=1e-4)


def test_a_mask_pools_its_own_patches(scorer: ClipScorer, pixels: Tensor) -> None:
    """As if the latent had only those to ask; a mask of all is the model's own answer."""
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0], masks[1, 2:5, 1:4] = True, True
    found = scorer.masked_features(pixels, masks)
    trunk, picture = scorer.model.visual.trunk, shown(scorer, pixels)
    with torch.no_grad():
        whole = scorer.model.encode_image(picture)
        part = trunk.attn_pool(trunk.forward_features(picture)[:, masks[1].flatten()])
    assert torch.allclose(found[:1], normalize(whole, dim=-1), atol=1e-4)
    assert torch.allclose(found[1:], normalize(part, dim=-1), atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_it_says_how_probable_a_thing_is(scorer: ClipScorer) -> None:
    near = torch.tensor([0.3, -0.2])
    scale, bias = scorer.model.logit_scale.exp(), scorer.model.logit_bias
    found = scorer.probability(near)
    assert found is not None and torch.allclose(found, torch.sigmoid(near * scale + bias))


def test_it_judges_a_sentence(scorer: ClipScorer, tiny_pipe: Any, picture: Image.Image) -> None:
    look = Look(picture, DiffusersCapture(tiny_pipe), scorer, Settings(empty_below=0.0))
    found = look("the red cat on the left")
    assert found.mask.shape == (97, 131) and any(one.clip is not None for one in found.candidates)
    assert 0 <= found.presence <= 1


def test_the_authors_own_way_is_refused_in_a_sentence(
    scorer: ClipScorer, tiny_pipe: Any, picture: Image.Image
) -> None:
    with pytest.raises(ModelError, match="choose a model such as ViT-B-16/openai"):
        Look(picture, DiffusersCapture(tiny_pipe), scorer, Settings.official())("the cat")
