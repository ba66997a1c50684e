"""Painting: what may change and what may not, every family's pipeline, the command."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection
from typer.testing import CliRunner

import refdiff
from refdiff.benchmark.random_models import TINY_TEXT, TINY_UNET, random_pipeline, random_unet
from refdiff.cli import app
from refdiff.evaluation import read_scenes
from refdiff.expression import parse
from refdiff.io.pictures import read_mask
from refdiff.models.pipelines import CONFIGS
from refdiff.painting.brush import kept, opacity, smoothly_filled, window_around
from refdiff.painting.canvas import Canvas, recoloured
from refdiff.painting.inpaint import prompt_of
from refdiff.painting.painter import PaintSettings, paint
from refdiff.stickers import DATA, SAMPLE
from refdiff.stickers.nouns import NOUNS
from refdiff.stickers.sample import sample_masks

QUICK = PaintSettings(steps=3, guidance=4.0)


def with_unet(pipe: Any, channels: int) -> Any:
    """The small pipeline with a UNet of so many channels and a scheduler of its own."""
    parts = {**pipe.components, "unet": random_unet("sd1", {**TINY_UNET, "in_channels": channels})}
    parts["scheduler"] = DDIMScheduler.from_pretrained(CONFIGS / "sd1", subfolder="scheduler")
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def small_xl() -> Any:
    """Stable Diffusion XL's layout at little width."""
    base = random_pipeline(tiny=True)
    text = CLIPTextConfig.from_pretrained(CONFIGS / "sdxl", subfolder="text_encoder_2")
    text.update(TINY_TEXT)
    changes = {
        "attention_head_dim": 4,
        "block_out_channels": (32, 32, 64),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
        "sample_size": 16,
    }
    torch.manual_seed(1)
    return StableDiffusionXLPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(text).eval(),
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer,
        unet=random_unet("sdxl", changes),
        scheduler=DDIMScheduler.from_pretrained(CONFIGS / "sdxl", subfolder="scheduler"),
        add_watermarker=False,
    )


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    base = random_pipeline(tiny=True)
    return {"plain": with_unet(base, 4), "inpainting": with_unet(base, 9), "xl": small_xl()}


@pytest.fixture(scope="module")
def stickers() -> Any:
    return refdiff.load_models("stickers")


