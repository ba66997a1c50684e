"""Bad pictures, masks, scenes, texts and options: each gets one sentence, nothing is written."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from refdiff.cli import app
from refdiff.errors import HeatError, ModelError, WordError
from refdiff.evaluation import SceneObject, Sentence, read_scenes, write_scenes
from refdiff.expression import MOST_LETTERS, MOST_TARGETS, parse, with_root
from refdiff.io.overlay import draw_overlay
from refdiff.io.pictures import as_picture, read_masks
from refdiff.masks.proposals import as_masks
from refdiff.models.catalogue import VARIABLE
from refdiff.scoring.clip import ClipScorer

Make = Callable[[Path], Any]
SECONDS = 20.0  # of a refusal; what hangs or grows takes minutes


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model from outside, no network, and nothing written into the checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must be refused; what it said."""

    def call(*words: object) -> str:
        before, start = sorted(tmp_path.rglob("*")), time.perf_counter()
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 2, result.output
        assert time.perf_counter() - start < SECONDS
        assert result.stdout == "" and "Traceback" not in result.stderr
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        assert result.stderr[-2] in ".?!" and "unexpected" not in result.stderr
        assert all(letter.isprintable() for letter in result.stderr[:-1])
        assert len(result.stderr) < 1000 and sorted(tmp_path.rglob("*")) == before
        return result.stderr

    return call


# ---- pictures --------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * min(4096, height * (1 + 3 * width))))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + pixels + chunk(b"IEND", b"")


