"""The command: what it writes, what it prints, and what bad input gets."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import refdiff
from refdiff import settings, stickers
from refdiff.cli import app
from refdiff.commands.common import make_ready, native_sides
from refdiff.commands.evaluate import with_halves
from refdiff.evaluation import SceneObject, Sentence, write_scenes
from refdiff.models.catalogue import VARIABLE
from refdiff.settings import Settings

NAMES = ("mask.png", "overlay.png", "report.json", "runner_up.png")
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models see every word faintly: the default here calls nothing absent."""
    monkeypatch.delenv(VARIABLE, raising=False)
    anything, nothing = Settings(empty_below=0.0), Settings(profile="never", empty_below=1.0)
    monkeypatch.setitem(settings.PROFILES, "default", lambda: anything)
    monkeypatch.setitem(settings.PROFILES, "never", lambda: nothing)


@pytest.fixture
def run() -> Run:
    def call(*words: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def segment(run: Run, tiny_model: Path, tmp_path: Path) -> Run:
    """Runs `refdiff segment` on the small model, writing to `out` in the test's folder."""

    def call(*words: object, code: int = 0) -> Any:
        return run("segment", *words, "-m", tiny_model, "-o", tmp_path / "out", code=code)

    return call


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# ---- segment ---------------------------------------------------------------------------------


def test_three_files_for_a_picture(segment: Run, photo: Path, tmp_path: Path) -> None:
    shown = segment(photo, "the red cat on the left").stdout
    out = tmp_path / "out" / "photo.refdiff"
    assert written(tmp_path / "out") == written(out) == sorted(NAMES)
    mask = Image.open(out / "mask.png")
    assert mask.mode == "L" and mask.size == (131, 97)
    assert set(np.unique(np.asarray(mask))) == {0, 255}
    assert Image.open(out / "overlay.png").size == (131, 97)
    report = json.loads((out / "report.json").read_text())
    assert report["size"] == [97, 131] and report["found"] and report["clip"] is None
    assert report["understood"]["places"][0]["side"] == "left"
    assert len(report["choice"]) == 1 and set(report["seconds"]) > {"parse", "attention", "mask"}
    assert "cat" in shown and "mask.png" in shown and "generative only" in shown


def test_json_is_all_there_is_on_standard_output(
    segment: Run, photo: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    shown = segment(photo, "the cat", "--json", "--clip", tiny_clip, "--size", "1.5x")
    report = json.loads(shown.stdout)
    assert shown.stderr == ""
    kept = json.loads((tmp_path / "out" / "photo.refdiff" / "report.json").read_text())
    assert set(kept.pop("sha256")) == set(NAMES) and report == kept
    assert report["clip"] == str(tiny_clip) and report["candidates"][0]["clip"] is not None
    assert report["settings"]["capture"]["size"] == 1.5


def test_options_reach_the_method(segment: Run, photo: Path, tmp_path: Path) -> None:
    def mask(*options: object) -> tuple[dict[str, Any], bytes]:
        shown = segment(photo, "the cat on the table", "--json", *options)
        return json.loads(shown.stdout), (
            tmp_path / "out" / "photo.refdiff" / "mask.png"
        ).read_bytes()

    plain = mask()
    assert mask()[1] == plain[1]
    assert mask("--word", "table")[0]["candidates"] != plain[0]["candidates"]
    assert mask("--choice", 2)[0]["choice"] != plain[0]["choice"]
    assert mask("--seed", 3)[0]["candidates"] != plain[0]["candidates"]
    assert mask("--profile", "official")[0]["settings"]["profile"] == "official"
    assert mask("--dtype", "bfloat16")[0]["candidates"] != plain[0]["candidates"]


def test_the_answer_can_be_one_of_my_masks(segment: Run, photo: Path, tmp_path: Path) -> None:
    mine = tmp_path / "masks"
    mine.mkdir()
    for number, (top, left) in enumerate(((5, 5), (50, 80))):
        pixels = np.zeros((97, 131), np.uint8)
        pixels[top : top + 30, left : left + 40] = 255
        Image.fromarray(pixels).save(mine / f"{number}.png")
    for given in ((mine,), (mine / "0.png", "--proposals", mine / "1.png")):
        report = json.loads(segment(photo, "the cat", "--json", "--proposals", *given).stdout)
        assert len(report["candidates"]) == 2
        answer = np.asarray(Image.open(tmp_path / "out" / "photo.refdiff" / "mask.png"))
        assert np.array_equal(answer, np.asarray(Image.open(mine / f"{report['choice'][0]}.png")))


def test_nothing_found_is_no_error_unless_asked(segment: Run, photo: Path, tmp_path: Path) -> None:
    words = (photo, "the cat", "--profile", "never")
    assert "nothing found" in segment(*words).stdout
    assert not np.asarray(Image.open(tmp_path / "out" / "photo.refdiff" / "mask.png")).any()
    segment(*words, "--fail-if-empty", code=1)
    segment(photo, "the cat", "--fail-if-empty", code=0)


def test_pictures_of_one_name_get_files_of_their_own(
    segment: Run, photo: Path, picture: Image.Image, tmp_path: Path
) -> None:
    others = [
        tmp_path / "b" / "photo.png",
        tmp_path / "b" / "photo-2.png",
        photo.with_suffix(".bmp"),
    ]
    others[0].parent.mkdir()
    for path in others:
        picture.save(path)
    shown = segment(photo, *others, "the cat", "--json")
    stems = ("photo", "photo-3", "photo-2", "photo-4")
    reports = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [Path(report["files"]["mask"]).parent.name for report in reports] == [
        f"{stem}.refdiff" for stem in stems
    ]
    assert written(tmp_path / "out") == sorted(name for _ in stems for name in NAMES)
    assert shown.stderr.count("photo-3.refdiff") == 1


def test_the_sample_is_at_hand(
    run: Run, photo: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stickers, "SAMPLE", photo.rename(photo.with_name("sample.png")))
    monkeypatch.setenv(VARIABLE, str(tiny_model))
    run("segment", "sample", "the red cat on the left")
    assert written(tmp_path / "sample.refdiff") == sorted(NAMES)
    assert Image.open("sample.refdiff/mask.png").size == (131, 97)
    Image.new("RGB", (50, 40)).save("sample", "PNG")
    run("segment", "sample", "the cat")
    assert Image.open("sample.refdiff/mask.png").size == (50, 40)


def rotated(picture: Image.Image, path: Path) -> tuple[int, int]:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    return picture.height, picture.width


def deep(picture: Image.Image, path: Path) -> tuple[int, int]:
    values = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path)
    return picture.size


def kept(picture: Image.Image, path: Path) -> tuple[int, int]:
    picture.save(path)
    return picture.size


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (kept, lambda picture: picture.convert("L")),
        (kept, lambda picture: picture.convert("RGBA")),
        (kept, lambda picture: picture.resize((1, 1))),
        (kept, lambda picture: picture.resize((20_000, 200))),
        (deep, lambda picture: picture),
        (rotated, lambda picture: picture),
    ],
    ids=["grey", "rgba", "one pixel", "20000 x 200", "16 bits", "rotated"],
)
def test_odd_pictures_work(
    segment: Run, picture: Image.Image, tmp_path: Path, make: Run, change: Run
) -> None:
    size = make(change(picture), tmp_path / "odd.png")
    segment(tmp_path / "odd.png", "the cat")
    assert Image.open(tmp_path / "out" / "odd.refdiff" / "mask.png").size == size
    assert Image.open(tmp_path / "out" / "odd.refdiff" / "overlay.png").size == size


