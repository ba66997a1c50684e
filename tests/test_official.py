"""The authors' views of heat and masks, against formulae written out here on small real models."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.maps import TokenMaps
from refdiff.attention.official_heat import official_heat
from refdiff.pipeline import Look
from refdiff.scoring.clip import ClipScorer
from refdiff.scoring.official import keep_to_largest, official_features
from refdiff.settings import Settings

PATCH, SIZE = 8, 64
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.25, 0.2)


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    """A random CLIP of two layers, 8 x 8 patches of 8 pixels, whose weights all matter."""
    from open_clip import get_tokenizer
    from open_clip.model import CLIP

    torch.manual_seed(0)
    model = CLIP(
        48,
        {"image_size": SIZE, "patch_size": PATCH, "width": 64, "layers": 2, "head_width": 32},
        {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    )
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    tokenizer = get_tokenizer("ViT-B-32")
    return ClipScorer(model.eval(), tokenizer, SIZE, MEAN, STD)


def picture(height: int, width: int, seed: int = 1) -> Tensor:
    """Soft colours in whole levels of 8 bits, [3, h, w]."""
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = interpolate(small, (height, width), mode="bilinear")[0]
    return (smooth * 255).round() / 255


def box(height: int, width: int, top: int, left: int, tall: int, wide: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + tall, left : left + wide] = True
    return mask


def entering(scorer: ClipScorer, image: Tensor) -> Tensor:
    """Class token and patches before the first layer, [1, 1 + P, C], positions stretched."""
    tower = scorer.model.visual
    patches = tower.conv1(((image - scorer.mean) / scorer.std)[None])
    rows, columns = patches.shape[2:]
    own = tower.positional_embedding
    if image.shape[1] != image.shape[2] or (rows, columns) != (8, 8):
        grid = own[1:].T.reshape(1, -1, 8, 8)
        y, x = ((torch.arange(count) + 0.5) / ((count + 0.1) / 8) for count in (rows, columns))
        where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None] / 4 - 1
        grid = torch.nn.functional.grid_sample(
            grid, where, mode="bicubic", padding_mode="border", align_corners=False
        )
        own = torch.cat([own[:1], grid[0].flatten(1).T])
    tokens = torch.cat([tower.class_embedding[None, None], patches.flatten(2).mT], 1)
    return tower.ln_pre(tokens + own)


def leaving(scorer: ClipScorer, tokens: Tensor, seen: Tensor | None = None) -> Tensor:
    """The class token's unit feature [D]. seen: which token (row) sees which (column)."""
    tower = scorer.model.visual
    bar = None if seen is None else torch.zeros(seen.shape).masked_fill(~seen, -math.inf)
    for block in tower.transformer.resblocks:
        tokens = block(tokens, attn_mask=bar)
    return normalize(tower.ln_post(tokens[0, 0]) @ tower.proj, dim=-1)


@torch.no_grad()
def masked_by_hand(scorer: ClipScorer, image: Tensor, inside: Tensor) -> Tensor:
    """One mask alone: its class token sees itself and its patches [P], patches see patches."""
    tokens = entering(scorer, image)
    seen = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool)
    seen[1:, 0] = False
    seen[0, 1:] = inside
    return leaving(scorer, tokens, seen)


@torch.no_grad()
def crop_by_hand(scorer: ClipScorer, cut: Tensor, size: tuple[int, int]) -> Tensor:
    """Plain CLIP on a cut-out, bilinearly resized as a picture of 8 bits to (height, width)."""
    levels = (cut * 255).round().byte().permute(1, 2, 0).numpy()
    shown = Image.fromarray(levels).resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1) / 255
    return leaving(scorer, entering(scorer, pixels))


def close(found: Tensor, wanted: Tensor, within: float = 2e-5) -> None:
    torch.testing.assert_close(found, wanted, atol=within, rtol=0)


# ---- the masked view -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (80, 133), (70, 70), (70, 64)])
def test_masks_act_from_the_first_layer_at_the_pictures_own_size(
    scorer: ClipScorer, size: tuple[int, int]
) -> None:
    image = picture(*size)
    masks = torch.stack([box(*size, 8, 16, 40, 40), box(*size, 0, 0, size[0], 33)])
    found = official_features(scorer, image, image, masks).masked
    rows, columns = size[0] // PATCH, size[1] // PATCH
    for mask, feature in zip(masks, found, strict=True):
        nearest = mask[torch.arange(rows) * size[0] // rows][
            :, torch.arange(columns) * size[1] // columns
        ]
        close(feature, masked_by_hand(scorer, image, nearest.flatten()))
    assert float((found[0] - found[1]).abs().max()) > 1e-2


def test_a_patch_belongs_to_a_mask_by_its_nearest_pixel_alone(scorer: ClipScorer) -> None:
    image = picture(64, 64)
    corner, rest = box(64, 64, 16, 32, 1, 1), box(64, 64, 16, 32, 8, 8)
    found = official_features(scorer, image, image, torch.stack([corner, rest, rest & ~corner]))
    close(found.masked[0], found.masked[1])
    nothing = torch.zeros(64, dtype=torch.bool)
    close(found.masked[2], masked_by_hand(scorer, image, nothing))