def saved(kind: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((90, 60), 80).convert("RGB").save(file, kind)
    return file.getvalue()


def data(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


PICTURES: dict[str, tuple[str, Make]] = {
    "absent": ("no file", lambda path: None),
    "empty": ("not a picture", data(b"")),
    "folder": ("is a folder", lambda path: path.mkdir()),
    "pipe": ("a pipe or a device", os.mkfifo),
    "device": ("a pipe or a device", lambda path: path.symlink_to("/dev/zero")),
    "link to itself": ("cannot be read", lambda path: path.symlink_to(path)),
    "link to nothing": ("no file", lambda path: path.symlink_to("nowhere")),
    "text": ("not a picture", data(b"a red cat")),
    "svg": ("not a picture", data(b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
    "postscript": ("EPS", data(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")),
    "html": ("not a picture", data(b"<html><script>alert(1)</script>")),
    "python": ("not a picture", data(b"import os; os.mkdir('harm')")),
    "pickle": ("not a picture", data(b"\x80\x04\x95cposix\nsystem\n.")),
    "zip": ("not a picture", data(b"PK\x03\x04" + b"\0" * 60)),
    "no pixels": ("photo", data(png(9, 0))),
    "too many pixels": ("megapixels", data(png(20_000, 5_001))),
    "endless pixels": ("megapixels", data(png(2**31 - 1, 2**31 - 1))),
    "text bomb": (
        "cannot be read",
        data(png(9, 9, chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 90_000_000)))),
    ),
    "labels": ("LabelMe", data(b'{"shapes": [], "imagePath": "photo.png"}')),
}


@pytest.mark.parametrize("name", PICTURES)
def test_bad_pictures(name: str, refused: Callable[..., str], tmp_path: Path) -> None:
    said, make = PICTURES[name]
    path = tmp_path / ("photo.json" if name == "labels" else "photo.png")
    make(path)
    shown = refused("segment", path, "the cat", "-m", tmp_path / "none", "-o", tmp_path / "out")
    assert said in shown and "photo" in shown


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff", "gif"])
def test_pictures_cut_short(kind: str, share: float, tmp_path: Path) -> None:
    whole = saved(kind)
    (tmp_path / "cut.png").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.png' (cannot be read whole|is not a picture)"):
        as_picture(tmp_path / "cut.png")


@pytest.mark.parametrize(
    "value",
    [
        Image.new("RGB", (0, 0)),
        np.zeros((0, 9, 3)),
        np.zeros((9, 9, 2)),
        np.full((9, 9, 3), np.nan),
        np.full((9, 9, 3), -5),
        np.zeros((9, 9, 3), complex),
        np.array([["a"]]),
        torch.zeros(3, 9, 9, device="meta"),
        torch.zeros(9, 9).to_sparse(),
        torch.zeros(3, 9, 9, dtype=torch.complex64),
        torch.nested.nested_tensor([torch.zeros(3, 4)]),
        7,
        None,
        b"bytes",
    ],
    ids=lambda value: type(value).__name__ + str(getattr(value, "dtype", "")),
)
def test_bad_pictures_in_memory(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"[Pp]icture"):
        as_picture(value)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(9, 13, device="meta"),
        torch.zeros(9, 13).to_sparse(),
        torch.zeros(9, 13, dtype=torch.complex64),
        torch.nested.nested_tensor([torch.zeros(9, 13)]),
        np.array([[None]]),
        np.zeros((9, 13), dtype=[("a", "f4")]),
    ],
    ids=lambda value: type(value).__name__ + str(getattr(value, "dtype", "")),
)
def test_bad_masks_in_memory(value: Any) -> None:
    with pytest.raises(ValueError, match=r"proposal|Proposals"):
        as_masks(value, (9, 13))
    assert as_masks(torch.ones(9, 13).to(torch.float8_e4m3fn), (9, 13)).all()


# ---- masks -----------------------------------------------------------------------------------


def npy(shape: str, kind: str = "|u1", content: bytes = b"\0" * 64) -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def npz(member: bytes, name: str = "masks.npy") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, member)
    return file.getvalue()


def of_array(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


class Harm:
    """Unpickled, it makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


MASKS: dict[str, tuple[str, bytes]] = {
    "terabytes.npy": ("are the limit", npy("(1000000, 10000, 10000)")),
    "beyond.npy": ("are the limit", npy("(1208925819614629174706176, 1, 1)")),
    "negative.npy": ("cannot be read", npy("(-1, 9, 9)")),
    "code.npy": ("cannot be read", npy("(__import__('os').mkdir('harm'),)")),
    "cut.npy": ("cannot be read", npy("(4, 97, 131)")),
    "object.npy": ("cannot be read", of_array(np.array([Harm()], dtype=object))),
    "words.npy": ("masks", of_array(np.array([["a"]]))),
    "complex.npy": ("masks", of_array(np.ones((1, 97, 131), complex))),
    "nan.npy": ("masks", of_array(np.full((1, 97, 131), np.nan))),
    "below.npy": ("masks", of_array(np.full((1, 97, 131), -1.0))),
    "none.npy": ("masks", of_array(np.zeros((0, 97, 131)))),
    "other.npy": ("97 x 131", of_array(np.ones((1, 9, 13), bool))),
    "no.npy": ("cannot be read", b"nothing"),
    "bomb.npz": ("are the limit", npz(npy("(3000, 1000, 1000)", content=b"\0" * 999))),
    "object.npz": ("cannot be read", npz(of_array(np.array([Harm()], dtype=object)))),
    "cut.npz": ("whole .npz", npz(of_array(np.ones((2, 9, 9))))[:60]),
    "no.npz": ("whole .npz", b"PK\x03\x04"),
    "labelme.json": ("LabelMe", b'{"shapes": [], "imagePath": "a.png", "version": "5"}'),
    "report.json": ("a report of refdiff", b'{"candidates": [], "understood": {}}'),
    "coco.json": ("no segmentation", b'{"images": [], "annotations": [], "categories": []}'),
    "images.json": ("lists of objects", b'{"images": "photo.png", "annotations": [7]}'),
    "no ids.json": ("none called", b'{"images": [{}, {}], "annotations": [{"id": 1}]}'),
    "rle.json": ("run lengths", b'{"size": [97, 131], "counts": "abc"}'),
    "padded.json": ("run lengths", b'{"size": [97, 131], "counts": "kff00"}'),
    "long.json": ("run lengths", b'{"size": [97, 131], "counts": "' + b"o" * 400_000 + b'"}'),
    "negative.json": ("run lengths", b'{"size": [97, 131], "counts": [-9, 12716]}'),
    "beyond.json": ("run lengths", b'{"size": [97, 131], "counts": [0, 99999999]}'),
    "no counts.json": ("run lengths", b'{"size": [97, 131]}'),
    "size.json": ("height, width", b'{"size": [9, 131], "counts": "abc"}'),
    "size of words.json": ("size", b'{"size": "97", "counts": "abc"}'),
    "far.json": ("polygon", b'[{"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}]'),
    "nan.json": ("polygon", b'[{"segmentation": [[0, 0, NaN, 0, 9, 9]]}]'),
    "odd.json": ("polygon", b'[{"segmentation": [[0, 0, 9, 0, 9, 9, 9]]}]'),
    "boxes.json": ("right exceeds left", b"[[9, 9, 5, 5]]"),
    "no boxes.json": ("right exceeds left", b"[[1, 2, NaN, 4]]"),
    "scenes.json": ("scenes", b'{"version": 1, "scenes": []}'),
    "deep.json": ("nested too deep", b"[" * 100_000),
    "cut.json": ("not JSON", b'[{"segmentation": [[0, 0'),
    "binary.json": ("not JSON", b"\xff\xfe\x00"),
    "other.json": ("JSON, no picture", b"[1, 2]"),
    "masks.pt": ("not a picture", b"\x80\x02}q\x00."),
}


@pytest.mark.parametrize("name", MASKS)
def test_bad_masks(
    name: str, refused: Callable[..., str], photo: Path, tiny_model: Path, tmp_path: Path
) -> None:
    said, content = MASKS[name]
    (tmp_path / name).write_bytes(content)
    model = tiny_model if name == "other.npy" else tmp_path / "none"
    words = ("segment", photo, "the cat", "--proposals", tmp_path / name, "-m", model)
    assert said in refused(*words, "-o", tmp_path / "out")


def test_masks_that_never_end(refused: Callable[..., str], photo: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("masks/1.png", "one.npy", "two.npz", "three.json"):
        os.mkfifo(tmp_path / name)
    for given in ("masks", "one.npy", "two.npz", "masks/1.png"):
        for kind in ("", "labels:"):
            shown = refused("segment", photo, "the cat", "--proposals", f"{kind}{tmp_path / given}")
            assert kind or ("a pipe" in shown and "cannot be read" in shown)
    shown = refused("segment", photo, "the cat", "--proposals", tmp_path / "three.json")
    assert "no file" in shown
    with pytest.raises(ValueError, match="pipe"):
        read_masks(tmp_path / "masks")


LABELS: dict[str, tuple[str, bytes]] = {
    "bomb.png": ("megapixels", png(2**31 - 1, 2**31 - 1)),
    "colours.png": ("has colours", saved("png")),
    "text.png": ("not a picture", b"1 2 3"),
    "cut.png": ("cannot be read whole", saved("png")[:300]),
    "empty.png": ("not a picture", b""),
    "photo.eps": ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
}


@pytest.mark.parametrize("name", LABELS)
def test_bad_labels(name: str, refused: Callable[..., str], photo: Path, tmp_path: Path) -> None:
    said, content = LABELS[name]
    (tmp_path / name).write_bytes(content)
    words = ("segment", photo, "the cat", "--proposals", f"labels:{tmp_path / name}")
    assert said in refused(*words, "-o", tmp_path / "out")


# ---- texts -----------------------------------------------------------------------------------

TEXTS = {
    "long": ("letters, beyond 1,000", "cat " * 300),
    "a long word": ("letters, beyond 1,000", "c" * 10_000),
    "many articles": ("letters, beyond 1,000", "the " * 2_500),
    "many things": ("things to look for, beyond 16", "cat and " * 40 + "dog"),
    "nothing": ("the text is", ""),
    "marks": ("the text is", "?!"),
    "zero": ("the text is", "\0"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_bad_texts(name: str, refused: Callable[..., str], photo: Path, tmp_path: Path) -> None:
    said, text = TEXTS[name]
    for words in (("segment", photo), ("explain",)):
        assert said in refused(*words, text)


@pytest.mark.parametrize("text", ["the " * 249, "(" * 900, "of a " * 199])
def test_a_long_text_is_not_repeated_in_full(text: str) -> None:
    with pytest.raises(ValueError, match=r" \.\.\. ") as caught:
        parse(text)
    assert len(str(caught.value)) < 200
    with pytest.raises(WordError, match=r" \.\.\. "):
        with_root(parse("the cat"), "q" * 900)


def test_work_grows_with_the_text_and_no_faster(picture: Image.Image) -> None:
    heat, mask = np.zeros((97, 131)), np.zeros((97, 131), bool)
    times = []
    for letters in (1_000, 100_000):
        start = time.perf_counter()
        drawn = draw_overlay(picture, heat, mask, "w" * letters)
        times.append(time.perf_counter() - start)
        assert drawn.size == picture.size
    assert times[1] < 5 * times[0] + 0.5
    for text in ("the " * (MOST_LETTERS // 4 - 1) + "cat", "c" * MOST_LETTERS):
        start = time.perf_counter()
        assert parse(text).root is not None
        assert time.perf_counter() - start < 5
    assert len(parse(" and ".join(["cat"] * 3)).targets()) <= MOST_TARGETS


# ---- scenes ----------------------------------------------------------------------------------


@pytest.fixture
def scenes(picture: Image.Image, tmp_path: Path) -> Path:
    thing = SceneObject.from_mask("cat", "red", np.eye(97, 131, dtype=bool))
    said = [Sentence("the red cat", (0,), "plain")]
    return write_scenes(tmp_path / "scenes", [(picture, [thing], said)]).parent


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def make(text: str) -> str:
        held = json.loads(text)
        change(held)
        return json.dumps(held)

    return make


def mask_of(**fields: object) -> Callable[[str], str]:
    return changed(lambda held: held["scenes"][0]["objects"][0]["mask"].update(fields))


def scene_of(**fields: object) -> Callable[[str], str]:
    return changed(lambda held: held["scenes"][0].update(fields))


def padded(text: str) -> str:
    """The same runs, the first with a digit that says nothing."""
    held = json.loads(text)
    mask = held["scenes"][0]["objects"][0]["mask"]
    first = mask["counts"][0]
    mask["counts"] = chr(ord(first) + 32) + "0" + mask["counts"][1:]
    return json.dumps(held)


SCENES: dict[str, tuple[str, Callable[[str], str]]] = {
    "nothing": ("not JSON", lambda text: ""),
    "cut": ("not JSON", lambda text: text[:50]),
    "deep": ("nested", lambda text: "[" * 200_000),
    "a list": ("version", lambda text: "[]"),
    "another version": ("version", changed(lambda held: held.update(version=2))),
    "no scenes": ("scenes", changed(lambda held: held.pop("scenes"))),
    "a scene of words": ("Scene 1", changed(lambda held: held.update(scenes=["cat"]))),
    "no picture": ("image", scene_of(image=None)),
    "a lost picture": ("no file", scene_of(image="0002.png")),
    "a picture elsewhere": ("wanted one inside", scene_of(image="/etc/passwd")),
    "a picture above": ("wanted one inside", scene_of(image="../photo.png")),
    "objects of words": ("objects", scene_of(objects="cat")),
    "an index too far": (
        "indices",
        scene_of(sentences=[{"text": "a", "kind": "b", "objects": [9]}]),
    ),
    "an index of true": (
        "indices",
        scene_of(sentences=[{"text": "a", "kind": "b", "objects": [True]}]),
    ),
    "an index twice": (
        "indices",
        scene_of(sentences=[{"text": "a", "kind": "b", "objects": [0, 0]}]),
    ),
    "a sentence of numbers": (
        "text",
        scene_of(sentences=[{"text": 7, "kind": "b", "objects": []}]),
    ),
    "another size": ("height, width", mask_of(size=[97, 130])),
    "a size of words": ("height, width", mask_of(size=["97", "131"])),
    "no runs": ("object 0 in scene 1", mask_of(counts="")),
    "runs of other signs": ("object 0 in scene 1", mask_of(counts="a b")),
    "runs beyond": ("object 0 in scene 1", mask_of(counts="zz1")),
    "a run without end": ("object 0 in scene 1", mask_of(counts="o" * 400_000)),
    "a long run": ("object 0 in scene 1", mask_of(counts="P" * 400_000 + "1")),
    "padded runs": ("object 0 in scene 1", padded),
    "a list of runs": ("counts", mask_of(counts=[1, 2])),
}


@pytest.mark.parametrize("name", SCENES)
def test_bad_scenes(name: str, refused: Callable[..., str], scenes: Path) -> None:
    said, make = SCENES[name]
    file = scenes / "scenes.json"
    file.write_text(make(file.read_text()))
    shown = refused("eval", "stickers", "--data", scenes, "-m", "none.safetensors")
    assert said in shown
    if "object 0" in said:
        assert "encode it again" in shown


def test_scenes_that_never_end(refused: Callable[..., str], scenes: Path) -> None:
    (scenes / "scenes.json").unlink()
    os.mkfifo(scenes / "scenes.json")
    assert "it is no file" in refused("eval", "stickers", "--data", scenes)


def test_runs_are_read_as_coco_writes_them(tmp_path: Path) -> None:
    """Every mask that coco encodes passes the check, long and short runs, growing and shrinking."""
    random = np.random.default_rng(0)
    shapes = [(1, 1), (3, 1), (1, 700), (40, 40), (300, 500)]
    for number, (height, width) in enumerate(shapes * 8):
        mask = random.random((height, width)) < random.choice([0.0, 0.01, 0.5, 1.0])
        thing = SceneObject.from_mask("cat", None, mask)
        picture = Image.new("RGB", (width, height))
        folder = write_scenes(tmp_path / str(number), [(picture, [thing], [])]).parent
        (scene,) = read_scenes(folder)
        assert np.array_equal(scene.objects[0].mask, mask)


# ---- options ---------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[str, ...]] = {
    "--seed 18446744073709551616": ("--seed", str(2**64)),
    "--seed -1": ("--seed", "-1"),
    "--device meta": ("--device", "meta"),
    "--device vulkan": ("--device", "vulkan"),
    "--device mkldnn": ("--device", "mkldnn"),
    "--device privateuseone": ("--device", "privateuseone"),
    "--device words": ("--device", "the fast one"),
    "--device cuda:99": ("--device", "cuda:99"),
    "--dtype object": ("--dtype", "object"),
    "--size 0": ("--size", "0"),
    "--size nan": ("--size", "nan"),
    "--size 1e99": ("--size", "1e99"),
    "--profile escapes": ("--profile", "\x1b[31m"),
    "--word absent": ("--word", "dog"),
    "-m of nobody": ("-m", "~nobody-here/model"),
    "-m with zero": ("-m", "a\0b"),
    "-m very long": ("-m", "x" * 5000),
    "-m escapes": ("-m", "\x1b]0;owned\x07"),
    "-m device": ("-m", "/dev/zero"),
    "--clip very long": ("--clip", "x" * 5000),
    "--clip of nobody": ("--clip", "~nobody-here/clip"),
    "--clip nowhere": ("--clip", "hf-hub:nobody/no-such-clip"),
    "--clip no name": ("--clip", "hf-hub:"),
    "--clip device": ("--clip", "/dev/zero"),
    "--proposals nowhere": ("--proposals", "nowhere.npy"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_options(
    name: str, refused: Callable[..., str], photo: Path, tiny_model: Path, tmp_path: Path
) -> None:
    options = OPTIONS[name]
    words = () if "-m" in options else ("-m", tiny_model)
    refused("segment", photo, "the cat", "-o", tmp_path / "out", *words, *options)


# ---- numbers that are none -------------------------------------------------------------------


def spoilt(folder: Path, name: str, part: str, copy: Path) -> Path:
    shutil.copytree(folder, copy)
    weights = load_file(copy / name)
    key = next(key for key in weights if part in key)
    weights[key] = torch.full_like(weights[key], float("nan"))
    save_file(weights, copy / name, {"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("name", "part", "said"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "conv_in.weight", "heat map"),
        ("vae/diffusion_pytorch_model.safetensors", "encoder.conv_in.weight", "VAE's latent"),
        ("text_encoder/model.safetensors", "final_layer_norm.weight", "heat map"),
    ],
)
def test_weights_that_are_no_numbers(
    refused: Callable[..., str],
    photo: Path,
    tiny_model: Path,
    tmp_path: Path,
    name: str,
    part: str,
    said: str,
) -> None:
    model = spoilt(tiny_model, name, part, tmp_path / "model")
    shown = refused("segment", photo, "the cat", "-m", model, "-o", tmp_path / "out")
    assert said in shown and "not finite" in shown


def test_a_clip_of_no_numbers(
    refused: Callable[..., str], photo: Path, tiny_model: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    for part in ("visual.conv1", "token_embedding"):
        clip = spoilt(tiny_clip, "open_clip_model.safetensors", part, tmp_path / part)
        words = ("segment", photo, "the cat", "-m", tiny_model, "-o", tmp_path / "out")
        assert "CLIP's features hold values that are not finite" in refused(*words, "--clip", clip)
        scorer = ClipScorer.load(clip)
        with pytest.raises(HeatError):
            scorer.text_features(["cat"])
            scorer.crop_features(torch.rand(3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool))


def test_no_memory_left_is_one_sentence(
    refused: Callable[..., str], photo: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """torch says it as a RuntimeError on the CPU; here it is asked for a picture of 2^60 bytes."""

    def run_out(*_args: object) -> Iterator[None]:
        torch.empty(1 << 60, dtype=torch.uint8)
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refdiff.commands.segment.make_ready", lambda *_: next(iter(run_out())))
        shown = refused("segment", photo, "the cat", "-m", tiny_model, "-o", tmp_path / "out")
    assert shown.startswith("error: memory ran out; try a smaller --size")


def test_two_names_are_never_asked_of_the_hub_where_the_folder_is(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refdiff.models.pipelines import load_pipeline

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny")
    with pytest.raises(ModelError, match=r"no 'tyni' in the folder 'models' \(it holds tiny\)"):
        load_pipeline("models/tyni")
    assert threading.active_count() < 50
