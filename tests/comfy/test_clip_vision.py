"""CLIP Vision Scorer: the same weights judge alike as open_clip's model and as ComfyUI's own."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from refdiff import stickers as world
from refdiff.scoring.clip import ClipScorer
from refdiff.scoring.crops import CropStyle

from .towers import load_clip, load_vision, random_scorer

NODES = ("load_stickers", "score_choose", "load_clip")
TEXTS = ["a cat", "the (red:1.3) dog on the left", "", "word " * 120]
PICTURE = torch.rand(3, 90, 140, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(3, 90, 140, dtype=torch.bool)
MASKS[0, :50, :50] = MASKS[1, 30:80, 60:] = MASKS[2, 40:43, 5:9] = True


@pytest.fixture
def node(pack: ModuleType) -> ModuleType:
    return import_module(f"{pack.__name__}.nodes.clip_vision")


@pytest.fixture(params=["g", "h", "l"])
def twins(request: pytest.FixtureRequest, node: ModuleType, tmp_path: Path) -> tuple[Any, Any]:
    """open_clip's scorer and the node's, of one model."""
    scorer = random_scorer(request.param)
    vision = load_vision(scorer, tmp_path)
    return scorer, node.pair(vision, load_clip(**{request.param: scorer}))


@pytest.fixture
def sdxl(node: ModuleType) -> tuple[ClipScorer, ClipScorer, Any]:
    """CLIPs with the text towers of SDXL, and both of these in one CLIP of ComfyUI."""
    large, small = random_scorer("g"), random_scorer("l")
    return large, small, load_clip(g=large, l=small)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_words_and_regions_are_seen_alike(twins: tuple[Any, Any]) -> None:
    wanted, found = twins
    close(found.text_features(TEXTS), wanted.text_features(TEXTS))
    for style in (CropStyle(), CropStyle("mean", margin=0.1, square=False)):
        close(
            found.crop_features(PICTURE, MASKS, style), wanted.crop_features(PICTURE, MASKS, style)
        )
    for how in ((2.0, 0), (1.0, 1)):
        close(
            found.masked_features(PICTURE, MASKS, *how),
            wanted.masked_features(PICTURE, MASKS, *how),
        )
    official = [one.official_features(PICTURE, PICTURE, MASKS) for one in (found, wanted)]
    close(official[0].crop, official[1].crop)
    close(official[0].masked, official[1].masked)
    assert float((official[0].masked[0] - official[0].masked[1]).abs().max()) > 1e-2
    near = torch.tensor([0.2, 0.3])
    assert found.picture_limit == wanted.picture_limit
    close(found.logits(near), 100 * near)
    assert found.probability(near) is None


def test_the_text_tower_that_fits_is_taken(
    node: ModuleType, sdxl: tuple[ClipScorer, ClipScorer, Any], tmp_path: Path
) -> None:
    large, small, clip = sdxl
    for scorer in (large, small):
        found = node.pair(load_vision(scorer, tmp_path), clip)
        close(found.text_features(TEXTS), scorer.text_features(TEXTS))


def test_clip_skip_is_not_asked_and_the_clip_stays(
    node: ModuleType, sdxl: tuple[ClipScorer, ClipScorer, Any], tmp_path: Path
) -> None:
    large, _, clip = sdxl
    skipping = clip.clone()
    skipping.clip_layer(-3)
    before = encoded(clip), encoded(skipping)
    found = node.pair(load_vision(large, tmp_path), skipping)
    close(found.text_features(TEXTS), large.text_features(TEXTS))
    assert skipping.layer_idx == -3
    part = clip.cond_stage_model.clip_g
    assert part.options_default == (part.layer, part.layer_idx, part.return_projected_pooled)
    after = encoded(clip), encoded(skipping)
    for one, other in zip(sum(before, ()), sum(after, ()), strict=True):
        assert torch.equal(one, other)


def encoded(clip: Any) -> tuple[Tensor, Tensor]:
    return clip.encode_from_tokens(clip.tokenize("a red cat"), return_pooled=True)


def test_a_lora_on_the_text_encoder_counts(
    node: ModuleType, sdxl: tuple[ClipScorer, ClipScorer, Any], tmp_path: Path
) -> None:
    large, _, clip = sdxl
    weight = large.model.transformer.resblocks[0].mlp.c_fc.weight
    change = (torch.randn(weight.shape) / 8).half().float()
    changed = clip.clone()
    key = "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    assert changed.add_patches({key: ("diff", (change,))})
    vision = load_vision(large, tmp_path)
    plain, tuned = node.pair(vision, clip), node.pair(vision, changed)
    close(plain.text_features(["a cat"]), large.text_features(["a cat"]))
    wanted = large.text_features(["a dog"])
    close(plain.text_features(["a dog"]), wanted)
    weight.data += change
    large._texts.clear()
    moved = large.text_features(["a dog"])
    assert float((moved - wanted).abs().max()) > 1e-2
    torch.testing.assert_close(tuned.text_features(["a dog"]), moved, atol=2e-3, rtol=0)
    close(plain.text_features(["a horse"]), node.pair(vision, clip).text_features(["a horse"]))


def test_open_clip_is_not_needed(twins: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    twins[1].text_features(["a cat"])
    twins[1].official_features(PICTURE, PICTURE, MASKS)


def refusal(node: ModuleType, vision: Any, clip: Any) -> str:
    with pytest.raises(Exception) as refused:
        node.ClipVisionScorer.execute(vision, clip)
    assert type(refused.value).__name__ == "ModelError"
    return str(refused.value)


def test_widths_that_differ_are_named(node: ModuleType, tmp_path: Path) -> None:
    large, other = random_scorer("g"), random_scorer("l", width=64)
    said = refusal(node, load_vision(large, tmp_path), load_clip(l=other))
    assert "have 48 numbers" in said and "gives 64 (clip_l)" in said


def test_a_clip_without_clip_is_named(node: ModuleType, tmp_path: Path) -> None:
    vision = load_vision(random_scorer("g"), tmp_path)
    assert "CLIP (NoneType) gives none that a CLIP_VISION shares" in refusal(node, vision, None)


def test_vision_without_projection_is_named(node: ModuleType, tmp_path: Path) -> None:
    scorer = random_scorer("l")
    clip = load_clip(l=scorer)
    siglip = {"model_type": "siglip_vision_model", "projection_dim": None}
    said = refusal(node, load_vision(scorer, tmp_path, **siglip), clip)
    assert "SigLIP, whose text side" in said and "Load CLIP Scorer" in said
    dino = {"model_type": "dinov2", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False}
    said = refusal(node, load_vision(scorer, tmp_path, **dino), clip)
    assert "The CLIP_VISION is Dinov2Model, and has no projection" in said


@pytest.mark.parametrize("left", [0.0, 1.0, float("nan")], ids=["empty", "identity", "not numbers"])
def test_a_projection_that_no_file_gave_is_named(
    node: ModuleType, tmp_path: Path, left: float
) -> None:
    """What ComfyUI leaves there for a checkpoint of Stable Diffusion 1; versions differ."""
    scorer = random_scorer("l")
    clip = load_clip(l=scorer)
    projection = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    projection.data.copy_(left * torch.eye(len(projection)))
    said = refusal(node, load_vision(scorer, tmp_path), clip)
    assert "clip_l came without its text_projection" in said and "clip_l.safetensors" in said


@pytest.fixture(scope="module")
def trained() -> ClipScorer:
    """The sticker models' CLIP, which was trained; its numbers in half precision."""
    scorer = ClipScorer.load(world.WEIGHTS / "clip")
    for weight in scorer.model.parameters():
        weight.data = weight.data.half().float()
    return scorer