def state_of(pipe: Any) -> dict[str, Any]:
    """Everything of a pipeline that a call could leave changed."""
    modules = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    return {
        "weights": {
            f"{part}.{name}": tensor.clone()
            for part, module in modules.items()
            for name, tensor in module.state_dict().items()
        },
        "scheduler": copy.deepcopy(vars(pipe.scheduler)),
        "processors": dict(pipe.unet.attn_processors),
        "hooks": sum(len(module._forward_hooks) for module in pipe.unet.modules()),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(np.all(one == other))


# ---- where paint goes --------------------------------------------------------------------------


def test_opacity_is_one_on_the_grown_mask_and_zero_beyond_the_feather() -> None:
    mask = torch.zeros(60, 80, dtype=torch.bool)
    mask[20:40, 30:50] = True
    mask[28:32, 38:42] = False
    alpha = opacity(mask, 3, 5)
    assert bool((alpha[20:40, 30:50] == 1).all()), "holes are filled"
    assert float(alpha[30, 52]) == 1 and 0 < float(alpha[30, 55]) < 1 and float(alpha[30, 58]) == 0
    assert float(opacity(mask, 0, 0).sum()) == 400


def test_what_is_kept_has_no_paint_on_it() -> None:
    mask = torch.zeros(60, 80, dtype=torch.bool)
    mask[20:40, 30:50] = True
    alpha = kept(mask, 2, 3)
    assert bool((alpha[mask] == 0).all()) and bool((alpha[:10] == 1).all())
    assert 0 < float(alpha[30, 53]) < 1


def test_a_small_thing_is_shown_with_its_surroundings_inside_the_picture() -> None:
    alpha = torch.zeros(2000, 3000)
    alpha[5:105, 2900:2990] = 1
    window = window_around(alpha, 256)
    assert (window.height, window.width) == (200, 200)
    assert window.top == 0 and window.left + window.width == 3000
    assert float(window.cut(alpha).sum()) == float(alpha.sum())
    alpha[100:1900, 100:2900] = 1
    assert window_around(alpha, 256).box == (0, 0, 3000, 2000)
    alpha[:] = 0
    alpha[500:505, 700:708] = 1
    assert window_around(alpha, 256).height == 64, "enlarged four times and no more"


def test_a_filled_place_takes_the_colours_around_it() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (200, 40, 40), (40, 40, 200)
    pixels[20:40, 5:20] = (0, 255, 0)
    alpha = torch.zeros(64, 64)
    alpha[18:42, 3:22] = 1
    filled = np.asarray(smoothly_filled(Image.fromarray(pixels), alpha))
    assert np.abs(filled[20:40, 5:20].astype(int) - (200, 40, 40)).max() < 20
    assert np.array_equal(filled[:, 32:], pixels[:, 32:])


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.8, 30.0), (1.3, -40.0)])
def test_paint_gets_the_colours_that_the_painter_was_shown(gain: float, offset: float) -> None:
    random = np.random.default_rng(0)
    before = random.uniform(40, 200, (64, 64, 3))
    painted = before.copy()
    painted[20:40, 20:40] = (180, 60, 60)
    shifted = Image.fromarray(np.rint((painted - offset) / gain).clip(0, 255).astype(np.uint8))
    alpha = torch.zeros(64, 64)
    alpha[20:40, 20:40] = 1
    found = recoloured(shifted, Image.fromarray(before.astype(np.uint8)), alpha)
    assert np.abs(np.asarray(found, float) - painted).mean() < 12
    assert np.abs(np.asarray(found, float)[25, 25] - (180, 60, 60)).max() < 25


def test_the_colours_of_a_plain_ground_are_only_moved() -> None:
    before = Image.new("RGB", (64, 64), (220, 240, 210))
    paint = np.full((64, 64, 3), 128, np.uint8)
    paint[20:40, 20:40] = (60, 50, 40)
    alpha = torch.zeros(64, 64)
    alpha[20:40, 20:40] = 1
    found = np.asarray(recoloured(Image.fromarray(paint), before, alpha))
    assert tuple(found[0, 0]) == (220, 240, 210) and tuple(found[30, 30]) == (152, 162, 122)
    whole = recoloured(Image.fromarray(paint), before, torch.ones(64, 64))
    assert np.array_equal(np.asarray(whole), paint), "nothing is known of the colours"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_bytes_outside_the_paint_stay_whatever_the_pictures_kind(mode: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    if mode == "I;16":
        picture = Image.fromarray(random.integers(0, 65536, (40, 50)).astype(np.uint16))
    else:
        channels = {"RGBA": 4, "LA": 4, "CMYK": 4}.get(mode, 3)
        values = random.integers(0, 256, (40, 50, channels)).astype(np.uint8)
        start = {4: "CMYK" if mode == "CMYK" else "RGBA", 3: "RGB"}[channels]
        picture = Image.fromarray(values, start).convert(mode)
    path = tmp_path / ("photo.tif" if mode in ("CMYK", "I;16") else "photo.png")
    picture.save(path)
    canvas = Canvas.of(path)
    alpha = torch.zeros(40, 50)
    alpha[10:20, 10:30] = 0.5
    window = window_around(alpha, 8)
    paint = Image.new("RGB", (window.width, window.height), (255, 0, 0))
    painted = np.asarray(canvas.painted(paint, alpha, window))
    wanted = (
        picture.convert("RGBA") if mode in ("RGBA", "LA") else refdiff.io.pictures.as_picture(path)
    )
    outside = (alpha == 0).numpy()
    assert np.array_equal(painted[outside], np.asarray(wanted)[outside])
    assert (painted[~outside] != np.asarray(wanted)[~outside]).any()


# ---- the prompt --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("find", "words", "mode", "prompt"),
    [
        ("the red cat on the left", "a green teapot", "replace", "a green teapot"),
        ("the red cat on the left", "dog", "swap", "a red dog"),
        ("the small cat", None, "remove", "empty background"),
        ("the small cat", "a beach", "keep", "a beach"),
    ],
)
def test_the_prompt_of_each_mode(find: str, words: str | None, mode: Any, prompt: str) -> None:
    assert prompt_of(parse(find), words, mode) == prompt


