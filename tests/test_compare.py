"""One pass of the UNet for many settings, and the table that is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from refdiff.attention.capture import CaptureSettings
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.maps import TokenMaps
from refdiff.cli import app
from refdiff.commands.choices import METHOD, variants
from refdiff.commands.common import Ready
from refdiff.commands.compare import FIXED_THRESHOLD, limited, profile_variants
from refdiff.commands.evaluate import segmenter_of
from refdiff.evaluation import SceneObject, Sentence, evaluate, read_scenes, write_scenes
from refdiff.evaluation.shared_capture import SharedCapture
from refdiff.models.catalogue import VARIABLE, Models
from refdiff.pipeline import Look
from refdiff.scoring.clip import ClipScorer
from refdiff.settings import Settings

CAT, DOG = "the red cat on the left", "a dog"
SETTINGS = CaptureSettings()


@contextmanager
def counted(pipe: Any) -> Iterator[Counter[str]]:
    """How often the UNet and the VAE's encoder run, and for how many rows."""
    runs: Counter[str] = Counter()

    def unet(_module: Any, inputs: Any) -> None:  # before a pass, which may end early
        runs["unet"] += 1
        runs["rows"] += len(inputs[0])

    def vae(_module: Any, _inputs: Any, _output: Any) -> None:
        runs["vae"] += 1

    hooks = [
        pipe.unet.register_forward_pre_hook(unet),
        pipe.vae.encoder.register_forward_hook(vae),
    ]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture
def plain(tiny_pipe: Any) -> DiffusersCapture:
    return DiffusersCapture(tiny_pipe)


@pytest.fixture
def shared(plain: DiffusersCapture) -> SharedCapture:
    return SharedCapture(plain, SETTINGS)


