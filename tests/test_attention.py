"""Token maps from queries and keys, and words from token maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

import refdiff
from refdiff.attention.capture import CaptureSettings, choose_layers, fit, unet_size
from refdiff.attention.maps import (
    AttentionRecorder,
    TokenMaps,
    attention_maps,
    cfg_logits,
    columns_of,
    min_max,
    word_map,
)
from refdiff.attention.noise import add_noise, ddim_step, noise, official_calls
from refdiff.attention.official_heat import official_heat
from refdiff.attention.prompt_chunks import piece_spans, prompt_chunks
from refdiff.errors import HeatError, WordError


@pytest.fixture
def query_key() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 15, 32, generator=generator),
        torch.randn(2, 7, 32, generator=generator),
    )


def by_hand(query: Tensor, key: Tensor, mode: str) -> Tensor:
    """One head at a time, as the formula reads."""
    maps = []
    for q, k in zip(query.split(8, -1), key.split(8, -1), strict=True):
        logits = q @ k.transpose(1, 2) / 8**0.5
        softmax = logits.exp() / logits.exp().sum(-1, keepdim=True)
        maps.append({"logits": logits, "probabilities": softmax}.get(mode, softmax.log()))
    return torch.stack(maps).mean(0).transpose(1, 2).reshape(2, 7, 3, 5)


@pytest.mark.parametrize("mode", ["probabilities", "logits", "log_probabilities"])
def test_maps_follow_the_formula(
    query_key: tuple[Tensor, Tensor], mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key = query_key
    expected = by_hand(query, key, mode)
    assert torch.allclose(attention_maps(query, key, 4, (3, 5), mode), expected, atol=1e-5)
    split = [each.unflatten(2, (4, 8)).transpose(1, 2) for each in query_key]
    assert torch.allclose(attention_maps(*split, 4, (3, 5), mode), expected, atol=1e-5)
    kept = attention_maps(query, key, 4, (3, 5), mode, columns=[5, 1])
    assert torch.allclose(kept, expected[:, [5, 1]], atol=1e-5)
    monkeypatch.setattr("refdiff.attention.maps._CHUNK", 1)
    assert torch.allclose(attention_maps(query, key, 4, (3, 5), mode), expected, atol=1e-5)


def test_probabilities_add_up_to_one(query_key: tuple[Tensor, Tensor]) -> None:
    assert torch.allclose(
        attention_maps(*query_key, 4, (3, 5)).sum(1), torch.ones(2, 3, 5), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_whatever_came(query_key: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    huge = [(each * 300).to(dtype) for each in query_key]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = attention_maps(*huge, 4, (3, 5), "logits")
    assert maps.dtype == torch.float32 and torch.isfinite(maps).all()
    assert maps.abs().max() > 65504
    expected = attention_maps(huge[0].float(), huge[1].float(), 4, (3, 5), "logits")
    assert torch.equal(maps, expected)


def test_a_grid_that_does_not_fit_is_refused(query_key: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="15 queries do not fill a grid of 4x4"):
        attention_maps(*query_key, 4, (4, 4))
    with pytest.raises(ValueError, match="'softmax'"):
        attention_maps(*query_key, 4, (3, 5), "softmax")  # type: ignore[arg-type]


def test_recorder_keeps_the_wanted_layers_only(query_key: tuple[Tensor, Tensor]) -> None:
    recorder = AttentionRecorder(["a", "b"], columns=[2])
    recorder.add("c", *query_key, 4, (3, 5))
    assert recorder.maps == {} and not recorder.done
    recorder.add("a", *query_key, 4, (3, 5))
    assert not recorder.done
    recorder.add("b", *query_key, 4, (3, 5))
    assert recorder.done and recorder.maps["a"].shape == (2, 1, 3, 5)
    by_grid = AttentionRecorder(lambda layer, grid: grid == (3, 5))
    assert by_grid.wants("any", (3, 5)) and not by_grid.wants("any", (5, 3)) and not by_grid.done


def test_rows_that_come_in_two_calls_are_joined(query_key: tuple[Tensor, Tensor]) -> None:
    whole, halves = AttentionRecorder(["a"]), AttentionRecorder(["a"])
    whole.add("a", *query_key, 4, (3, 5))
    for row in range(2):
        halves.add("a", *(each[row : row + 1] for each in query_key), 4, (3, 5))
    assert torch.allclose(whole.maps["a"], halves.maps["a"], atol=1e-6)


def test_kept_queries_answer_for_other_words(query_key: tuple[Tensor, Tensor]) -> None:
    query, key = query_key
    recorder = AttentionRecorder(["a"], keep_queries=["a"])
    recorder.add("a", query[:1], key[:1], 4, (3, 5))
    both = attention_maps(query[:1].expand(2, -1, -1), key, 4, (3, 5))
    assert torch.allclose(recorder.score("a", key), both, atol=1e-6)


def maps_of(*layers: Tensor, **changes: Any) -> TokenMaps:
    tokens = tuple(f"t{index}" for index in range(layers[0].shape[0]))
    spans = (None, (0, 3), (4, 6), (6, 8), None)[: len(tokens)]
    names = tuple(f"layer{index}" for index in range(len(layers)))
    sides = [layer.shape[2] for layer in layers]
    strides = tuple(8 * max(sides) // side for side in sides)
    return TokenMaps(tuple(layers), names, strides, tokens, spans, "the umcat", **changes)


def test_a_word_of_several_pieces_is_their_mean() -> None:
    layer = torch.rand(5, 4, 6)
    maps = maps_of(layer)
    assert maps.columns(4, 8) == (2, 3) and maps.columns(7, 8) == (3,)
    raw = word_map(maps, maps.columns(4, 8), normalise=False)
    assert torch.allclose(raw, (layer[2] + layer[3]) / 2)
    heat = word_map(maps, maps.columns(4, 8))
    assert torch.allclose(heat, (raw - raw.min()) / (raw.max() - raw.min()))
    assert heat.min() == 0 and heat.max() == 1


def test_rescaling_the_maps_does_not_change_the_heat() -> None:
    layer = torch.rand(5, 4, 6)
    assert torch.allclose(
        word_map(maps_of(layer), [1]), word_map(maps_of(layer * 1e-4 + 3), [1]), atol=1e-2
    )


def test_layers_are_resampled_to_the_finest_and_weighted_by_stride() -> None:
    coarse, fine = torch.zeros(5, 2, 2), torch.zeros(5, 4, 4)
    coarse[1], fine[1] = 1.0, 3.0
    maps = maps_of(coarse, fine, fine)
    assert word_map(maps, [1], normalise=False).shape == (4, 4)
    assert word_map(maps, [1], size=(9, 5), normalise=False).shape == (9, 5)

    def mean(weights: dict[int, float] | None) -> float:
        return float(word_map(maps, [1], weights=weights, normalise=False).mean())

    assert mean(None) == pytest.approx(7 / 3)
    assert maps.strides == (16, 8, 8)
    assert mean({16: 1.0, 8: 1.0}) == pytest.approx(2)
    assert mean({16: 0.25, 8: 0.75}) == pytest.approx(2.5)
    assert mean({8: 5.0}) == pytest.approx(3)
    with pytest.raises(ValueError, match=r"weights {32: 1.0}.*16, 8"):
        mean({32: 1.0})


def test_the_authors_give_a_loud_layer_no_more_say() -> None:
    quiet, loud = torch.rand(5, 4, 4), torch.rand(5, 4, 4)
    heat = official_heat(maps_of(quiet, loud), [1], (4, 4))
    assert torch.allclose(official_heat(maps_of(quiet, loud * 100), [1], (4, 4)), heat, atol=0.02)
    assert heat.unique().numel() <= 256
    assert not torch.allclose(
        word_map(maps_of(quiet, loud * 100), [1]), word_map(maps_of(quiet, loud), [1])
    )


def test_padding_has_no_part_in_the_range() -> None:
    inside = torch.rand(4, 8)
    padded = torch.full((5, 8, 8), 50.0)
    padded[:, 2:6] = inside
    maps = maps_of(padded, content=(0.25, 0.0, 0.5, 1.0))
    expected = (inside - inside.min()) / (inside.max() - inside.min())
    assert torch.allclose(word_map(maps, [1]), expected, atol=1e-5)
    assert word_map(maps, [1], size=(20, 40)).shape == (20, 40)


def test_constant_heat_is_zero_and_nan_is_an_error() -> None:
    layer = torch.full((5, 4, 4), 0.1)
    layer[1, 0, 0] += 1e-8
    assert (word_map(maps_of(layer), [1]) == 0).all()
    layer[1, 2, 2] = float("nan")
    with pytest.raises(HeatError, match="finite"):
        word_map(maps_of(layer), [1])
    assert (word_map(maps_of(layer), [2]) == 0).all()
    assert (min_max(torch.zeros(1, 1)) == 0).all()


def test_a_word_without_a_token_is_named() -> None:
    spans = (None, (0, 3), (4, 7), None)
    assert columns_of(spans, 4, 7, "the cat sat") == (2,)
    assert columns_of(spans, 0, 7, "the cat sat") == (1, 2)
    with pytest.raises(WordError, match="no token of 'sat'"):
        columns_of(spans, 8, 11, "the cat sat")
    with pytest.raises(WordError, match="no token"):
        columns_of(spans, 3, 4, "the cat sat")
    with pytest.raises(ValueError, match="5 to 5"):
        columns_of(spans, 5, 5, "the cat sat")


def test_guidance_takes_the_unconditional_map_away() -> None:
    cond, uncond = torch.rand(3, 3), torch.rand(3, 3)
    assert torch.allclose(cfg_logits(cond, uncond), 9 * cond - 8 * uncond, atol=1e-5)
    assert torch.allclose(cfg_logits(cond, uncond, 1.0), cond)


TEXTS = [
    "The RED Cat",
    "a  red \t cat\n",
    "café Éclair on a naïve plate",
    "cafe\u0301 au lait",
    "a 🐱 and a 👩‍🍳, snowman☃umbrella",
    "the dog's bone, don't they're O'Neil",
    "42nd street, 1234!!! ...",
    "İstanbul straße ΑΘΗΝΑ 猫と犬",
    "",
    "antidisestablishmentarianism " * 30,
]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(Path(refdiff.__file__).parent / "configs" / "tokenizer")


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_laid_along_the_text_agree_with_the_tokenizers_offsets(
    tokenizer: CLIPTokenizer, text: str
) -> None:
    found = prompt_chunks(tokenizer, text)
    pieces, spans = found.tokens, found.spans
    assert len(pieces) == len(spans) and len(pieces) in (77, 3 * 77)
    walked = piece_spans(text, pieces)
    for piece, span, found in zip(pieces, spans, walked, strict=True):
        assert (span is None) == (found is None), piece
        if span and found:
            assert span[0] == found[0] and text[span[1] : found[1]].strip("\u0301") == "", piece


def test_offsets_cover_the_words_themselves(tokenizer: CLIPTokenizer) -> None:
    text = "The  RED cat's Éclair, 🐱"
    words = [text[span[0] : span[1]] for span in prompt_chunks(tokenizer, text).spans if span]
    assert words == ["The", "RED", "cat", "'s", "É", "clair", ",", "🐱"]


def test_noise_is_the_seeds_alone() -> None:
    torch.manual_seed(1)
    first = noise(5, (1, 4, 8, 8))
    torch.manual_seed(2)
    assert torch.equal(first, noise(5, [1, 4, 8, 8])) and first.dtype == torch.float32
    assert not torch.equal(first, noise(6, (1, 4, 8, 8)))
    assert abs(noise(0, (100, 100)).std() - 1) < 0.05


def test_official_schedule_noises_one_step_above_its_label() -> None:
    assert official_calls() == (101, (51, 1))
    assert official_calls(1000, 50, 3) == (61, (41, 21, 1))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_ddim_step_with_the_right_answer_lands_on_the_right_noise(prediction: str) -> None:
    clean, added = noise(1, (1, 4, 2, 2)), noise(2, (1, 4, 2, 2))
    now, after = torch.tensor(0.3), torch.tensor(0.8)
    velocity = now.sqrt() * added - (1 - now).sqrt() * clean
    answer = {"epsilon": added, "sample": clean}.get(prediction, velocity)
    step = ddim_step(add_noise(clean, added, now), answer, now, after, prediction)
    assert torch.allclose(step, add_noise(clean, added, after), atol=1e-5)


def test_layers_are_named_by_their_stride_in_the_picture() -> None:
    strides = {"a": 8, "b": 32, "c": 16, "d": 32}
    assert choose_layers(strides, (32,)) == {"b": 32, "d": 32}
    assert choose_layers(strides, (64, 32, 16)) == {"b": 32, "c": 16, "d": 32}
    assert choose_layers(strides, None) == strides
    with pytest.raises(ValueError, match=r"strides is \(64,\).*1/32, 1/16, 1/8 of the picture"):
        choose_layers(strides, (64,))


@pytest.mark.parametrize("strides", [(), (0,), (32, -16)])
def test_strides_are_pixels(strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="strides is"):
        CaptureSettings(strides=strides)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (512, 512)), ((480, 640), (448, 576)), ((1, 1), (512, 512))],
)
def test_working_size_keeps_area_and_aspect(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert unet_size(size, 512, 64) == expected
    assert unet_size(size[::-1], 512, 64) == expected[::-1]


def test_a_picture_as_thin_as_a_line_stays_affordable() -> None:
    assert unet_size((1, 20_000), 512, 64) == (64, 4096)
    height, width = unet_size((200, 20_000), 512, 64)
    assert height * width <= 1.3 * 512 * 512


def test_padding_says_where_the_picture_lies() -> None:
    square, content = fit(Image.new("L", (300, 100), 255), 96, 8, pad=True)
    assert square.size == (96, 96) and square.mode == "RGB"
    assert content == (32 / 96, 0.0, 32 / 96, 1.0)
    assert square.getpixel((48, 48)) == (255, 255, 255)
    assert square.getpixel((48, 10)) == square.getpixel((48, 90)) == (0, 0, 0)
