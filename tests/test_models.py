"""Which model answers, and the list of those at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from refdiff import stickers
from refdiff.errors import ModelError
from refdiff.expression import parse
from refdiff.models.catalogue import STICKERS, VARIABLE, list_models, load_models
from refdiff.stickers import known
from refdiff.stickers.nouns import NOUNS


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def built_in(
    tiny_model: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Small models in the place of the built-in ones."""
    folder = tmp_path / "weights"
    shutil.copytree(tiny_model, folder)
    shutil.copytree(tiny_clip, folder / "clip")
    monkeypatch.setattr(stickers, "WEIGHTS", folder)
    return folder


def test_the_stickers_are_the_default_and_bring_their_clip(built_in: Path) -> None:
    models = load_models()
    assert models.is_sticker and models.clip is not None
    assert (models.source, models.clip_source) == (STICKERS, STICKERS)
    assert load_models(built_in).is_sticker
    assert load_models(STICKERS, clip="none").clip is None


def test_another_model_comes_without_the_sticker_clip(
    built_in: Path, tiny_model: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = load_models(tiny_model)
    assert not models.is_sticker and models.clip is None and models.clip_source is None
    with_clip = load_models(tiny_model, tiny_clip)
    assert with_clip.clip is not None and with_clip.clip_source == str(tiny_clip)
    monkeypatch.setenv(VARIABLE, str(tiny_model))
    assert load_models().source == str(tiny_model) and not load_models().is_sticker
    assert load_models(STICKERS).is_sticker


def test_a_folder_called_stickers_is_no_rival_unless_named(
    built_in: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / STICKERS)
    monkeypatch.chdir(tmp_path)
    assert load_models(clip="none").is_sticker
    assert not load_models(STICKERS).is_sticker


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stickers, "WEIGHTS", tmp_path / "gone")
    with pytest.raises(ModelError, match="gone"):
        load_models()


def test_dtype_and_device(tiny_model: Path, tiny_clip: Path) -> None:
    models = load_models(tiny_model, tiny_clip, "cpu", "bfloat16")
    assert models.pipe.unet.dtype == torch.bfloat16
    assert models.clip is not None and models.clip.model.visual.conv1.weight.dtype == torch.bfloat16
    for device in ("warp", "cuda:99"):
        with pytest.raises(ValueError, match=device):
            load_models(tiny_model, device=device)
    for dtype in ("int8", torch.int8):
        with pytest.raises(ValueError, match="int8"):
            load_models(tiny_model, dtype=dtype)


def test_stickers_are_cautious_about_what_they_never_saw(built_in: Path, tiny_model: Path) -> None:
    built, other = load_models(clip="none"), load_models(tiny_model)
    assert "--model" in (built.caution(parse("both red cats")) or "")
    assert "'man' is not one" in (built.caution(parse("the man with a hat")) or "")
    assert other.caution(parse("the man with a hat")) is None


def test_the_nouns_of_the_stickers() -> None:
    assert len(NOUNS) == 40
    assert all(known(noun) and known(noun.upper()) for noun in NOUNS)
    assert not any(known(noun) for noun in ("man", "cats", "", "ca"))


def test_the_list_says_what_is_usable_and_why_not(
    built_in: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder / "pipe")
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, folder / "style.safetensors")
    save_file({"transformer_blocks.0.attn.to_q.weight": torch.ones(1)}, folder / "dit.safetensors")
    (folder / "cut.safetensors").write_bytes(b"\x00" * 20)
    monkeypatch.setenv(VARIABLE, "owner/name")
    found = {entry.name: entry for entry in list_models([folder])}
    assert found[STICKERS].usable and found["owner/name"].place == VARIABLE
    assert found[str(folder / "pipe")].usable
    assert "LoRA" in found[str(folder / "style.safetensors")].what
    assert "transformer" in found[str(folder / "dit.safetensors")].what
    bad = [entry for entry in found.values() if entry.place == str(folder) and not entry.usable]
    assert len(bad) == 3 and all(entry.what for entry in bad)
    assert not any("pipe/unet" in name for name in found)
    with pytest.raises(ValueError, match="nowhere"):
        list_models([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (128, "of stickers"),
        (768, "of sd1"),
        (2048, "of sdxl"),
        (77, "of no family"),
        ([5], "of no"),
    ],
)
def test_the_list_names_the_profile_that_a_model_gets(
    built_in: Path, tiny_model: Path, tmp_path: Path, width: object, said: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "pipe")
    config = tmp_path / "pipe" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": width}))
    found = {entry.name: entry for entry in list_models([tmp_path])}
    assert f"profile {said}" in found[str(tmp_path / "pipe")].what


def test_the_hubs_cache_is_listed(
    built_in: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    at = tmp_path / "cache" / "models--someone--small-sd" / "snapshots"
    shutil.copytree(tiny_model, at / "abc")
    other = tmp_path / "cache" / "models--someone--flow" / "snapshots" / "def"
    other.mkdir(parents=True)
    (other / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    found = {entry.name: entry for entry in list_models()}
    assert found["someone/small-sd"].usable and not found["someone/flow"].usable
    assert "FluxPipeline" in found["someone/flow"].what