def assert_same(found: TokenMaps, wanted: TokenMaps) -> None:
    assert (found.layers, found.tokens, found.spans) == (wanted.layers, wanted.tokens, wanted.spans)
    assert (found.text, found.mode, found.content) == (wanted.text, wanted.mode, wanted.content)
    for one, other in zip(found.maps, wanted.maps, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_maps_are_those_of_the_capture_inside(
    plain: DiffusersCapture, shared: SharedCapture, picture: Image.Image
) -> None:
    wanted = [plain(picture, text) for text in (CAT, DOG)]
    encoded = shared.encode(picture)
    assert torch.equal(encoded.latent, plain.encode(picture).latent)
    for _ in range(2):
        for found, want in zip(shared.read(encoded, [CAT, DOG]), wanted, strict=True):
            assert_same(found, want)
    assert_same(shared.read(encoded, [DOG])[0], wanted[1])


def test_every_picture_and_sentence_costs_one_pass(
    tiny_pipe: Any, shared: SharedCapture, picture: Image.Image
) -> None:
    with counted(tiny_pipe) as runs:
        encoded = shared.encode(picture)
        assert shared.encode(picture.copy()) is encoded
        assert runs == {"vae": 1}
        first = shared.read(encoded, [CAT])
        assert shared.read(encoded, [CAT])[0] is first[0]
        assert runs == {"vae": 1, "unet": 1, "rows": 1}
        both = shared.read(encoded, [DOG, CAT, DOG])
        assert both[1] is first[0] and both[0] is both[2]
        assert [maps.text for maps in both] == [DOG, CAT, DOG]
        assert runs == {"vae": 1, "unet": 2, "rows": 2}
        assert shared.read(encoded, []) == [] and runs["unet"] == 2


def test_another_picture_is_seen_anew(
    tiny_pipe: Any, plain: DiffusersCapture, shared: SharedCapture, picture: Image.Image
) -> None:
    flipped = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    first = shared.encode(picture)
    with counted(tiny_pipe) as runs:
        shared.read(first, [CAT])
        second = shared.encode(flipped)
        mirrored = shared.read(second, [CAT])[0]
        assert runs == {"vae": 1, "unet": 2, "rows": 2}
    assert_same(mirrored, plain(flipped, CAT))
    assert_same(shared.read(first, [CAT])[0], plain(picture, CAT))
    assert_same(shared.read(second, [CAT])[0], mirrored)


def test_the_same_bytes_in_another_shape_are_another_picture(shared: SharedCapture) -> None:
    for size in ((60, 90), (90, 60)):
        assert shared.encode(Image.new("RGB", size, "red")).size == (size[1], size[0])


def test_only_its_own_settings_are_answered(shared: SharedCapture) -> None:
    assert shared.using(CaptureSettings()) is shared
    with pytest.raises(ValueError, match="seed=5"):
        shared.using(CaptureSettings(seed=5))


def test_looks_with_other_scores_share_the_pass(
    tiny_pipe: Any, plain: DiffusersCapture, shared: SharedCapture, picture: Image.Image
) -> None:
    settings = [Settings(empty_below=0.0), Settings(empty_below=0.0, threshold=0.5)]
    wanted = [Look(picture, plain, settings=one)(CAT).mask for one in settings]
    with counted(tiny_pipe) as runs:
        found = [Look(picture, shared, settings=one)(CAT).mask for one in settings]
    assert runs == {"vae": 1, "unet": 1, "rows": 1}
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert not torch.equal(*found)


# ---- the table -------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path, picture: Image.Image) -> Path:
    """Two pictures of a disc each beside a bar, with five sentences."""
    rows, columns = np.mgrid[:97, :131]
    masks = [
        (rows - 40) ** 2 + (columns - 30) ** 2 < 400,
        (rows - 60) ** 2 + (columns - 100) ** 2 < 576,
    ]
    objects = [
        SceneObject.from_mask(noun, None, mask)
        for noun, mask in zip(("cat", "dog"), masks, strict=True)
    ]
    said = [
        Sentence(CAT, (0,), "place"),
        Sentence(DOG, (1,), "plain"),
        Sentence("the bus", (), "absent"),
    ]
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    folder = tmp_path / "data"
    write_scenes(folder, [(picture, objects, said), (mirrored, objects, said[:2])])
    return folder


def test_the_limit_counts_sentences(data: Path) -> None:
    scenes = read_scenes(data)
    assert limited(scenes, None) == list(scenes)
    for limit in range(1, 8):
        kept = [one for scene in limited(scenes, limit) for one in scene.sentences]
        assert kept == [one for scene in scenes for one in scene.sentences][:limit]
    assert len(limited(scenes, 3)) == 1


@pytest.fixture
def ready(tiny_pipe: Any, tiny_scorer: ClipScorer) -> Ready:
    models = Models(tiny_pipe, tiny_scorer, False, "tiny", "tiny")
    return Ready(models, DiffusersCapture(tiny_pipe), Settings(empty_below=0.0))


def test_the_rows_of_a_profile_share_their_passes(tiny_pipe: Any, ready: Ready, data: Path) -> None:
    variants, scene = list(profile_variants(ready)), read_scenes(data)[1]
    found = {}
    with counted(tiny_pipe) as runs:
        for variant in variants:
            segmenter = segmenter_of(variant.ready, variant.given, [])
            found[variant.name] = evaluate([scene], segmenter).outcomes
    assert len(found) == len(variants) == 4 * 6 + 1
    assert runs["vae"] == 4  # paper, official at two sizes, default
    assert runs["unet"] == 2 * (1 + 2 + 2 + 1)  # two sentences; the official profile calls twice
    alone = segmenter_of(ready, False, [])
    assert evaluate([scene], alone).outcomes == found["default, both, own proposals"]


def test_without_a_clip_there_are_no_rows_for_it(ready: Ready, tiny_pipe: Any) -> None:
    without = Ready(Models(tiny_pipe, None, False, "tiny", None), ready.capture, ready.settings)
    names = [variant.name for variant in profile_variants(without)]
    assert len(names) == 4 * 2 + 1 and not any("CLIP" in name or "both" in name for name in names)


def test_the_command_prints_every_row(
    data: Path, tiny_model: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    words = ["eval", "compare", "--data", data, "-m", tiny_model, "--clip", tiny_clip]
    result = CliRunner().invoke(app, [str(word) for word in (*words, "--limit", 3)])
    assert result.exit_code == 0, result.output
    for profile in ("paper", "official, 1x native", "official, 2x native", "default"):
        for half in ("generative", "CLIP", "both"):
            for kind in ("own proposals", "given masks"):
                assert result.stdout.count(f"{profile}, {half}, {kind}") == 3
    assert f"root map cut at {FIXED_THRESHOLD}" in result.stdout and "absent" in result.stdout


def test_each_choice_changes_one_thing_and_equal_passes_are_shared(plain: DiffusersCapture) -> None:
    models = Models(plain.backend.pipe, None, False, "tiny", None)
    rows = dict(variants(Ready(models, plain, Settings.named("default", "stickers"))))
    default = rows.pop("default").settings
    for name, ready in rows.items():
        assert ready.settings != default, name
        same = ready.settings.capture == default.capture
        assert same == (name in METHOD), name
    shared = {id(ready.capture) for name, ready in rows.items() if name in METHOD}
    assert len(shared) == 1