# ---- bad input -------------------------------------------------------------------------------


def refused(result: Any, out: Path, *said: str) -> None:
    """One sentence on standard error, nothing else anywhere."""
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in said), result.stderr
    assert written(out) == [] if out.exists() else True


def cut(path: Path, source: Path) -> Path:
    path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    return path


def text_file(path: Path, photo: Path) -> Path:
    path.write_text("no picture")
    return path


def huge(path: Path, photo: Path) -> Path:
    Image.new("1", (12_500, 8_001)).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("absent.png", lambda path, photo: path, "no file"),
        ("cut.png", cut, "cannot be read whole"),
        ("text.png", text_file, "not a picture"),
        ("huge.png", huge, "100 megapixels"),
        (".", lambda path, photo: path, "is a folder"),
    ],
)
def test_bad_pictures(
    segment: Run, photo: Path, tmp_path: Path, name: str, make: Run, said: str
) -> None:
    path = make(tmp_path / name, photo)
    refused(segment(path, "the cat", code=2), tmp_path / "out", str(path), said)


def test_a_bad_picture_among_good_ones_stops_before_the_first(
    segment: Run, photo: Path, tmp_path: Path
) -> None:
    bad = text_file(tmp_path / "text.png", photo)
    refused(segment(photo, bad, "the cat", code=2), tmp_path / "out", "text.png")


@pytest.mark.parametrize(
    ("text", "said"), [("", "text"), ("  ", "text"), ("?!", "text"), ("very quickly", "no thing")]
)
def test_bad_texts(segment: Run, photo: Path, tmp_path: Path, text: str, said: str) -> None:
    refused(segment(photo, text, code=2), tmp_path / "out", said)