def test_a_prompt_that_is_missing_or_means_several_things_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to paint"):
        prompt_of(parse("the cat"), " ", "replace")
    with pytest.raises(ValueError, match="several things"):
        prompt_of(parse("the cat and the dog"), "bear", "swap")


# ---- the painter -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "inpainting", "xl"])
def test_every_kind_of_pipeline_paints_and_is_as_it_was(
    pipes: dict[str, Any], kind: str, picture: Image.Image
) -> None:
    pipe = pipes[kind]
    pipe.scheduler.set_timesteps(7)
    before = state_of(pipe)
    found = refdiff.inpaint(pipe, picture, "the red disc", "a blue square", painting=QUICK)
    assert same(before, state_of(pipe))
    was, now = np.asarray(picture), np.asarray(found.image)
    outside = (found.opacity == 0).numpy()
    assert found.changed_outside == 0 and np.array_equal(was[outside], now[outside])
    assert (was[~outside] != now[~outside]).any() and 0 < (~outside).mean() < 1
    again = refdiff.inpaint(pipe, picture, "the red disc", "a blue square", painting=QUICK)
    assert np.array_equal(np.asarray(again.image), now), "same inputs, same picture"


def test_one_model_finds_and_another_paints(pipes: dict[str, Any], picture: Image.Image) -> None:
    before = {kind: state_of(pipes[kind]) for kind in ("plain", "inpainting")}
    asked = ("the red disc", "a blue square")
    own = refdiff.inpaint(pipes["plain"], picture, *asked, painting=QUICK)
    other = refdiff.inpaint(
        pipes["plain"], picture, *asked, painting=QUICK, painter=pipes["inpainting"]
    )
    assert torch.equal(own.found.mask, other.found.mask)
    assert not np.array_equal(np.asarray(own.image), np.asarray(other.image))
    assert all(same(before[kind], state_of(pipes[kind])) for kind in before)


@pytest.mark.parametrize("mode", ["remove", "keep", "swap"])
def test_every_mode_leaves_the_rest_alone(
    pipes: dict[str, Any], mode: Any, picture: Image.Image
) -> None:
    found = refdiff.inpaint(pipes["plain"], picture, "the red disc", "meadow", mode, painting=QUICK)
    outside = (found.opacity == 0).numpy()
    assert found.changed_outside == 0 and outside.any()
    assert np.array_equal(np.asarray(picture)[outside], np.asarray(found.image)[outside])
    core = found.found.mask.numpy()
    assert bool(outside[core].all()) == (mode == "keep")


def test_soft_cells_change_less(pipes: dict[str, Any]) -> None:
    """The latents of a plain checkpoint, step by step, as the pipeline holds them."""
    picture = Image.new("RGB", (128, 128), (120, 130, 140))
    alpha = torch.zeros(128, 128)
    alpha[:, 32:64], alpha[:, 64:96], alpha[:, 96:] = 0.25, 0.5, 1.0
    whole = paint(pipes["plain"], picture, (alpha > 0).float(), "a cat", PaintSettings(steps=8))[0]
    soft = paint(pipes["plain"], picture, alpha, "a cat", PaintSettings(steps=8))[0]
    nothing = paint(pipes["plain"], picture, alpha * 0, "a cat", PaintSettings(steps=8))[0]
    base = np.asarray(nothing, dtype=float)
    far = [np.abs(np.asarray(each, dtype=float) - base).mean((0, 2)) for each in (soft, whole)]
    quarter, half = slice(40, 56), slice(72, 88)
    assert far[0][quarter].mean() < far[0][half].mean() < far[1][half].mean()
    assert far[0][:24].mean() < far[0][quarter].mean()


