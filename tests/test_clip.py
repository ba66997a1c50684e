"""CLIP's features of regions, on a small random model of the real classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, resize_pos_embed
from safetensors.torch import save_file
from torch.nn.functional import normalize

from refdiff.errors import ModelError
from refdiff.expression import parse
from refdiff.scoring.clip import ClipScorer, CropStyle, RegionFeatures, blend, similarity
from refdiff.scoring.crops import bounding_box, circled, resize
from refdiff.scoring.regions import Regions
from refdiff.settings import Settings
from refdiff.stickers import WEIGHTS

OWN_ASPECT = CropStyle(square=False)

VISION = {"image_size": 64, "patch_size": 8, "width": 64, "layers": 3, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.25, 0.2]}


def save_model(folder: Path, **vision: object) -> Path:
    """A random CLIP in open_clip's own folder layout."""
    config = {"embed_dim": 48, "vision_cfg": {**VISION, **vision}, "text_cfg": TEXT}
    torch.manual_seed(0)
    model = CLIP(**config)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    text = json.dumps({"model_cfg": config, "preprocess_cfg": PIXELS})
    (folder / "open_clip_config.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.load(folder)


def picture(height: int, width: int, seed: int = 1) -> torch.Tensor:
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear")[0]


def box(height: int, width: int, top: int, left: int, tall: int, wide: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + tall, left : left + wide] = True
    return mask


def boxes(height: int, width: int) -> torch.Tensor:
    return torch.stack(
        [
            box(height, width, 0, 0, height // 2, width // 2),
            box(height, width, height // 4, width // 3, height // 2, width // 5),
            box(height, width, height // 2, 0, height // 2, width),
            box(height, width, 1, 1, 2, 2),
        ]
    )


def plain(scorer: ClipScorer, image: torch.Tensor) -> torch.Tensor:
    pixels = (image - torch.tensor(PIXELS["mean"]).view(3, 1, 1)) / torch.tensor(
        PIXELS["std"]
    ).view(3, 1, 1)
    with torch.no_grad():
        return scorer.model.encode_image(pixels[None], normalize=True)


def close(found: torch.Tensor, wanted: torch.Tensor, within: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, atol=within, rtol=0)


VARIANTS: dict[str, dict] = {
    "usual": {},
    "layer scale": {"ls_init_value": 0.5},
    "average": {"pool_type": "avg"},
    "average, norm last": {"pool_type": "avg", "final_ln_after_pool": True},
    "token, norm last": {"final_ln_after_pool": True},
    "custom blocks": {"qk_norm": True, "scale_heads": True},
    "no first norm": {"no_ln_pre": True},
    "patch dropout": {"patch_dropout": 0.5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_mask_of_everything_is_plain_clip(variant: str, tmp_path: Path) -> None:
    scorer = ClipScorer.load(save_model(tmp_path, **VARIANTS[variant]))
    image, everything = picture(64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    features = scorer.image_features(image, everything)
    wanted = plain(scorer, image)
    close(features.masked, wanted)
    close(features.crop, wanted)


@pytest.mark.parametrize("size", [(96, 64), (64, 120), (64, 32)])
def test_other_sizes_agree_with_open_clips_resized_model(
    folder: Path, scorer: ClipScorer, size: tuple[int, int]
) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"]["image_size"] = list(size)
    other = CLIP(**config).eval()
    state = scorer.model.state_dict()
    resize_pos_embed(state, other)
    other.load_state_dict(state)
    image, everything = picture(*size), torch.ones(1, *size, dtype=torch.bool)
    pixels = (image - scorer.mean) / scorer.std
    with torch.no_grad():
        wanted = other.encode_image(pixels[None], normalize=True)
    close(scorer.masked_features(image, everything), wanted)


@pytest.mark.parametrize("size", [(64, 64), (100, 150), (200, 48), (30, 20)])
@pytest.mark.parametrize("from_layer", [0, 2])
def test_all_masks_at_once_equal_one_at_a_time(
    scorer: ClipScorer, size: tuple[int, int], from_layer: int
) -> None:
    image, masks = picture(*size), boxes(*size)
    together = scorer.masked_features(image, masks, from_layer=from_layer)
    single = [scorer.masked_features(image, mask[None], from_layer=from_layer) for mask in masks]
    assert together.shape == (4, 48)
    close(together, torch.cat(single))
    close(scorer.masked_features(image, masks.flip(0), from_layer=from_layer), together.flip(0))


def test_masking_tells_regions_apart_and_starts_where_told(scorer: ClipScorer) -> None:
    image, masks = picture(64, 64), boxes(64, 64)
    everything = torch.ones_like(masks)
    whole = scorer.masked_features(image, everything)
    first = scorer.masked_features(image, masks)
    later = scorer.masked_features(image, masks, from_layer=1)
    never = scorer.masked_features(image, masks, from_layer=3)
    assert float((first[0] - first[2]).abs().max()) > 1e-2
    assert float((first - later).abs().max()) > 1e-3
    close(never, whole)


def test_a_mask_token_reads_only_the_masks_patches_in_the_first_layer(tmp_path: Path) -> None:
    scorer = ClipScorer.load(save_model(tmp_path, layers=1))
    image, mask = picture(64, 64), box(64, 64, 16, 24, 24, 16)
    changed = torch.where(mask, image, picture(64, 64, seed=2))
    close(scorer.masked_features(changed, mask[None]), scorer.masked_features(image, mask[None]))
    inside = torch.where(mask, picture(64, 64, seed=2), image)
    moved = scorer.masked_features(inside, mask[None]) - scorer.masked_features(image, mask[None])
    assert float(moved.abs().max()) > 1e-3


def test_a_mask_smaller_than_a_patch_falls_back_to_its_patch(scorer: ClipScorer) -> None:
    image = picture(64, 64)
    speck, patch = box(64, 64, 19, 33, 1, 2), box(64, 64, 16, 32, 8, 8)
    found = scorer.masked_features(image, torch.stack([speck, patch]))
    close(found[0], found[1])


def test_masks_may_be_of_another_size_than_the_picture(scorer: ClipScorer) -> None:
    image, masks = picture(128, 192), boxes(64, 96)
    larger = masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    small, large = scorer.image_features(image, masks), scorer.image_features(image, larger)
    close(small.masked, large.masked)
    close(small.crop, large.crop)


def test_reach_limits_the_number_of_patches(scorer: ClipScorer) -> None:
    assert scorer.patch_grid(64, 64, 2.0) == (8, 8)
    assert scorer.patch_grid(1000, 500, 2.0) == (16, 8)
    assert scorer.patch_grid(1000, 500, 1.0) == (8, 4)
    assert scorer.patch_grid(10, 20, 2.0) == (4, 8)
    assert scorer.patch_grid(20000, 20, 2.0) == (16, 1)


def test_a_square_crop_is_plain_clip_on_that_part(scorer: ClipScorer) -> None:
    image = picture(128, 192)
    mask = box(128, 192, 32, 48, 64, 64)
    found = scorer.crop_features(image, mask[None])
    close(found, plain(scorer, image[:, 32:96, 48:112]))


def test_a_second_view_is_averaged_with_the_first(scorer: ClipScorer) -> None:
    image, masks = picture(96, 128), boxes(96, 128)
    one, other = (
        scorer.crop_features(image, masks, CropStyle("mean", margin)) for margin in (0.05, 0.5)
    )
    found = scorer.crop_features(image, masks, CropStyle("mean", 0.05, wider=0.5))
    close(found, normalize(one + other, dim=-1))
    assert float((found - one).abs().max()) > 1e-3 < float((found - other).abs().max())


def test_surroundings_decide_what_is_seen_outside_the_mask(scorer: ClipScorer) -> None:
    image = picture(64, 64)
    disc = (torch.arange(64)[:, None] - 31.5) ** 2 + (torch.arange(64)[None] - 31.5) ** 2 < 32**2
    mean = torch.tensor(PIXELS["mean"]).view(3, 1, 1).expand_as(image)
    shown = {"black": torch.zeros_like(image), "mean": mean, "keep": image}
    found = {}
    for name in ("black", "mean", "keep", "blur"):
        style = CropStyle(surroundings=name)
        found[name] = scorer.crop_features(image, disc[None], style)
        if name != "blur":
            close(found[name], plain(scorer, torch.where(disc, image, shown[name])))
    assert all(float((found["blur"] - found[name]).abs().max()) > 1e-4 for name in shown)


def test_a_circle_goes_around_the_mask_and_leaves_it_as_it_is(scorer: ClipScorer) -> None:
    image, mask = picture(128, 128), box(128, 128, 40, 50, 30, 20)
    style = CropStyle("keep", margin=0.5, circle=True)
    frame = bounding_box(mask, 128, 128, style)
    top, left, tall, wide = frame
    crop = image[:, top : top + tall, left : left + wide]
    found = circled(crop, mask, frame, 128, 128)
    drawn = (found != crop).any(0)
    assert drawn.any() and (found[:, drawn] == torch.tensor([[1.0], [0.0], [0.0]])).all()
    assert not (drawn & mask[top : top + tall, left : left + wide]).any()
    middle = (55 - top, 60 - left)  # the mask's; the line is met in each of the four directions
    row, column = drawn[middle[0]], drawn[:, middle[1]]
    assert row[: middle[1]].any() and row[middle[1] :].any()
    assert column[: middle[0]].any() and column[middle[0] :].any()
    close(scorer.crop_features(image, mask[None], style), plain(scorer, resize(found, (64, 64))))


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_a_circle_beyond_the_picture_is_still_drawn(margin: float) -> None:
    mask = torch.ones(20, 60, dtype=torch.bool)
    style = CropStyle("keep", margin, circle=True)
    frame = bounding_box(mask, 20, 60, style)
    found = circled(torch.zeros(3, frame[2], frame[3]), mask, frame, 20, 60)
    assert found[0].any() and not found[1:].any()


def test_black_surroundings_hide_the_rest_and_margin_shows_it(scorer: ClipScorer) -> None:
    image, mask = picture(128, 128), box(128, 128, 40, 40, 50, 30)
    other = torch.where(mask, image, picture(128, 128, seed=2))
    for style in (CropStyle(), OWN_ASPECT, CropStyle("mean", margin=0.3)):
        close(
            scorer.crop_features(other, mask[None], style),
            scorer.crop_features(image, mask[None], style),
        )
    style = CropStyle("keep", margin=0.3)
    moved = scorer.crop_features(other, mask[None], style) - scorer.crop_features(
        image, mask[None], style
    )
    assert float(moved.abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("tall", "wide", "wanted"), [(40, 40, (64, 64)), (40, 80, (64, 128)), (200, 4, (256, 64))]
)
def test_official_crops_keep_their_aspect_up_to_four(
    scorer: ClipScorer, tall: int, wide: int, wanted: tuple[int, int]
) -> None:

    style = OWN_ASPECT
    mask = box(200, 200, 0, 0, tall, wide)
    assert scorer._crop_size(bounding_box(mask, 200, 200, style), style) == wanted
    assert scorer.crop_features(picture(200, 200), mask[None], style).shape == (1, 48)


@pytest.mark.parametrize("style", [CropStyle(), OWN_ASPECT, CropStyle("blur", 0.2)])
def test_crops_in_chunks_equal_crops_alone(scorer: ClipScorer, style: CropStyle) -> None:
    image = picture(96, 96)
    masks = torch.stack([box(96, 96, i, 2 * i, 20 + i % 3, 30) for i in range(34)])
    together = scorer.crop_features(image, masks, style)
    for index in (0, 1, 33):
        close(together[index], scorer.crop_features(image, masks[index][None], style)[0])


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (2000, 40)])
def test_odd_pictures_work(scorer: ClipScorer, size: tuple[int, int]) -> None:
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, -1, -1] = True
    for style in (CropStyle(), OWN_ASPECT, CropStyle("blur", 0.5)):
        features = scorer.image_features(torch.rand(3, *size), mask, style)
        for part in (features.crop, features.masked):
            close(part.norm(dim=1), torch.ones(1))


def test_text_features_are_open_clips_and_remembered(scorer: ClipScorer) -> None:
    texts = ["the red cat", "cat", "the red cat"]
    found = scorer.text_features(texts)
    with torch.no_grad():
        wanted = scorer.model.encode_text(scorer.tokenizer(texts), normalize=True)
    close(found, wanted)
    assert torch.equal(scorer.text_features(["cat"])[0], found[1])
    close(scorer.text_features(["dog", "cat"])[1], found[1])
    with pytest.raises(ValueError, match="'cat'"):
        scorer.text_features("cat")


def test_the_memory_of_texts_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refdiff.scoring.clip.TEXTS_KEPT", 2)
    scorer = ClipScorer.load(folder)
    assert scorer.text_features(["a", "b", "c"]).shape == (3, 48)
    scorer.text_features(["b"])
    scorer.text_features(["d"])
    assert list(scorer._texts) == ["b", "d"]


def test_blend_and_similarity_follow_the_paper() -> None:
    texts = torch.nn.functional.normalize(torch.randn(2, 8), dim=1)
    regions = RegionFeatures(torch.randn(5, 8), torch.randn(5, 8))
    close(blend(texts, [0.5, 0.5]), texts.mean(0))
    mixed = 0.3 * regions.masked + 0.7 * regions.crop
    close(similarity(regions, texts[0]), mixed @ texts[0])
    close(similarity(regions, texts), mixed @ texts.T)
    close(similarity(regions, texts[0], texts[1], beta=1.0), regions.masked @ texts[1])
    with pytest.raises(ValueError, match="beta is 2"):
        similarity(regions, texts[0], beta=2)
    with pytest.raises(ValueError, match="2 texts and 1 weights"):
        blend(texts, [1.0])


def test_the_model_is_left_as_it_was(scorer: ClipScorer) -> None:
    before = {name: value.clone() for name, value in scorer.model.state_dict().items()}
    image, masks = picture(64, 64), boxes(64, 64)
    seen = plain(scorer, image)
    features = scorer.image_features(image, masks, OWN_ASPECT, from_layer=1)
    assert not features.crop.requires_grad and not features.masked.requires_grad
    after = scorer.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(plain(scorer, image), seen)
    assert not scorer.model.training and not any(
        module._forward_hooks for module in scorer.model.modules()
    )


def test_a_trainable_model_gives_no_gradients(folder: Path) -> None:
    loaded = ClipScorer.load(folder)
    loaded.model.requires_grad_(True)
    scorer = ClipScorer(loaded.model, loaded.tokenizer, 64, PIXELS["mean"], PIXELS["std"])
    image, masks = picture(64, 64), boxes(64, 64)
    assert not scorer.image_features(image, masks).masked.requires_grad
    assert not scorer.text_features(["cat"]).requires_grad


def test_only_a_sigmoids_clip_tells_probabilities(scorer: ClipScorer) -> None:
    """What SigLIP says of a pair on its own; a softmax over texts says nothing of one text."""
    near = torch.tensor([-1.0, 0.0, 0.4, 1.0])
    assert scorer.probability(near) is None
    told = ClipScorer.load(WEIGHTS / "clip")
    likely = told.probability(near)
    logits = near * told.model.logit_scale.exp() + told.model.logit_bias
    assert torch.allclose(likely, 1 / (1 + (-logits).exp()), atol=1e-6)
    assert likely[0] < 0.01 and likely[3] > 0.9 and not likely.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(folder: Path, scorer: ClipScorer, dtype: torch.dtype) -> None:
    image, masks = picture(64, 96), boxes(64, 96)
    wanted = scorer.image_features(image, masks)
    half = ClipScorer.load(folder, dtype=dtype)
    found = half.image_features(image, masks)
    assert half.model.visual.conv1.weight.dtype == dtype
    assert found.masked.dtype == torch.float32
    for one, other in ((found.crop, wanted.crop), (found.masked, wanted.masked)):
        assert float((one * other).sum(1).min()) > 0.995
    close(half.text_features(["cat"]).norm(dim=1), torch.ones(1))


@pytest.mark.parametrize(
    ("image", "masks"),
    [
        (torch.rand(64, 64, 3), torch.ones(1, 64, 64, dtype=torch.bool)),
        (torch.zeros(3, 64, 64, dtype=torch.uint8), torch.ones(1, 64, 64, dtype=torch.bool)),
        (torch.rand(3, 64, 64), torch.ones(64, 64, dtype=torch.bool)),
        (torch.rand(3, 64, 64), torch.ones(1, 64, 64)),
        (torch.rand(3, 64, 64), torch.zeros(0, 64, 64, dtype=torch.bool)),
        (torch.rand(3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)),
    ],
)
def test_bad_pictures_and_masks_are_explained(
    scorer: ClipScorer, image: torch.Tensor, masks: torch.Tensor
) -> None:
    for look in (scorer.crop_features, scorer.masked_features):
        with pytest.raises(ValueError, match="wanted"):
            look(image, masks)


def test_bad_settings_are_explained(scorer: ClipScorer, folder: Path) -> None:
    image, masks = picture(64, 64), boxes(64, 64)
    settings: list[dict] = [{"reach": 0.5}, {"from_layer": 4}, {"from_layer": -1}]
    for wrong in settings:
        with pytest.raises(ValueError, match="wanted"):
            scorer.masked_features(image, masks, **wrong)
    styles: list[dict] = [{"surroundings": "white"}, {"margin": -1.0}, {"longest": 0.5}]
    styles += [{"margin": 0.1, "wider": 0.1}, {"wider": -0.2}]
    for style in styles:
        with pytest.raises(ValueError, match="wanted"):
            CropStyle(**style)
    with pytest.raises(ValueError, match="float64"):
        ClipScorer.load(folder, dtype=torch.float64)


def test_open_clips_own_schema_is_understood(folder: Path, scorer: ClipScorer) -> None:
    again = ClipScorer.load(f"local-dir:{folder}")
    close(again.text_features(["cat"]), scorer.text_features(["cat"]))
    assert again.size == 64 and again.mean.flatten().tolist() == pytest.approx(PIXELS["mean"])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("no/such/folder", "neither"),
        ("ViT-B-16", "none named.*openai"),
        ("ViT-B-16/nonsense", "nonsense.*openai"),
    ],
)
def test_unknown_names_are_explained(source: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        ClipScorer.load(source)


def test_broken_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        ClipScorer.load(tmp_path)
    save_model(tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    whole = weights.read_bytes()
    with pytest.raises(ModelError, match="neither a folder"):
        ClipScorer.load(weights)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="complete"):
        ClipScorer.load(tmp_path)
    weights.rename(tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        ClipScorer.load(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / "open_clip_config.json").write_text("{broken")
    with pytest.raises(ModelError, match="cannot be read"):
        ClipScorer.load(tmp_path)


@pytest.mark.parametrize("vision", [{"layers": [1, 1, 1, 1]}, {"attentional_pool": True}])
def test_towers_that_masks_cannot_act_on_are_refused(tmp_path: Path, vision: dict) -> None:
    with pytest.raises(ModelError, match=r"ViT-B-16/openai"):
        ClipScorer.load(save_model(tmp_path, **vision))


@pytest.mark.parametrize("wants", [True, False])
def test_the_activation_is_the_one_that_the_weights_were_trained_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wants: bool
) -> None:
    from open_clip import add_model_config
    from open_clip.model import QuickGELU
    from open_clip.pretrained import _PRETRAINED

    name = f"tiny-{wants}"
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    add_model_config(tmp_path / f"{name}.json")
    weights = {"file": str(folder / "open_clip_model.safetensors"), "quick_gelu": wants}
    monkeypatch.setitem(_PRETRAINED, name, {"tag": {**PIXELS, **weights}})
    model = ClipScorer.load(f"{name}/tag").model
    used = [isinstance(module, QuickGELU) for module in model.modules()]
    assert sum(used) == (VISION["layers"] + TEXT["layers"] if wants else 0)


def test_openais_metas_and_apples_weights_want_quick_gelu() -> None:
    from open_clip import get_pretrained_cfg

    for name, tag in (("ViT-B-16", "openai"), ("ViT-L-14", "metaclip_fullcc")):
        assert get_pretrained_cfg(name, tag)["quick_gelu"]


def test_a_region_of_a_large_picture_is_seen_with_its_own_pixels(scorer: ClipScorer) -> None:
    small = picture(64, 64)
    large = torch.nn.functional.interpolate(picture(60, 80)[None], (600, 800))[0]
    large[:, 200:264, 300:364] = small
    mask = torch.zeros(1, 600, 800, dtype=torch.bool)
    mask[0, 200:264, 300:364] = True
    keep = CropStyle("keep")
    alone = scorer.crop_features(small, torch.ones(1, 64, 64, dtype=torch.bool), keep)
    assert torch.allclose(scorer.crop_features(large, mask, keep), alone, atol=1e-4)
    shrunk = torch.nn.functional.interpolate(large[None], (150, 200), mode="area")[0]
    assert not torch.allclose(scorer.crop_features(shrunk, mask, keep), alone, atol=1e-2)


def test_templates_are_averaged(scorer: ClipScorer) -> None:
    noun = parse("the red cat").root
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:] = True, True
    regions = Regions(
        scorer, torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)), masks
    )

    def near(*templates: str) -> torch.Tensor:
        settings = Settings(clip_templates=templates)
        return regions.judge(noun, parse("the red cat"), settings).similarity

    said = scorer.text_features(["red cat", "a photo of a red cat"])
    for templates, text in (
        (("{}",), said[0]),
        (("a photo of a {}",), said[1]),
        (("{}", "a photo of a {}"), normalize(said.mean(0), dim=0)),
    ):
        features = scorer.image_features(regions.pixels, masks, Settings().crop)
        assert torch.allclose(near(*templates), similarity(features, text, beta=0.5), atol=1e-6)
    for wrong in ((), ("a photo",), ("{} and {}",)):
        with pytest.raises(ValueError, match="with one"):
            Settings(clip_templates=wrong)