def test_a_mask_without_a_patch_sees_itself_alone(scorer: ClipScorer) -> None:
    speck = box(64, 64, 19, 33, 2, 2)[None]
    one, other = (picture(64, 64, seed) for seed in (1, 2))
    close(
        official_features(scorer, one, one, speck).masked,
        official_features(scorer, other, other, speck).masked,
    )


def test_all_masks_at_once_equal_one_at_a_time(scorer: ClipScorer) -> None:
    image = picture(96, 64)
    masks = torch.stack([box(96, 64, 8 * i, 8, 24, 24 + i) for i in range(5)])
    together = official_features(scorer, image, image, masks)
    for index, mask in enumerate(masks):
        alone = official_features(scorer, image, image, mask[None])
        close(together.masked[index], alone.masked[0])
        close(together.crop[index], alone.crop[0])


def test_half_precision_stays_close(scorer: ClipScorer) -> None:
    half = ClipScorer(scorer.model, scorer.tokenizer, SIZE, MEAN, STD)
    image, masks = picture(96, 64), box(96, 64, 8, 8, 48, 48)[None]
    wanted = official_features(scorer, image, image, masks)
    state = {name: value.clone() for name, value in scorer.model.state_dict().items()}
    try:
        half.model.to(torch.bfloat16)
        found = official_features(half, image, image, masks)
    finally:
        scorer.model.float().load_state_dict(state)
    for one, other in ((found.crop, wanted.crop), (found.masked, wanted.masked)):
        assert float((one * other).sum()) > 0.99 and one.dtype == torch.float32


def test_a_tower_that_averages_has_its_own_masked_view() -> None:
    from refdiff.benchmark.random_models import random_clip

    tiny = random_clip(tiny=True)
    tiny.model.visual.pool_type = "avg"
    image, masks = picture(96, 64), box(96, 64, 8, 8, 48, 48)[None]
    found = official_features(tiny, image, image, masks)
    assert torch.equal(found.masked, tiny.masked_features(image, masks))


# ---- the crop --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tall", "wide", "size"),
    [(64, 64, (64, 64)), (40, 40, (64, 64)), (50, 77, (64, 98)), (100, 30, (213, 64))],
)
def test_a_crop_is_resized_bilinearly_and_its_longer_side_rounded_down(
    scorer: ClipScorer, tall: int, wide: int, size: tuple[int, int]
) -> None:
    image, mask = picture(120, 120), box(120, 120, 10, 20, tall, wide)
    mask[10 : 10 + tall // 3, 20 : 20 + wide // 3] = False
    cut = (image * mask)[:, 10 : 10 + tall, 20 : 20 + wide]
    found = official_features(scorer, image, image, mask[None]).crop[0]
    close(found, crop_by_hand(scorer, cut, size))


def test_a_darkened_crop_loses_the_rest_of_a_level(scorer: ClipScorer) -> None:
    image = picture(64, 64)
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    dark = image * torch.linspace(1, 0.3, 64)
    whole = torch.tensor(np.floor(dark.double().numpy() * 255 + 1e-3) / 255).float()
    features = official_features(scorer, dark, image, mask)
    close(features.crop[0], crop_by_hand(scorer, whole, (64, 64)))
    close(features.masked, official_features(scorer, image, image, mask).masked)


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (1500, 40), (7, 7)])
def test_odd_pictures_work(scorer: ClipScorer, size: tuple[int, int]) -> None:
    mask = torch.zeros(2, *size, dtype=torch.bool)
    mask[0, -1, -1] = mask[1] = True
    image = picture(*size)
    found = official_features(scorer, image, image, mask)
    for part in (found.crop, found.masked):
        close(part.norm(dim=1), torch.ones(2))


def test_masks_may_be_of_another_size_than_the_picture(scorer: ClipScorer) -> None:
    image = picture(128, 192)
    mask = box(64, 96, 10, 20, 32, 30)[None]
    larger = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    small, large = (official_features(scorer, image, image, each) for each in (mask, larger))
    close(small.crop, large.crop)
    close(small.masked, large.masked)


def test_the_model_is_left_as_it_was(scorer: ClipScorer) -> None:
    before = {name: value.clone() for name, value in scorer.model.state_dict().items()}
    image = picture(80, 72)
    found = official_features(scorer, image, image, box(80, 72, 9, 9, 30, 30)[None])
    after = scorer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not found.crop.requires_grad and not found.masked.requires_grad


# ---- the heat --------------------------------------------------------------------------------


def maps_of(*layers: Tensor, content: Any = None) -> TokenMaps:
    """Maps of the tokens of "red cat"."""
    names = tuple(f"layer {number}" for number in range(len(layers)))
    spans = ((0, 3), (4, 7))
    return TokenMaps(
        layers,
        names,
        (32,) * len(layers),
        ("red</w>", "cat</w>"),
        spans,
        "red cat",
        "logits",
        content,
    )