def test_a_long_prompt_is_read_to_its_end(pipes: dict[str, Any]) -> None:
    picture = Image.new("RGB", (128, 128), (120, 130, 140))
    alpha = torch.ones(128, 128)
    start = "a cat on a mat " * 25
    one, other = (
        paint(pipes["xl"], picture, alpha, start + end, QUICK)[0] for end in ("red", "a blue dog")
    )
    assert np.asarray(one).tobytes() != np.asarray(other).tobytes()


def test_nothing_found_leaves_the_picture(stickers: Any) -> None:
    found = refdiff.inpaint(
        stickers.pipe,
        SAMPLE,
        "the train",
        "a dog",
        clip=stickers.clip,
        settings=refdiff.Settings(empty_below=1.0),
        painting=QUICK,
    )
    assert found.empty and np.array_equal(np.asarray(found.image), np.asarray(Image.open(SAMPLE)))
    assert any("nothing found" in note for note in found.notes)


@pytest.mark.parametrize(
    "changes",
    [{"strength": 0}, {"strength": 1.5}, {"steps": 0}, {"tries": 0}, {"steps": 1, "strength": 0.5}],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"wanted|less than one step"):
        PaintSettings(**changes)


def test_a_small_thing_in_a_large_picture_is_painted_at_the_models_size(
    stickers: Any, tmp_path: Path
) -> None:
    large = Image.new("RGB", (1400, 1000), (170, 210, 140))
    large.paste(Image.open(SAMPLE).convert("RGB"), (1000, 500))
    masks = np.zeros((1, 1000, 1400), bool)
    masks[0, 500:756, 1000:1256] = sample_masks()[2]
    found = refdiff.inpaint(
        stickers.pipe, large, "the dog", "a bear", painting=QUICK, proposals=masks
    )
    assert found.window is not None
    assert 90 <= found.window.height <= 150 and found.changed_outside == 0
    outside = (found.opacity == 0).numpy()
    assert np.array_equal(np.asarray(large)[outside], np.asarray(found.image)[outside])


# ---- how good it is ----------------------------------------------------------------------------


def swaps(count: int) -> list[tuple[Path, str, str]]:
    """(picture, what to find, the new noun) from the validation split, one per picture."""
    chance = random.Random(0)
    scenes = list(read_scenes(DATA / "validation"))
    chance.shuffle(scenes)
    found = []
    for scene in scenes:
        single = [said for said in scene.sentences if len(said.objects) == 1]
        if single:
            old = scene.objects[single[0].objects[0]].noun
            new = chance.choice([noun for noun in NOUNS if noun != old])
            found.append((scene.image, single[0].text, new))
    return found[:count]


def preferred(models: Any, count: int, painting: PaintSettings) -> float:
    """The share of swaps after which CLIP finds the place closer to the new noun than the old."""
    good, painter = 0, refdiff.load_painter(models)
    for path, find, new in swaps(count):
        found = refdiff.inpaint(
            *(models.pipe, path, find, f"a {new}"),
            clip=models.clip,
            painting=painting,
            painter=painter,
        )
        assert found.changed_outside == 0
        good += (found.prefers or 0.0) > 0
    return good / count


def test_clip_prefers_what_was_painted(stickers: Any) -> None:
    assert preferred(stickers, 3, PaintSettings(steps=12)) > 0.5


