"""Strangers' models: their code never runs, their numbers are bounded, what they lack is named."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.prompt_chunks import pack
from refdiff.errors import ModelError
from refdiff.models.catalogue import list_models
from refdiff.models.checkpoints import open_checkpoint
from refdiff.models.pipelines import load_pipeline
from refdiff.scoring.clip import ClipScorer

Change = Callable[[Path], object]
SECONDS = 10.0  # of a refusal


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def edited(name: str, **fields: object) -> Change:
    """Fields of a JSON file in the folder, which is made if it is not there."""

    def change(folder: Path) -> None:
        path = folder / name
        held = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**held, **fields}))

    return change


def evil(folder: Path, *names: str) -> None:
    """Python that would show that it ran, under every name a library could look for."""
    proof = folder.parent / "proof"
    code = f"open({str(proof)!r}, 'w').close()\nclass Evil:\n    def __init__(self, *a, **k): ...\n"
    for name in ("evil.py", "pipeline.py", "None.py", *names):
        (folder / name).write_text(code)


def never_ran(folder: Path) -> bool:
    return not (folder.parent / "proof").exists()


# ---- diffusers folders ------------------------------------------------------------------------

CODE: dict[str, Change] = {
    "pipeline of its own": edited("model_index.json", _class_name=["pipeline", "Evil"]),
    "pipeline by name": edited("model_index.json", _class_name="Evil"),
    "pipeline that is a function": edited("model_index.json", _class_name="is_torch_available"),
    "custom pipeline": edited("model_index.json", custom_pipeline="evil"),
    "unet of its own": edited("model_index.json", unet=["evil", "Evil"]),
    "unet from os": edited("model_index.json", unet=["os", "system"]),
    "unet from builtins": edited("model_index.json", unet=["builtins", "exec"]),
    "unet from torch": edited("model_index.json", unet=["torch", "load"]),
    "unet from a path": edited("model_index.json", unet=["../evil", "Evil"]),
    "unet from inside diffusers": edited("model_index.json", unet=["diffusers.utils", "Evil"]),
    "unet of three": edited("model_index.json", unet=["diffusers", "evil", "Evil"]),
    "tokenizer function": edited("model_index.json", tokenizer=["transformers", "pipeline"]),
    "tokenizer of its own": edited("model_index.json", tokenizer=["transformers", "Evil"]),
    "scheduler of its own": edited("model_index.json", scheduler=["evil", "Evil"]),
    "auto_map in the index": edited("model_index.json", auto_map={"AutoPipeline": "evil.Evil"}),
    **{
        f"auto_map of {part}": edited(name, auto_map={"AutoModel": "evil.Evil"})
        for part, name in {
            "unet": "unet/config.json",
            "vae": "vae/config.json",
            "text_encoder": "text_encoder/config.json",
            "tokenizer": "tokenizer/tokenizer_config.json",
            "scheduler": "scheduler/scheduler_config.json",
        }.items()
    },
    "code allowed by itself": edited("text_encoder/config.json", trust_remote_code=True),
    "code deep inside": edited("unet/config.json", more=[{"deep": {"auto_map": {"A": "b.C"}}}]),
    "kernels of the hub": edited("text_encoder/config.json", attn_implementation="evil/kernel"),
    "kernels once more": edited("text_encoder/config.json", _attn_implementation="a|b:c"),
}


@pytest.mark.parametrize("name", CODE)
def test_no_folders_code_runs(name: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    evil(folder, "unet/evil.py", "tokenizer/evil.py", "text_encoder/evil.py")
    CODE[name](folder)
    with pytest.raises(ModelError) as caught:
        load_pipeline(folder)
    assert never_ran(folder) and str(folder.name) in str(caught.value)


def without(name: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def without_weights(name: str, part: str) -> Change:
    def change(folder: Path) -> None:
        kept = {key: value for key, value in load_file(folder / name).items() if part not in key}
        save_file(kept, folder / name, {"format": "pt"})

    return change


def pickled(name: str) -> Change:
    def change(folder: Path) -> None:
        weights = load_file(folder / name)
        torch.save(weights, (folder / name).with_suffix(".bin"))
        (folder / name).unlink()

    return change


def pipe_for(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def few_words(folder: Path) -> None:
    """A tokenizer cut down to a dozen pieces."""
    path = folder / "tokenizer" / "tokenizer.json"
    held = json.loads(path.read_text())
    held["model"] |= {"vocab": {chr(97 + i): i for i in range(12)}, "merges": []}
    path.write_text(json.dumps(held))


UNET = "unet/diffusion_pytorch_model.safetensors"
LACKING: dict[str, tuple[str, Change]] = {
    "no tokenizer": ("its vocabulary", without("tokenizer")),
    "no vocabulary": ("its vocabulary", without("tokenizer/tokenizer.json")),
    "few words": ("pieces of words", few_words),
    "tokenizer not named": (
        "names no tokenizer",
        edited("model_index.json", tokenizer=[None, None]),
    ),
    "vae not named": ("names no vae", edited("model_index.json", vae=[None, None])),
    "no text encoder": ("text_encoder lacks config.json", without("text_encoder")),
    "no vae": ("vae lacks config.json", without("vae")),
    "no unet": ("unet lacks config.json", without("unet")),
    "no scheduler": ("scheduler lacks scheduler_config.json", without("scheduler")),
    "no weights": ("lacks its weights", without(UNET)),
    "pickled weights": ("so convert them", pickled(UNET)),
    "some weights of the unet": ("of its weights, first unet.", without_weights(UNET, "to_q")),
    "some weights of the text": (
        "should hold",
        without_weights("text_encoder/model.safetensors", "layers.1"),
    ),
    "a pipe for weights": ("files only", pipe_for(UNET)),
    "a pipe for a config": ("files only", pipe_for("unet/config.json")),
    "a pipe for a vocabulary": ("files only", pipe_for("tokenizer/vocab.json")),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_a_folder_lacks_is_named(name: str, tiny_model: Path, tmp_path: Path) -> None:
    said, change = LACKING[name]
    shutil.copytree(tiny_model, tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(ModelError) as caught:
        load_pipeline(tmp_path / "model")
    assert said in str(caught.value) and "\n" not in str(caught.value)


NUMBERS: dict[str, Change] = {
    "picture of a million": edited("unet/config.json", sample_size=1_000_000),
    "picture of nothing": edited("unet/config.json", sample_size=None),
    "picture of words": edited("unet/config.json", sample_size="64"),
    "picture of three sides": edited("unet/config.json", sample_size=[8, 8, 8]),
    "picture below nothing": edited("unet/config.json", sample_size=-8),
    "wide": edited("unet/config.json", block_out_channels=[32, 1 << 20, 64]),
    "wide text": edited("unet/config.json", cross_attention_dim=1 << 30),
    "deep": edited("unet/config.json", layers_per_block=1_000_000),
    "many blocks": edited("vae/config.json", block_out_channels=[8] * 40),
    "no groups": edited("unet/config.json", norm_num_groups=0),
    "infinite": edited("unet/config.json", norm_eps=float("inf")),
    "no number": edited("unet/config.json", norm_eps=float("nan")),
    "many channels": edited("vae/config.json", latent_channels=1 << 40),
    "vae of words": edited("vae/config.json", scaling_factor="x"),
    "wide encoder": edited(
        "text_encoder/config.json", hidden_size=16_000, intermediate_size=16_000
    ),
    "deep encoder": edited("text_encoder/config.json", num_hidden_layers=100_000),
    "many words": edited("text_encoder/config.json", vocab_size=4_000_000),
    "many timesteps": edited("scheduler/scheduler_config.json", num_train_timesteps=10**12),
    "no room": edited("tokenizer/tokenizer_config.json", model_max_length=0),
    "room for two": edited("tokenizer/tokenizer_config.json", model_max_length=2),
    "room of words": edited("tokenizer/tokenizer_config.json", model_max_length="x"),
    "a config of words": lambda folder: (folder / "unet/config.json").write_text('"unet"'),
    "a deep config": lambda folder: (folder / "unet/config.json").write_text("[" * 100_000),
    "a long config": lambda folder: (folder / "vae/config.json").write_text(" " * 5_000_000),
    "a binary config": lambda folder: (folder / "vae/config.json").write_bytes(b"\xff\xfe\0"),
    "a deep index": lambda folder: (folder / "model_index.json").write_text('{"a":' * 99_999),
    "an index of lists": edited("model_index.json", unet=[["diffusers"], "X"]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_bounded(name: str, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    NUMBERS[name](tmp_path / "model")
    start = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        DiffusersCapture(load_pipeline(tmp_path / "model"))
    assert time.perf_counter() - start < SECONDS and "\n" not in str(caught.value)


def test_a_row_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 0 tokens"):
        pack([["a"]], 0)


# ---- single files and listings ----------------------------------------------------------------


def test_a_state_dict_that_holds_itself(tmp_path: Path) -> None:
    held: dict[str, Any] = {"weight": torch.ones(1)}
    held["state_dict"] = held
    torch.save(held, tmp_path / "loop.ckpt")
    assert list(open_checkpoint(tmp_path / "loop.ckpt").shapes) == ["weight"]


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


CONV = "model.diffusion_model.input_blocks.0.0.weight"
FLAT = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
MALFORMED: dict[str, bytes] = {
    "flat.safetensors": header(
        **{
            CONV: FLAT,
            "cond_stage_model.model.a": {**FLAT, "data_offsets": [4, 8]},
            "first_stage_model.encoder.a": {**FLAT, "data_offsets": [8, 12]},
        }
    )
    + b"\0" * 12,
    "cut.safetensors": header(a=FLAT),
    "long.safetensors": (1 << 62).to_bytes(8, "little") + b"{}",
    "deep.safetensors": len(b"[" * 50_000).to_bytes(8, "little") + b"[" * 50_000,
    "empty.safetensors": b"",
    "one/model_index.json": b'{"unet": 7}',
    "two/model_index.json": b'{"unet": []}',
    "three/model_index.json": b'{"_class_name": "\\u001b[31m", "unet": ["a", {}]}',
    "four/model_index.json": b'["unet"]',
    "five/model_index.json": b'{"a":' * 50_000,
    "six/model_index.json": b'{"unet": {"a": 1}}',
    "seven/model_index.json": b"\xff\xfe",
    "eight/model_index.json": b'{"_class_name": [1], "unet": ["d", "UNet2DConditionModel"]}',
}


def test_a_malformed_file_does_not_end_the_listing(tiny_model: Path, tmp_path: Path) -> None:
    for name, content in MALFORMED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.safetensors")
    shutil.copytree(tiny_model, tmp_path / "whole")
    found = {Path(each.name).name: each for each in list_models([tmp_path])}
    assert len(MALFORMED) + 2 <= len(found)
    assert [name for name, each in found.items() if each.usable] == ["stickers", "whole"]


# ---- open_clip folders ------------------------------------------------------------------------


def clip_config(part: str = "text_cfg", **fields: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "open_clip_config.json"
        held = json.loads(path.read_text())
        held["model_cfg"][part] |= fields
        path.write_text(json.dumps(held))

    return change


def with_tokenizer(**fields: object) -> Change:
    """Let the folder name a tokenizer of transformers that lies in it."""

    def change(folder: Path) -> None:
        from refdiff.models.pipelines import CONFIGS

        clip_config(hf_tokenizer_name="mine", **fields)(folder)
        shutil.copytree(CONFIGS / "tokenizer", folder, dirs_exist_ok=True)

    return change


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


REMOTE = {"trust_remote_code": True}
AUTO = edited("tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Evil"]})
SIGLIP = {"timm_model_name": "vit_giantopt_patch16_siglip_384", "timm_pool": "map"}
CLIPS: dict[str, tuple[str, Change]] = {
    "remote tokenizer": (
        "such code never runs",
        both(with_tokenizer(tokenizer_kwargs=REMOTE), AUTO),
    ),
    "remote tokenizer, unasked": ("such code never runs", both(with_tokenizer(), AUTO)),
    "remote tokenizer of the config": (
        "such code never runs",
        both(with_tokenizer(), edited("config.json", auto_map={"AutoTokenizer": "evil.Evil"})),
    ),
    "arguments": ("are passed on", with_tokenizer(tokenizer_kwargs={"use_fast": False})),
    "a file as argument": (
        "are passed on",
        clip_config(tokenizer_kwargs={"bpe_path": "/dev/zero"}),
    ),
    "arguments in a list": ("are passed on", clip_config(tokenizer_kwargs=[1])),
    "another cleaning": ("are passed on", clip_config(tokenizer_kwargs={"clean": "evil"})),
    "a reduction": ("are passed on", clip_config(tokenizer_kwargs={"reduction_mask": "syntax"})),
    "tokenizer of its own class": (
        "of the class Evil",
        both(with_tokenizer(), edited("tokenizer_config.json", tokenizer_class="Evil")),
    ),
    "no tokenizer": ("lacks its tokenizer", clip_config(hf_tokenizer_name="roberta-base")),
    "a text model of its own": ("takes its text model", clip_config(hf_model_name="evil/model")),
    "a text model by path": ("takes its text model", clip_config(hf_model_name=".")),
    "a tower of the hub": (
        "takes its image tower",
        clip_config("vision_cfg", timm_model_name="hf_hub:evil/model"),
    ),
    "a tower by path": (
        "takes its image tower",
        clip_config("vision_cfg", timm_model_name="local-dir:/tmp"),
    ),
    "a tower of gigabytes": (
        "takes its image tower",
        clip_config("vision_cfg", timm_model_name="vit_gigantic_patch14_224"),
    ),
    "a tower with weights of the hub": (
        "takes its image tower",
        clip_config("vision_cfg", **SIGLIP, timm_model_pretrained=True),
    ),
    "a tower that nobody knows": (
        "cannot be understood",
        clip_config("vision_cfg", timm_model_name="vit_evil_patch1_siglip_4096", timm_pool="map"),
    ),
    "a tower that is not in the file": (
        "weights by its config",
        clip_config("vision_cfg", **SIGLIP),
    ),
    "a text model in a list": ("takes its text model", clip_config(hf_model_name=["evil"])),
    "room for one word": ("lose their words", clip_config(context_length=1)),
    "room for none": ("lose their words", clip_config(context_length=0)),
    "room of words": ("lose their words", clip_config(context_length="x")),
    "large pictures": ("beyond 4096", clip_config("vision_cfg", image_size=1_000_000)),
    "wide": ("weights by its config", clip_config("vision_cfg", width=16_384)),
    "deep": ("beyond 512", clip_config("vision_cfg", layers=1_000_000)),
    "deep within bounds": ("weights by its config", clip_config(layers=500, width=4096)),
    "many words": ("weights by its config", clip_config(vocab_size=4_000_000, width=512)),
    "long texts": ("beyond 4096", clip_config(context_length=10**9)),
    "no patches": ("cannot be understood", clip_config("vision_cfg", patch_size=0)),
    "a width of words": ("cannot be understood", clip_config("vision_cfg", width="x")),
    "no text": ("has no model_cfg", edited("open_clip_config.json", model_cfg={"vision_cfg": {}})),
    "pixels of words": (
        "wanted three numbers",
        edited("open_clip_config.json", preprocess_cfg={"mean": "x", "std": [1, 1, 1]}),
    ),
    "pixels by nothing": (
        "wanted three numbers",
        edited("open_clip_config.json", preprocess_cfg={"mean": [0, 0, 0], "std": [0, 0, 0]}),
    ),
    "a pipe": ("files only", pipe_for("merges.txt")),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clips_that_ask_for_too_much(name: str, tiny_clip: Path, tmp_path: Path) -> None:
    said, change = CLIPS[name]
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip, folder)
    evil(folder)
    change(folder)
    with pytest.raises(ModelError) as caught:
        ClipScorer.load(folder)
    assert said in str(caught.value) and never_ran(folder)


def test_a_tokenizer_of_transformers_in_the_folder_is_used(tiny_clip: Path, tmp_path: Path) -> None:
    """CLIP's own tokenizer as transformers has it, with an argument that open_clip's models use."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip, folder)
    with_tokenizer(tokenizer_kwargs={"clean": "canonicalize"})(folder)
    scorer = ClipScorer.load(folder)
    found = scorer.tokenizer(["a Red, cat!"])
    assert type(scorer.tokenizer).__name__ == "HFTokenizer" and found.shape == (1, 77)
    assert found[0, :5].tolist() == [49406, *SimpleTokenizer().encode("a red cat"), 49407]