def test_a_trained_pair_knows_colours_and_judges(
    node: ModuleType, pack: ModuleType, trained: ClipScorer, tmp_path: Path
) -> None:
    """What the node gives is a scorer as any other for Score Proposals."""
    clip = load_clip(l=trained)
    scorer = node.ClipVisionScorer.execute(load_vision(trained, tmp_path), clip).args[0]
    close(scorer.text_features(TEXTS), trained.text_features(TEXTS))
    close(scorer.masked_features(PICTURE, MASKS), trained.masked_features(PICTURE, MASKS))
    parts = {name: import_module(f"{pack.__name__}.nodes.{name}") for name in NODES}
    *_, image, objects = parts["load_stickers"].LoadStickerModels.execute().args
    score = parts["score_choose"].ScoreProposals.execute
    found, wanted = (
        score(image, objects, "the small car", scorer=one).args[0].found[0].scored.clip.similarity
        for one in (scorer, parts["load_clip"].managed(trained))
    )
    close(found, wanted)


def test_a_pair_that_does_not_belong_together_is_named(
    node: ModuleType, trained: ClipScorer, tmp_path: Path
) -> None:
    """Its projection is another layer's weights, as memory that was used before may hold."""
    clip = load_clip(l=trained)
    tower = clip.cond_stage_model.clip_l.transformer
    layer = tower.text_model.encoder.layers[0].self_attn.out_proj.weight
    tower.text_projection.weight.data.copy_(layer)
    said = refusal(node, load_vision(trained, tmp_path), clip)
    assert "of 8 plain colours" in said and "text_projection" in said


@pytest.mark.full
def test_files_of_true_size_through_cores_loaders(node: ModuleType, tmp_path: Path) -> None:
    """OpenAI's ViT-L/14 with random weights: one file holds both of its sides."""
    import comfy.clip_vision
    import comfy.sd
    from open_clip import create_model, get_tokenizer

    torch.manual_seed(0)
    model = create_model("ViT-L-14-quickgelu").eval()
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    file = str(tmp_path / "clip_l.safetensors")
    save_file(model.state_dict(), file)
    vision, clip = comfy.clip_vision.load(file), comfy.sd.load_clip([file])
    wanted = ClipScorer(model, get_tokenizer("ViT-L-14"), 224, vision.image_mean, vision.image_std)
    found = node.pair(vision, clip)
    close(found.text_features(TEXTS), wanted.text_features(TEXTS))
    close(found.crop_features(PICTURE, MASKS), wanted.crop_features(PICTURE, MASKS))
    close(found.masked_features(PICTURE, MASKS), wanted.masked_features(PICTURE, MASKS))
