"""Tuning: attention is read once, noise does not choose, and the file it writes is used."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.propagate import SelfAttention
from refdiff.cli import app
from refdiff.evaluation import SceneObject, Sentence, write_scenes
from refdiff.evaluation.datasets import read_split
from refdiff.evaluation.remembered import RememberedClip, Studied
from refdiff.evaluation.search_space import SPACE, Choice, present, shares, variations, with_floor
from refdiff.evaluation.tune import Search, giou, halves_of, scores_of
from refdiff.families import REFERENCES, Family
from refdiff.masks.rle import decode
from refdiff.pipeline import Look
from refdiff.scoring.clip import ClipScorer
from refdiff.scoring.crops import CropStyle
from refdiff.settings import Settings
from refdiff.settings_file import read_settings

TEXTS = ("the red cat on the left", "a dog")


@pytest.fixture
def data(tmp_path: Path, picture: Image.Image) -> Path:
    """Four pictures of two discs, each with two sentences and one about nothing."""
    rows, columns = np.mgrid[:97, :131]
    discs = [
        (rows - 40) ** 2 + (columns - 30) ** 2 < 400,
        (rows - 60) ** 2 + (columns - 100) ** 2 < 576,
    ]
    things = [SceneObject.from_mask("cat", None, disc) for disc in discs]
    said = [Sentence(text, (n,), "plain") for n, text in enumerate(TEXTS)]
    said.append(Sentence("the bus", (), "absent"))
    scenes = [(picture.point(lambda v, n=n: v // (n + 1)), things, said) for n in range(4)]
    write_scenes(tmp_path / "data", scenes)
    return tmp_path / "data"


def studied(data: Path, pipe: Any, clip: ClipScorer | None) -> list[Studied]:
    split = read_split(data)
    capture = DiffusersCapture(pipe)
    groups: dict[str, list[Any]] = {}
    for item in split.items:
        groups.setdefault(item.image, []).append(item)
    return [
        Studied(split.pictures.read(name), items, capture, clip) for name, items in groups.items()
    ]


@contextmanager
def passes(pipe: Any) -> Iterator[list[int]]:
    """An entry for each pass of the UNet."""
    runs: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        hook.remove()


def named(field: str) -> Choice:
    return next(choice for choice in SPACE if choice.field == field)


def test_answers_are_those_of_a_plain_look_and_cost_one_pass(
    data: Path, tiny_pipe: Any, tiny_scorer: ClipScorer
) -> None:
    settings = Settings()
    study = studied(data, tiny_pipe, tiny_scorer)[0]
    split = read_split(data)
    picture = split.pictures.read(split.items[0].image)
    every = [one for choice in SPACE for one in variations(settings, choice)]
    tried = [one for one in every if one.capture == settings.capture][:6]
    wanted = {}
    for one in (settings, *tried):
        look = Look(picture, DiffusersCapture(tiny_pipe), tiny_scorer, one)
        wanted[repr(one)] = [look(item.text).mask.numpy() for item in study.items]
    study.answers(settings)
    with passes(tiny_pipe) as runs:
        for one in (settings, *tried):
            found = [decode(answer.mask) for answer in study.answers(one)]
            for mask, want in zip(found, wanted[repr(one)], strict=True):
                assert (mask == want).mean() > 0.999
    assert not runs


def test_spread_heat_is_kept_and_self_attention_is_not(
    data: Path, tiny_pipe: Any, tiny_scorer: ClipScorer
) -> None:
    """Another alpha costs no pass, other weights of the layers one for each sentence."""
    settings = replace(Settings.named("default", "sd1"), proposals="regions")
    study = studied(data, tiny_pipe, tiny_scorer)[0]
    picture = read_split(data).pictures.read(study.items[0].image)
    other = replace(settings, stride_weights=((32, 0.5), (16, 0.5)))
    costs = {}
    for name, one in {
        "first": settings,
        "alpha": replace(settings, alpha=0.1),
        "weights": other,
        "both": replace(other, alpha=0.1),
    }.items():
        look = Look(picture, DiffusersCapture(tiny_pipe), tiny_scorer, one)
        wanted = [look(item.text).mask.numpy() for item in study.items]
        del look
        with passes(tiny_pipe) as runs:
            found = [decode(answer.mask) for answer in study.answers(one)]
        costs[name] = len(runs)
        for mask, want in zip(found, wanted, strict=True):
            assert (mask == want).mean() > 0.999
        gc.collect()
        assert not any(isinstance(one, SelfAttention) for one in gc.get_objects())
    assert costs == {"first": 3, "alpha": 0, "weights": 3, "both": 0}


def test_clip_looks_at_each_mask_once(tiny_scorer: ClipScorer, picture: Image.Image) -> None:
    image = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
    masks = torch.zeros(4, *image.shape[1:], dtype=torch.bool)
    for row in range(4):
        masks[row, 10 * row : 10 * row + 30, 20:60] = True
    clip = RememberedClip(tiny_scorer)
    calls: list[int] = []
    hook = tiny_scorer.model.visual.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for style in (CropStyle(), CropStyle("keep", 0.05)):
            first = clip.crop_features(image, masks[:3], style)
            again = clip.crop_features(image, masks[[2, 3, 0]], style)
            assert torch.equal(again[[2, 0]], first[[0, 2]])
            whole = tiny_scorer.crop_features(image, masks, style)
            assert torch.allclose(torch.cat([first, again[1:2]]), whole, atol=1e-5)
    finally:
        hook.remove()
    masked = clip.masked_features(image, masks)
    assert torch.allclose(masked, tiny_scorer.masked_features(image, masks), atol=1e-5)
    assert clip.device == tiny_scorer.device


def test_the_space_is_made_of_settings_that_can_be() -> None:
    for family in get_args(Family):
        settings = Settings.named("default", family)
        for choice in SPACE:
            found = variations(settings, choice)
            unknown = family == "other" and choice.field in ("stride_weights", "capture.reference")
            assert found or unknown
            assert settings not in found
            for one in found:
                assert present(one, choice.field) != present(settings, choice.field)
        assert with_floor(settings, 0.3).empty_below == 0.3
    capture = replace(settings.capture, places=16)
    regions = replace(settings, capture=capture, proposals="regions", spread="mean")
    assert {one.spread for one in variations(regions, named("spread"))} == {"sharp"}


def test_weights_are_shared_out_among_the_strides() -> None:
    for now in (((32, 0.2), (16, 0.8)), ((64, 0.2), (32, 0.5), (16, 0.3), (8, 0.0))):
        found = list(shares(now))
        assert len(found) == 1 + 3 * len(now)
        for one in found:
            weights = dict(one)
            assert list(weights) == list(dict(now)) and min(weights.values()) >= 0
            assert sum(weights.values()) == pytest.approx(1, abs=0.01)
    assert list(shares(None)) == []


class Told:
    """A picture whose sentences are answered as a table says: settings' alpha to IoU."""

    def __init__(self, study: Studied, right: Any) -> None:
        self.items = study.items
        self._right = right

    def answers(self, settings: Settings) -> Any:
        from refdiff.evaluation.predictions import Prediction
        from refdiff.masks.rle import empty

        return [
            Prediction(
                item.id,
                item.truth if self._right(settings, item) else empty(item.size),
                presence=0.5,
            )
            for item in self.items
        ]