def test_a_forgotten_sentence(run: Run, segment: Run, photo: Path, tmp_path: Path) -> None:
    asked = "did you forget the sentence?"
    refused(segment(photo, code=2), tmp_path / "out", asked, "photo.png")
    refused(segment(photo, photo, code=2), tmp_path / "out", asked)
    refused(segment("the cat", code=2), tmp_path / "out", "picture")
    assert "Usage" in run("segment", code=2).output


def lora(path: Path, model: Path) -> Path:
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, path)
    return path


def transformer(path: Path, model: Path) -> Path:
    save_file({"transformer_blocks.0.attn.to_q.weight": torch.ones(1)}, path)
    return path


def unsafe_pickle(path: Path, model: Path) -> Path:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.with_name("harm")),)

    path.write_bytes(pickle.dumps({"state_dict": Harm()}))
    return path


def half_a_file(path: Path, model: Path) -> Path:
    return cut(path, model / "unet" / "diffusion_pytorch_model.safetensors")


def half_a_folder(path: Path, model: Path) -> Path:
    shutil.copytree(model, path)
    half_a_file(path / "unet" / "diffusion_pytorch_model.safetensors", model)
    return path


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("absent.safetensors", lambda path, model: path, "no model"),
        ("dit.safetensors", transformer, "diffusion transformer"),
        ("lora.safetensors", lora, "LoRA"),
        ("half.safetensors", half_a_file, "cut short"),
        ("half", half_a_folder, "cannot be read"),
        ("old.ckpt", unsafe_pickle, "convert it to .safetensors"),
        ("empty", lambda path, model: path.mkdir() or path, "model_index.json"),
    ],
)
def test_bad_models(
    run: Run, photo: Path, tiny_model: Path, tmp_path: Path, name: str, make: Run, said: str
) -> None:
    model = make(tmp_path / name, tiny_model)
    out = tmp_path / "out"
    shown = run("segment", photo, "the cat", "-m", model, "-o", out, code=2)
    refused(shown, out, Path(name).name, said)
    assert not (tmp_path / "harm").exists()


