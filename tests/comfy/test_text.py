"""Which characters of a sentence each column of ComfyUI's text encoding covers."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def clip(pack: ModuleType) -> Any:
    return import_module(f"{pack.__name__}.nodes.stickers").sticker_models()[1]


@pytest.fixture(scope="module")
def reader(pack: ModuleType) -> Any:
    return import_module(f"{pack.__name__}.nodes.text").TextReader


@pytest.fixture
def learned(clip: Any, tmp_path: Path) -> None:
    """Learned words of two vectors, of one, and of another model's width."""
    for name, shape in {"two": (2, 128), "one": (1, 128), "wide": (1, 768)}.items():
        save_file({"clip_l": torch.randn(shape)}, tmp_path / f"{name}.safetensors")
    clip.tokenizer.clip_l.embedding_directory = [str(tmp_path)]


def covered(encoded: Any, text: str) -> list[str]:
    """The characters under every column that covers any."""
    return [text[slice(*span)] for span in encoded.spans if span]


@pytest.mark.parametrize(
    "text",
    [
        "The RED cat, left",
        "a (red:1.3) cat [x] \\(y\\)",
        "café 猫 cat",
        "",
        "cat " * 200,
        "sports-car",
    ],
)
def test_the_columns_spell_the_text(clip: Any, reader: Any, text: str) -> None:
    encoded = reader(clip)(text)
    assert encoded.cond.shape == (1, len(encoded.tokens), 128)
    assert len(encoded.tokens) == len(encoded.spans) == 77 * max(1, -(-text.count("cat") // 75))
    for piece, span in zip(encoded.tokens, encoded.spans, strict=True):
        if span and piece.isascii():
            assert text[slice(*span)].lower() == piece.removesuffix("</w>")
    spelled = {i for span in encoded.spans if span for i in range(*span)}
    assert all(i in spelled for i, c in enumerate(text) if not c.isspace() and c != "\\")


def test_each_window_begins_and_ends_without_words(clip: Any, reader: Any) -> None:
    encoded = reader(clip)("cat " * 80)
    empty = [at for at, span in enumerate(encoded.spans) if span is None]
    assert empty[:3] == [0, 76, 77] and empty[3:] == list(range(83, 154))


def test_learned_words(clip: Any, reader: Any, learned: None) -> None:
    text = "a cat, embedding:two next to embedding:missing a embedding:one, and a dog"
    encoded = reader(clip)(text)
    words = ["a", "cat", ",", "embedding:two", "embedding:two", "next", "to", "a"]
    assert covered(encoded, text) == [*words, "embedding:one", ",", "and", "a", "dog"]
    assert encoded.spans[4] == encoded.spans[5] == (7, 20)
    with pytest.raises(Exception, match=r"768 numbers.*128; use one made for this model"):
        reader(clip)("a embedding:wide cat")


def test_without_a_folder_learned_words_are_text(clip: Any, reader: Any) -> None:
    clip.tokenizer.clip_l.embedding_directory = None
    text = "a embedding:two cat"
    assert "".join(covered(reader(clip)(text), text)) == text.replace(" ", "")


def test_weights_are_read_only_when_asked(clip: Any, reader: Any) -> None:
    text = "3 (red:1.3) cats \\(left\\)"
    plain, weighted = reader(clip)(text), reader(clip, prompt_weights=True)(text)
    assert "1" in covered(plain, text) and ":" in covered(plain, text)
    assert covered(weighted, text) == ["3", "red", "cats", "(", "left", ")"]
    unweighted = reader(clip)("3 red cats (left)")
    assert torch.equal(plain.cond[:, :2], unweighted.cond[:, :2])
    assert not torch.equal(weighted.cond[:, 2], unweighted.cond[:, 2])


def test_clip_skip_counts_from_the_models_own_layer(clip: Any, reader: Any) -> None:
    user = clip.clone()
    user.clip_layer(-2)
    plain, skipped = reader(clip)("a cat").cond, reader(clip, clip_skip=1)("a cat").cond
    assert not torch.allclose(skipped, plain, atol=1e-3)
    assert torch.equal(reader(user)("a cat").cond, plain)
    assert torch.equal(reader(user, clip_skip=None)("a cat").cond, skipped)
    assert user.layer_idx == -2
    layers = clip.cond_stage_model.clip_l.num_layers
    with pytest.raises(ValueError, match=f"clip_skip is {layers}; .* {layers - 1} at most"):
        reader(clip, clip_skip=layers)


def test_the_empty_text_fills_every_window(clip: Any, reader: Any) -> None:
    one, three = reader(clip).empty(77).cond, reader(clip).empty(231).cond
    assert three.shape == (1, 231, 128) and torch.allclose(three, one.repeat(1, 3, 1), atol=1e-5)