def told(data: Path, pipe: Any, right: Any) -> list[Any]:
    return [Told(study, right) for study in studied(data, pipe, None)] * 6


def test_what_is_better_everywhere_is_found(data: Path, tiny_pipe: Any) -> None:
    settings = Settings()
    best = next(one for one in variations(settings, named("alpha")))
    pictures = told(data, tiny_pipe, lambda s, item: s.alpha == best.alpha)
    steps: list[tuple[int, int]] = []
    found = Search(pictures, clip=True).run(settings, lambda *step: steps.append(step))
    assert found.settings.alpha == best.alpha and giou(scores_of(pictures, found.settings)) == 1.0
    assert next(step.field for step in found.steps) == "alpha" and found.steps[0].gain > 0
    assert steps == sorted(steps)


def test_what_the_model_cannot_keep_is_passed_over(data: Path, tiny_pipe: Any) -> None:
    """A layer is named that another model of the family has: a reader refuses such settings."""

    def right(settings: Settings, item: Any) -> bool:
        DiffusersCapture(tiny_pipe).using(settings.capture)
        return settings.alpha == 0.1

    lacking = (min(DiffusersCapture(tiny_pipe).strides.values()), 99)
    assert named("capture.reference").tried(Settings(family="sd1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REFERENCES, "sd1", lacking)
        found = Search(told(data, tiny_pipe, right), clip=True).run(Settings(family="sd1"))
    assert found.settings.capture.reference is None and found.settings.alpha == 0.1


def test_noise_does_not_choose(data: Path, tiny_pipe: Any) -> None:
    def right(settings: Settings, item: Any) -> bool:
        seed = crc32(f"{settings} {item.id}".encode())
        return bool(np.random.default_rng(seed).random() < 0.5)

    pictures = told(data, tiny_pipe, right)[:4]
    found = Search(pictures, clip=True).run(Settings())
    assert len(found.steps) <= 1  # 2 standard errors let one of some thirty through at most


def test_without_clip_its_own_fields_are_not_searched(data: Path, tiny_pipe: Any) -> None:
    pictures = told(data, tiny_pipe, lambda s, item: s.alpha == 0.5)
    found = Search(pictures, clip=False).run(Settings())
    assert found.settings.alpha == Settings().alpha


def test_a_floor_is_found_where_nothing_is_there(data: Path, tiny_pipe: Any) -> None:
    class Unsure(Told):
        def answers(self, settings: Settings) -> Any:
            from refdiff.evaluation.predictions import Prediction
            from refdiff.masks.rle import empty, encode

            full = encode(np.ones(self.items[0].size, bool))
            found = []
            for item in self.items:
                presence = 0.6 if item.targets else 0.22
                mask = item.truth if item.targets else full
                if presence < settings.empty_below:
                    mask = empty(item.size)
                found.append(Prediction(item.id, mask, presence=presence))
            return found

    studies = studied(data, tiny_pipe, None)
    pictures: list[Any] = [Unsure(study, None) for study in studies]
    found = Search(pictures, clip=False).run(Settings())
    assert 0.22 < found.settings.empty_below <= 0.6
    assert giou(scores_of(pictures, found.settings)) == 1.0


def test_halves_share_no_picture(data: Path, tiny_pipe: Any) -> None:
    one, two = halves_of(studied(data, tiny_pipe, None))
    images = [{item.image for study in half for item in study.items} for half in (one, two)]
    assert len(one) == len(two) == 2 and not images[0] & images[1]


def test_the_command_writes_settings_that_other_commands_take(
    tmp_path: Path, data: Path, tiny_model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["tune", str(tiny_model), "--data", str(data), "-o", "mine.refdiff.toml", "--json"]
    found = CliRunner().invoke(app, words)
    report = json.loads(found.stdout)
    unseen = report["unseen"]
    worse = unseen["tuned"]["giou"] < unseen["before"]["giou"]
    assert found.exit_code == int(worse), found.output
    assert Path("mine.refdiff.toml").exists() != worse
    assert report["searched"]["before"]["n"] == report["unseen"]["before"]["n"] == 6
    if worse:
        return
    settings = read_settings("mine.refdiff.toml")
    assert settings.profile == "mine"
    used = CliRunner().invoke(
        app, ["segment", str(photo), "a cat", "-m", str(tiny_model), "-p", "mine", "--json"]
    )
    assert used.exit_code == 0, used.output
    assert json.loads(used.stdout)["settings"] == json.loads(json.dumps(settings.to_dict()))
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "is there already" in again.stderr