def cached(cache: Path, name: str, folder: Path) -> None:
    """A folder as a repository in the hub's cache."""
    home = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / "0")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0")


def test_hub_repositories_are_read_like_folders(
    tiny_clip: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache, whole or refused: no code of theirs runs, and what they lack is no guess."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    cases: dict[str, tuple[Path, Change]] = {
        "me/clip": (tiny_clip, lambda folder: None),
        "me/evil-clip": (tiny_clip, CLIPS["remote tokenizer"][1]),
        "me/model": (tiny_model, lambda folder: None),
        "me/evil-model": (tiny_model, CODE["unet of its own"]),
        "me/half-model": (tiny_model, without("tokenizer")),
    }
    for name, (source, change) in cases.items():
        folder = tmp_path / "made" / name
        shutil.copytree(source, folder)
        if "evil" in name:
            evil(folder)
        change(folder)
        cached(cache, name, folder)
    for network in (True, False):
        assert ClipScorer.load("hf-hub:me/clip", network=network).size == 64
        with pytest.raises(ModelError, match="never runs"):
            ClipScorer.load("hf-hub:me/evil-clip", network=network)
    maps = DiffusersCapture(load_pipeline("me/model"))(Image.new("RGB", (64, 64)), "a cat")
    assert maps.maps
    with pytest.raises(ModelError, match="other code is never run"):
        load_pipeline("me/evil-model")
    with pytest.raises(ModelError, match="neither here nor"):
        load_pipeline("me/half-model")
    assert not list(tmp_path.rglob("proof"))