@pytest.mark.full
def test_clip_prefers_what_was_painted_in_forty_swaps(stickers: Any) -> None:
    """One try each, so that the CLIP which judges chooses nothing."""
    assert preferred(stickers, 40, PaintSettings()) >= 0.9


def test_the_stickers_paint_with_a_unet_of_their_own(stickers: Any) -> None:
    before = state_of(stickers.pipe)
    painter = refdiff.load_painter(stickers)
    assert painter.unet is not stickers.pipe.unet and painter.vae is stickers.pipe.vae
    assert painter.scheduler.config.prediction_type == "v_prediction"
    assert stickers.pipe.scheduler.config.prediction_type == "epsilon"
    assert same(before, state_of(stickers.pipe))
    found = refdiff.inpaint(
        *(stickers.pipe, SAMPLE, "the dog", "a bear"),
        painting=PaintSettings(steps=1),
        painter=painter,
    )
    sides = found.found.mask.any(1).sum(), found.found.mask.any(0).sum()
    assert found.window is not None and found.window.height < 2 * max(sides)


def test_a_copy_without_the_painter_says_so(
    stickers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("refdiff.stickers.PAINTER", tmp_path / "painter")
    with pytest.raises(refdiff.RefDiffError, match=r"not in this copy .* --painter"):
        refdiff.load_painter(stickers)


def test_another_model_paints_with_itself_unless_told(tiny_model: Path) -> None:
    models = refdiff.load_models(str(tiny_model), clip="none")
    assert refdiff.load_painter(models) is models.pipe
    assert refdiff.load_painter(models, "stickers").unet.config.cross_attention_dim == 128


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_model: Path, photo: Path) -> Callable[..., Any]:
    def call(*words: object, code: int = 0) -> Any:
        given = ["inpaint", photo, *words, "-m", tiny_model, "--steps", 2]
        result = CliRunner().invoke(app, [str(word) for word in given])
        assert result.exit_code == code, result.output
        return result

    return call


def test_the_command_paints_and_says_what(run: Any, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    report = json.loads(run("the red disc", "a blue square", "-o", out, "--json").stdout)
    assert report["changed_outside"] == 0 and report["file"] == str(out)
    was, now = np.asarray(Image.open(photo)), np.asarray(Image.open(out))
    assert was.shape == now.shape
    assert 0 < (was != now).any(2).mean() <= report["painted"] + 5e-5  # reported to 4 digits


def test_the_command_paints_with_another_model(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    for painter in (tiny_model, "stickers"):
        out = tmp_path / f"{Path(painter).name}.png"
        run("the red disc", "a blue square", "-o", out, "--painter", painter)
        assert out.exists()
    asked = ("the red disc", "a dog", "-o", tmp_path / "b.png", "--painter", "none.safetensors")
    assert "none.safetensors" in run(*asked, code=2).output


def test_nothing_is_overwritten_unasked(run: Any, photo: Path) -> None:
    before = photo.read_bytes()
    assert "--overwrite" in run("the red disc", "a square", "-o", photo, code=2).output
    assert photo.read_bytes() == before
    run("the red disc", "a square", "-o", photo, "--overwrite")
    assert photo.read_bytes() != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["the disc"], "nothing to paint"),
        (["the disc", "a dog", "--keep", "--remove"], "exclude each other"),
        (["the disc", "a dog", "-o", "out.xyz"], "no kind of picture"),
        (["the disc", "a dog", "--strength", "2"], "strength"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(run: Any, words: list[str], said: str) -> None:
    assert said in run(*words, code=2).output


def test_the_colour_profile_is_kept(run: Any, photo: Path, tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.open(photo)
    picture.load()
    data = io.BytesIO()
    picture.save(data, "PNG", icc_profile=profile)
    photo.write_bytes(data.getvalue())
    run("the red disc", "a square", "-o", tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").info["icc_profile"] == profile
    assert read_mask(tmp_path / "out.png").shape == (97, 131)
