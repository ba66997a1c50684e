"""From picture and sentence to mask, on small random models: what must hold whatever they say."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

import refdiff
from refdiff import steps
from refdiff.attention.capture import CaptureSettings
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.benchmark.random_models import random_pipeline
from refdiff.errors import HeatError, WordError
from refdiff.expression import parse, with_root
from refdiff.masks.resize import resize_masks, upsample
from refdiff.masks.sources import candidates_of
from refdiff.pipeline import Look, segment
from refdiff.result import Segmentation
from refdiff.scoring.clip import ClipScorer
from refdiff.scoring.crops import CropStyle
from refdiff.scoring.regions import ClipJudgement
from refdiff.settings import Fusion, Settings
from refdiff.steps import CandidateScores
from refdiff.steps import presence as presence_of

ANY = Settings(empty_below=0.0)
Asker = Callable[..., Segmentation]


@pytest.fixture(scope="module")
def capture(tiny_pipe: Any) -> DiffusersCapture:
    return DiffusersCapture(tiny_pipe)


@pytest.fixture
def ask(capture: DiffusersCapture, picture: Image.Image) -> Asker:
    def call(text: Any, settings: Settings = ANY, image: Any = picture, **more: Any) -> Any:
        return segment(image, text, capture, settings=settings, **more)

    return call


def boxes(height: int, width: int, *corners: tuple[int, int, int, int]) -> Tensor:
    masks = torch.zeros(len(corners), height, width, dtype=torch.bool)
    for mask, (top, left, tall, wide) in zip(masks, corners, strict=True):
        mask[top : top + tall, left : left + wide] = True
    return masks


APART = ((2, 3, 31, 29), (55, 7, 30, 41), (20, 80, 61, 33))


def test_same_input_same_answer_and_the_seed_matters(ask: Asker) -> None:
    one, two = ask("the red cat on the left"), ask("the red cat on the left")
    assert torch.equal(one.mask, two.mask) and torch.equal(one.heat, two.heat)
    assert [c.score for c in one.candidates] == [c.score for c in two.candidates]
    other = ask("the red cat", replace(ANY, capture=CaptureSettings(seed=1)))
    assert not torch.equal(ask("the red cat").heat, other.heat)


def test_the_picture_is_encoded_once_for_all_sentences(
    tiny_pipe: Any, picture: Image.Image, tiny_scorer: ClipScorer
) -> None:
    passes: list[int] = []
    handle = tiny_pipe.vae.encoder.register_forward_hook(lambda *_: passes.append(1))
    try:
        look = refdiff.look(tiny_pipe, picture, tiny_scorer, ANY)
        first, second = look("the left cup"), look("two dogs")
    finally:
        handle.remove()
    assert len(passes) == 1
    assert torch.equal(first.mask, look("the left cup").mask)
    assert first.times["picture"] == second.times["picture"] > 0


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (301, 201), (64, 3), (1, 40)])
def test_the_mask_has_the_pictures_size(
    ask: Asker, picture: Image.Image, size: tuple[int, int]
) -> None:
    found = ask("the cat", image=picture.resize((size[1], size[0])))
    assert tuple(found.mask.shape) == size and found.mask.dtype == torch.bool
    assert max(found.heat.shape) <= 256


def test_a_given_mask_comes_back_as_it_was(ask: Asker, picture: Image.Image) -> None:
    large = picture.resize((701, 503))
    masks = boxes(503, 701, (3, 5, 171, 99), (201, 17, 155, 301), (90, 401, 333, 222))
    found = ask("the cat", image=large, proposals=masks)
    chosen = [i for i, candidate in enumerate(found.candidates) if candidate.chosen]
    assert len(chosen) == 1 and len(found.candidates) == 3
    assert torch.equal(found.mask, masks[chosen[0]])
    turned = ask("the cat", image=large, proposals=masks.flip(0).numpy())
    assert torch.equal(turned.mask, found.mask)


def test_the_working_size_is_a_setting(ask: Asker, picture: Image.Image) -> None:
    large = picture.resize((701, 503))
    fine = replace(ANY, working=512)
    own = ask("the cat", fine, large)
    assert max(own.heat.shape) == 512 and own.mask.shape == (503, 701)
    masks = boxes(503, 701, (3, 5, 171, 99), (201, 17, 155, 301))
    ready = candidates_of(masks, large)  # made at the usual working size
    for given in (masks, ready):
        found = ask("the cat", fine, large, proposals=given)
        assert any(torch.equal(found.mask, mask) for mask in masks)
        assert found.masks.shape[0] == 2
    with pytest.raises(ValueError, match="wanted 64 to 2048"):
        Settings(working=9)


def test_given_masks_are_checked(ask: Asker) -> None:
    with pytest.raises(ValueError, match="90 x 131"):
        ask("the cat", proposals=torch.ones(2, 90, 131, dtype=torch.bool))
    with pytest.raises(ValueError, match="empty"):
        ask("the cat", proposals=torch.zeros(2, 97, 131, dtype=torch.bool))


def test_the_runner_up_is_another_mask(capture: DiffusersCapture, picture: Image.Image) -> None:
    look = Look(picture, capture, settings=ANY, proposals=boxes(97, 131, *APART))
    ranked = [look("the cat", choice=place) for place in (1, 2, 3)]
    best = [next(c.score for c in one.candidates if c.chosen) for one in ranked]
    assert best == sorted(best, reverse=True)
    assert torch.stack([one.mask for one in ranked]).sum(0).max() == 1  # no pixel in two
    with pytest.raises(ValueError, match="3 different candidates"):
        look("the cat", choice=4)


def test_another_word_can_be_the_root(capture: DiffusersCapture, picture: Image.Image) -> None:
    look = Look(picture, capture, settings=ANY)
    text = "the cat on the table"
    cat, table = look(text), look(text, word="table")
    assert (cat.expression.root.word.text, table.expression.root.word.text) == ("cat", "table")
    assert not torch.equal(cat.heat, table.heat)
    assert torch.equal(table.heat, look(with_root(parse(text), "table")).heat)
    with pytest.raises(WordError, match="chair"):
        look(text, word="chair")


def test_a_plural_takes_the_union(ask: Asker) -> None:
    masks = boxes(97, 131, *APART)
    both = ask("both cats", proposals=masks)
    chosen = [i for i, candidate in enumerate(both.candidates) if candidate.chosen]
    assert len(chosen) == 2
    assert torch.equal(both.mask, masks[chosen].any(0))
    assert ask("the cat", proposals=masks).mask.sum() < both.mask.sum()


def test_two_things_joined_by_and_are_both_found(ask: Asker) -> None:
    masks = boxes(97, 131, *APART)
    found = ask("the cat and the dog", proposals=masks)
    assert [c.noun for c in found.candidates] == ["cat"] * 3 + ["dog"] * 3
    chosen = [i % 3 for i, candidate in enumerate(found.candidates) if candidate.chosen]
    assert len(chosen) == 2 and torch.equal(found.mask, masks[chosen].any(0))
    assert len(found.masks) == 6


def test_nothing_found_is_an_empty_mask_and_a_sentence(ask: Asker) -> None:
    found = ask("the cat", replace(ANY, empty_below=1.0))
    assert found.empty and found.mask.shape == (97, 131) and not found.mask.any()
    assert any("nothing found" in note and "'cat'" in note for note in found.notes)
    assert not ask("the cat").empty
    assert found.presence == ask("the cat").presence


def test_of_two_things_only_the_absent_one_is_left_out(ask: Asker) -> None:
    both = parse("the cat and the dog")
    single = {target.root.lemma: target for target in both.targets()}
    presence = {name: ask(alone).presence for name, alone in single.items()}
    faint, clear = sorted(presence, key=lambda name: presence[name])
    strict = replace(ANY, empty_below=(presence[faint] + presence[clear]) / 2)
    found = ask(both, strict)
    assert torch.equal(found.mask, ask(single[clear]).mask) and not found.empty
    assert any(f"'{faint}'" in note for note in found.notes)
    assert not any(f"'{clear}'" in note for note in found.notes)


def test_presence_is_of_the_best_mask_by_attention_and_clip() -> None:
    masks = boxes(4, 4, (0, 0, 2, 4), (2, 0, 2, 4))
    odds = torch.tensor([0.0, 4.0, 7.0, 1.0]).repeat_interleave(4).view(4, 4)
    zeros = torch.zeros(2)
    unsure = CandidateScores(masks, zeros, None, zeros, zeros, zeros)
    sure = replace(unsure, clip=ClipJudgement(zeros, zeros, torch.tensor([0.15, 0.05])))
    assert presence_of(odds, unsure) == pytest.approx(0.8)
    assert presence_of(None, sure) == pytest.approx(0.15)
    assert presence_of(odds, sure) == pytest.approx((0.8 * 0.15) ** 0.5)
    assert presence_of(None, unsure) == 1
    assert presence_of(odds, replace(unsure, masks=masks[:0])) == 0


def test_heat_that_is_not_finite_is_explained(picture: Image.Image) -> None:
    pipe = random_pipeline(tiny=True)
    pipe.unet.conv_in.weight.data.fill_(float("nan"))
    with pytest.raises(HeatError, match="float32"):
        segment(picture, "the cat", DiffusersCapture(pipe), settings=ANY)


def test_words_beyond_the_first_window_are_found(ask: Asker) -> None:
    filler = "really " * 80
    found = ask(f"the cat next to the {filler}big dog")
    assert not any("dog" in note for note in found.notes) and not found.empty
    assert not ask(f"the {filler}big dog").empty


@pytest.mark.parametrize("profile", ["default", "paper", "official"])
def test_every_profile_answers_with_both_halves(
    capture: DiffusersCapture, picture: Image.Image, tiny_scorer: ClipScorer, profile: str
) -> None:
    settings = replace(Settings.named(profile), empty_below=0.0)
    look = Look(picture, capture, tiny_scorer, settings)
    for text in ("the cat on the left", "the biggest dog next to the cup"):
        found = look(text)
        assert found.mask.shape == (97, 131) and found.mask.any()
        assert sum(candidate.chosen for candidate in found.candidates) == 1
        assert all(isinstance(candidate.clip, float) for candidate in found.candidates)
    stages = "picture parse attention heat proposals clip fusion mask"
    assert list(found.times) == stages.split()


def test_clip_alone_decides_when_alpha_is_nought(
    capture: DiffusersCapture, picture: Image.Image, tiny_scorer: ClipScorer
) -> None:
    settings = replace(ANY, alpha=0.0)
    found = Look(picture, capture, tiny_scorer, settings, boxes(97, 131, *APART))("the cat")
    clip = [candidate.clip or 0.0 for candidate in found.candidates]
    assert found.candidates[int(np.argmax(clip))].chosen
    assert not any("generative only" in note for note in found.notes)


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_every_fusion_answers_with_and_without_clip(
    fusion: Any, capture: DiffusersCapture, picture: Image.Image, tiny_scorer: ClipScorer
) -> None:
    for clip in (tiny_scorer, None):
        found = Look(picture, capture, clip, replace(ANY, fusion=fusion))("the cat on the left")
        assert found.mask.any() and np.isfinite([one.score for one in found.candidates]).all()


def test_clip_sees_the_pictures_own_pixels(
    capture: DiffusersCapture, picture: Image.Image, tiny_scorer: ClipScorer
) -> None:
    rows, columns = np.indices((320, 320)) // 20
    detail = Image.fromarray(((rows + columns) % 2 * 255).astype(np.uint8)).convert("RGB")
    large = picture.resize((3200, 2400))
    large.paste(detail, (800, 600))
    masks = boxes(2400, 3200, (600, 800, 320, 320), (1600, 1800, 200, 200))
    seen: list[Tensor] = []
    handle = tiny_scorer.model.visual.conv1.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    try:
        settings = replace(ANY, crop=CropStyle("keep"))
        Look(large, capture, tiny_scorer, settings, masks)("the cat")
    finally:
        handle.remove()
    crop = seen[0][:1] * tiny_scorer.std + tiny_scorer.mean
    whole = torch.from_numpy(np.array(detail)).permute(2, 0, 1)[None] / 255
    tiny = interpolate(whole, (25, 25), mode="area")  # what a copy of 256 px has of it
    assert float(crop.std()) > 1.3 * float(interpolate(tiny, crop.shape[-2:]).std())


@pytest.mark.parametrize("fusion", ["log", "rank", "calibrated"])
@pytest.mark.parametrize("text", ["the cat on the left", "both dogs", "the biggest cup"])
def test_no_choice_depends_on_the_scale_of_clips_similarities(text: str, fusion: Any) -> None:
    settings = Settings(fusion=fusion)
    generator = torch.Generator().manual_seed(len(text))
    masks, heat = boxes(97, 131, *APART), torch.rand(97, 131, generator=generator)
    cosines, expression = torch.rand(3, generator=generator), parse(text)
    chosen = set()
    for factor, shift in ((1.0, 0.0), (0.5, 0.1), (0.05, 0.25), (4.0, -1.0)):
        moved = factor * cosines + shift
        judged = ClipJudgement(moved, 10 / factor * moved)
        found = steps.score(expression, heat, masks, settings, judged)
        chosen.add(tuple(steps.choose(expression, found, settings)))
        assert float(found.score.sum()) == pytest.approx(1)  # three different things
    assert len(chosen) == 1


def test_without_clip_the_report_says_so(ask: Asker) -> None:
    found = ask("the cat")
    assert all(candidate.clip is None for candidate in found.candidates)
    assert any("generative only" in note for note in found.notes)


def test_the_answer_is_ready_for_what_comes_next(ask: Asker, picture: Image.Image) -> None:
    found = ask("the cat")
    array, tensor, image = found.numpy(), found.torch(), found.mask_image
    assert array.dtype == np.uint8 and array.shape == (97, 131)
    assert set(np.unique(array)) <= {0, 255} and array.any()
    assert tensor.dtype == torch.float32 and tensor.shape == (1, 97, 131)
    assert torch.equal(tensor[0].bool(), found.mask) and set(tensor.unique().tolist()) <= {0.0, 1.0}
    assert image.mode == "L" and image.size == picture.size
    assert np.array_equal(np.asarray(image), array)
    assert found.overlay().size == picture.size
    drawn = Image.open(io.BytesIO(found._repr_png_()))
    assert drawn.format == "PNG" and drawn.size == picture.size


def test_the_report_is_plain_data(ask: Asker) -> None:
    report = json.loads(json.dumps(ask("the second cat from the left").report()))
    assert report["understood"]["root"]["lemma"] == "cat"
    assert report["choice"] == [i for i, c in enumerate(report["candidates"]) if c["chosen"]]
    assert set(report["candidates"][0]) >= {"generative", "clip", "place", "score"}
    assert report["settings"]["capture"]["seed"] == 0 and min(report["seconds"].values()) >= 0


def test_masks_survive_the_way_to_working_size_and_back() -> None:
    masks = boxes(500, 700, (100, 200, 160, 240), (3, 5, 1, 1))
    small = resize_masks(masks, (183, 256))
    assert small.flatten(1).any(1).all()
    back = upsample(small[0], (500, 700))
    assert (back & masks[0]).sum() > 0.95 * (back | masks[0]).sum()


def test_importing_the_package_costs_next_to_nothing() -> None:
    code = "import sys, refdiff; refdiff.RefDiffError; refdiff.Settings; print(*sys.modules)"
    root = str(Path(refdiff.__file__).parents[1])
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"]
    loaded = set(subprocess.run(run, check=True, capture_output=True, text=True).stdout.split())
    assert "refdiff" in loaded
    heavy = "diffusers transformers spacy open_clip scipy pycocotools typer rich".split()
    assert not loaded & set(heavy)


def test_every_public_name_is_there() -> None:
    for name in refdiff.__all__:
        assert getattr(refdiff, name).__name__ == name
    assert set(refdiff.__all__) <= set(dir(refdiff))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = refdiff.nonsense