def test_heat_is_stretched_by_layer_cut_to_levels_and_enlarged_with_its_padding() -> None:
    first, second = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    maps = maps_of(first, 100 * second - 7, content=(0.25, 0.0, 0.5, 1.0))
    stretched = [(each - each.min()) / (each.max() - each.min()) for each in (first[1], second[1])]
    levels = np.floor(((stretched[0] + stretched[1]) / 2).numpy() * 255).astype(np.uint8)
    square = np.array(Image.fromarray(levels).resize((40, 40), Image.Resampling.LANCZOS)) / 255
    shown = square[10:30]
    wanted = (shown - shown.min()) / (shown.max() - shown.min())
    found = official_heat(maps, [0, 1], (20, 40))
    assert found.shape == (20, 40)
    close(found, torch.from_numpy(wanted).float(), 0.02)
    assert float((found - torch.from_numpy(wanted)).abs().mean()) < 2e-3


def test_the_last_piece_of_a_word_speaks() -> None:
    layer = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1))
    changed = torch.stack([torch.randn(4, 4), layer[1]])
    assert torch.equal(
        official_heat(maps_of(layer), [0, 1], (8, 8)), official_heat(maps_of(changed), [1], (8, 8))
    )


def test_layers_of_several_grids_and_a_picture_without_padding_are_possible() -> None:
    coarse, fine = torch.rand(2, 2, 4), torch.rand(2, 4, 8)
    heat = official_heat(maps_of(coarse, fine), [1], (30, 60))
    assert heat.shape == (30, 60) and float(heat.min()) == 0 and float(heat.max()) == 1
    assert float(official_heat(maps_of(torch.ones(2, 4, 4)), [1], (8, 8)).max()) == 0
    with pytest.raises(ValueError, match="1 layers and 0 columns"):
        official_heat(maps_of(fine), [], (8, 8))


# ---- the profile -----------------------------------------------------------------------------


def test_all_but_the_largest_masks_come_last() -> None:
    masks = torch.stack([box(10, 10, 0, 0, tall, 10) for tall in (1, 5, 3, 9)])
    scores = torch.tensor([0.9, -0.5, 0.7, -0.2])
    kept = keep_to_largest(scores, masks, 2)
    assert torch.equal(kept[[1, 3]], scores[[1, 3]]) and bool((kept[[0, 2]] < -0.5).all())
    assert torch.equal(keep_to_largest(scores, masks, 4), scores)


@pytest.fixture(scope="module")
def official(tiny_pipe: Any, scorer: ClipScorer) -> Any:
    """Looks under the official profile, at the model's own size."""
    settings = Settings.official().sized(1.0)
    capture = DiffusersCapture(tiny_pipe)
    return lambda image, proposals=None, **changes: Look(
        image, capture, scorer, replace(settings, **changes), proposals
    )


def test_the_official_profile_chooses_one_mask_whatever_is_said(
    official: Any, picture_of_discs: Image.Image
) -> None:
    masks = torch.stack([box(97, 131, 10 * i, 0, 10, 60) for i in range(4)])
    look = official(picture_of_discs, masks)
    for text in ("the red disc and the blue disc", "both discs", "all the discs"):
        found = look(text)
        assert sum(one.chosen for one in found.candidates) == 1
        assert len(found.candidates) == 4 and len(found.instances) == 1


def test_given_masks_beyond_the_ten_largest_are_not_chosen(
    official: Any, picture_of_discs: Image.Image
) -> None:
    areas = list(range(2, 14))
    masks = torch.stack([box(97, 131, 7 * i, 0, 5, 10 * n) for i, n in enumerate(areas)])
    found = official(picture_of_discs, masks)("the disc")
    order = sorted(found.candidates, key=lambda one: one.score)
    assert {round(one.area, 4) for one in order[:2]} == {
        round(float(mask.float().mean()), 4) for mask in masks[:2]
    }
    everything = official(picture_of_discs, masks, largest=None)("the disc")
    assert max(one.score for one in everything.candidates[:2]) > order[0].score


def test_the_official_profile_shows_clip_the_authors_views(
    official: Any, scorer: ClipScorer, picture_of_discs: Image.Image
) -> None:
    masks = torch.stack([box(97, 131, 20, 10, 40, 40), box(97, 131, 36, 76, 48, 48)])
    found = official(picture_of_discs, masks)("the disc")
    pixels = torch.from_numpy(np.array(picture_of_discs)).permute(2, 0, 1) / 255
    seen = official_features(scorer, pixels, pixels, masks)
    sentence, word = scorer.text_features(["the disc", "disc"])
    wanted = 0.7 * seen.crop @ sentence + 0.3 * seen.masked @ (sentence + word) / 2
    close(torch.tensor([one.clip for one in found.candidates]), wanted, 1e-4)


def test_unknown_views_are_refused() -> None:
    with pytest.raises(ValueError, match="views is 'theirs', wanted one of refdiff, official"):
        Settings(views="theirs")


@pytest.fixture
def picture_of_discs(picture: Image.Image) -> Image.Image:
    """The session's picture under a name that the drawn ones here don't take."""
    return picture