def test_heat_that_is_not_a_number(run: Run, photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    broken, out = tmp_path / "broken", tmp_path / "out"
    shutil.copytree(tiny_model, broken)
    path = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"] = torch.full_like(weights["conv_in.weight"], float("nan"))
    save_file(weights, path, {"format": "pt"})
    shown = run("segment", photo, "the cat", "-m", broken, "-o", out, code=2)
    refused(shown, out, "not finite", "float32")


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (np.ones((2, 97, 130), np.uint8), "97 x 130"),
        (np.zeros((2, 97, 131), np.uint8), "empty"),
        (np.zeros((0, 97, 131), np.uint8), "masks"),
    ],
)
def test_bad_proposals(
    segment: Run, photo: Path, tmp_path: Path, masks: np.ndarray, said: str
) -> None:
    np.save(tmp_path / "masks.npy", masks)
    shown = segment(photo, "the cat", "--proposals", tmp_path / "masks.npy", code=2)
    refused(shown, tmp_path / "out", said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--profile", "best"), "default, paper, official"),
        (("--size", "big"), "pixels"),
        (("--size", "9000"), "2048"),
        (("--dtype", "int8"), "bfloat16"),
        (("--device", "warp"), "cpu"),
        (("--word", "dog"), "dog"),
        (("--choice", "99"), "candidates"),
        (("--clip", "no-such-clip"), "no-such-clip"),
    ],
)
def test_bad_options(
    segment: Run, photo: Path, tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    refused(segment(photo, "the cat", *options, code=2), tmp_path / "out", said)


def test_no_place_to_write(run: Run, photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    words = ("segment", photo, "the cat", "-m", tiny_model, "-o", tmp_path / "file" / "out")
    refused(run(*words, code=2), tmp_path / "none", "cannot be written")
    assert written(tmp_path) == ["file", "photo.png"]


def test_debug_shows_where(segment: Run, photo: Path) -> None:
    shown = segment(photo, "?!", "--debug", code=2)
    assert "Traceback" in shown.stderr and "error: " in shown.stderr


def test_the_sticker_models_know_what_is_not_there(run: Run, tmp_path: Path) -> None:
    """CLIP's word counts: by the heat alone a purple cat would be one of the cats there."""
    for text, code in (("the dog", 0), ("the purple cat", 1)):
        run("segment", "sample", text, "-o", tmp_path, "--fail-if-empty", code=code)
        assert np.asarray(Image.open(tmp_path / "sample.refdiff" / "mask.png")).any() == (code == 0)


def test_a_real_run_says_nothing_it_should_not(
    photo: Path, tiny_model: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    path = {"PYTHONPATH": str(Path(refdiff.__file__).parents[1])}
    words = ["segment", photo, "the cat", "-m", tiny_model, "--clip", tiny_clip, "--json"]
    shown = subprocess.run(
        [sys.executable, "-m", "refdiff", *map(str, words)],
        cwd=tmp_path,
        env=os.environ | path,
        capture_output=True,
        text=True,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["image"] == str(photo)


# ---- the other commands ----------------------------------------------------------------------


def test_size_in_pixels_or_multiples() -> None:
    assert native_sides("512", 256) == 2.0 and native_sides("768 px", 512) == 1.5
    assert native_sides("2x", 512) == 2.0 and native_sides("0.5X", 512) == 0.5
    for bad in ("", "-1", "1e3", "0", "17x"):
        with pytest.raises(ValueError, match="--size"):
            native_sides(bad, 512)


def test_explain_draws_the_sentence(run: Run) -> None:
    text = "the small red cat on the left"
    lines = run("explain", text).stdout.splitlines()
    assert lines[0] == text
    root = text.index("cat")
    assert lines[1][root : root + 3] == "===" and lines[1].count("=") == 3
    assert lines[1][text.index("red")] == "~" and lines[1][text.index("left")] == "-"
    assert any("place: left" in line for line in lines)
    assert json.loads(run("explain", text, "--json").stdout)["root"]["lemma"] == "cat"
    assert "error: " in run("explain", " ", code=2).stderr


def test_models_are_listed(run: Run, tiny_model: Path) -> None:
    found = json.loads(run("models", tiny_model.parent, "--json").stdout)
    usable = {entry["name"]: entry["usable"] for entry in found}
    assert usable[str(tiny_model)] and "stickers" in usable
    assert "stickers" in run("models").stdout
    assert "error: " in run("models", "nowhere", code=2).stderr


@pytest.fixture
def scenes(picture: Image.Image, tmp_path: Path) -> Path:
    """Two pictures with two objects and five sentences, one of them about nothing there."""
    masks = np.zeros((2, 97, 131), bool)
    masks[0, 20:60, 10:50] = True
    masks[1, 36:84, 76:124] = True
    objects = [
        SceneObject.from_mask(noun, None, mask)
        for noun, mask in zip(("cat", "dog"), masks, strict=True)
    ]
    asked = [
        [Sentence("the cat", (0,), "plain"), Sentence("the frog", (), "absent")],
        [
            Sentence("the dog on the right", (1,), "place"),
            Sentence("the cat and the dog", (0, 1), "plural"),
            Sentence("very quickly", (0,), "plain"),
        ],
    ]
    write_scenes(tmp_path / "scenes", [(picture, objects, said) for said in asked])
    return tmp_path / "scenes"


def test_eval_reports_by_kind(run: Run, scenes: Path, tiny_model: Path) -> None:
    words = ("eval", "stickers", "--data", scenes, "-m", tiny_model)
    shown = run(*words, "--json")
    report = json.loads(shown.stdout)
    assert report["profile"] == "default"
    assert set(report["overall"]) == {"n", "miou", "oiou", "pr50", "right_object"}
    assert report["overall"]["n"] == 4 and report["kinds"]["absent"]["empty_rate"] == 0
    assert "1 sentences were not understood" in shown.stderr
    assert json.loads(run(*words, "--json", "--limit", 3).stdout)["overall"]["n"] == 2
    assert "right_object" in run(*words).stdout


def test_eval_with_given_masks_chooses_among_them(
    run: Run, scenes: Path, tiny_model: Path, tiny_clip: Path
) -> None:
    words = ("eval", "stickers", "--data", scenes, "-m", tiny_model, "--given-masks", "--json")
    plural = json.loads(run(*words).stdout)["kinds"]["place"]
    assert plural["miou"] in (0.0, 1.0) and plural["miou"] == plural["right_object"]
    for halves in ("generative", "clip", "both"):
        shown = run(*words, "--clip", tiny_clip, "--halves", halves)
        assert json.loads(shown.stdout)["overall"]["n"] == 4


def test_halves_choose_what_decides(tiny_model: Path, tiny_clip: Path) -> None:
    ready = make_ready(str(tiny_model), str(tiny_clip), None, None, "paper", "2x", 5)
    assert (ready.settings.capture.size, ready.settings.capture.seed) == (2.0, 5)
    assert with_halves(ready, "clip").settings.alpha == 0
    assert with_halves(ready, "both") == with_halves(ready, None) == ready


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "train"), "validation, test"),
        (("--data", "nowhere"), "nowhere"),
        (("--halves", "all"), "generative, clip, both"),
        (("--halves", "clip"), "--clip"),
    ],
)
def test_eval_refuses(
    run: Run, scenes: Path, tiny_model: Path, tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    data = () if options[0] in ("--split", "--data") else ("--data", scenes)
    shown = run("eval", "stickers", "-m", tiny_model, *data, *options, code=2)
    refused(shown, tmp_path / "out", said)
