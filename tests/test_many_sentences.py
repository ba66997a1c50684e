"""Several sentences and pictures in one pass, and sentences asked of a pass's kept queries."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from refdiff.attention.capture import CaptureSettings, EncodedPicture
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.maps import AttentionRecorder, TokenMaps, attention_maps
from refdiff.attention.prompt_chunks import prompt_chunks

LONG = "a very " * 40 + "red cat"


@contextmanager
def outputs(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Everything a module answers while the block runs."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    yield seen
    handle.remove()


@contextmanager
def passes(unet: torch.nn.Module) -> Iterator[list[int]]:
    """The rows of every pass of the UNet while the block runs."""
    rows: list[int] = []
    handle = unet.register_forward_pre_hook(lambda _m, inputs: rows.append(len(inputs[0])))
    yield rows
    handle.remove()


def recorders() -> int:
    """How many recorders are alive; each may hold queries."""
    return sum(isinstance(each, AttentionRecorder) for each in gc.get_objects())


def same(a: TokenMaps, b: TokenMaps, atol: float = 1e-6) -> bool:
    close = (torch.allclose(x, y, atol=atol) for x, y in zip(a.maps, b.maps, strict=True))
    return a.layers == b.layers and a.spans == b.spans and a.text == b.text and all(close)


@pytest.fixture
def pictures() -> list[EncodedPicture]:
    generator = torch.Generator().manual_seed(3)

    def latent(height: int, width: int) -> EncodedPicture:
        values = torch.randn(1, 4, height, width, generator=generator)
        return EncodedPicture(values, (height * 8, width * 8))

    return [latent(8, 8), latent(8, 8), latent(5, 13), latent(2, 4)]


def test_pictures_times_sentences_are_read_as_each_alone(
    tiny_pipe: Any, pictures: list[EncodedPicture]
) -> None:
    capture = DiffusersCapture(tiny_pipe, strides=(32, 16))
    prompts = [["a cat", LONG, "a dog"], ["tree"], ["sky", "a cat"], []]
    with passes(tiny_pipe.unet) as rows:
        together = capture.read_batch(pictures, prompts)
    assert sorted(rows) == [1, 2, 3]  # 5 x 13; the long one; the first two pictures' short ones
    for picture, own, found in zip(pictures, prompts, together, strict=True):
        for prompt, maps in zip(own, found, strict=True):
            assert same(maps, capture(picture, prompt), 1e-5)
    assert capture(pictures[3], "cat").maps[0].shape == (1, 1, 2)


def test_many_sentences_take_calls_of_bounded_size(
    tiny_pipe: Any, pictures: list[EncodedPicture]
) -> None:
    capture = DiffusersCapture(tiny_pipe, strides=(32,), mode="logits", guidance=2.0)
    prompts = [f"cat {number}" for number in range(11)]
    with passes(tiny_pipe.unet) as rows:
        found = capture.read(pictures[0], prompts)
    assert rows == [8, 8, 6]
    assert [maps.text for maps in found] == prompts
    assert same(found[9], capture(pictures[0], "cat 9"), 1e-4)


@pytest.mark.parametrize("sentence", ["the dog on the left", LONG])
def test_kept_queries_meet_the_new_sentences_own_keys(
    tiny_pipe: Any, pictures: list[EncodedPicture], sentence: str
) -> None:
    kept, own = DiffusersCapture(tiny_pipe, queries="first"), DiffusersCapture(tiny_pipe)
    layer = kept.layers[-1]
    attention = tiny_pipe.unet.get_submodule(layer)
    with outputs(attention.to_q) as queries, passes(tiny_pipe.unet) as rows:
        first = kept(pictures[2], "a red cat")
        second = kept(pictures[2], sentence)
    assert len(queries) == 1 and rows == [1]
    with outputs(attention.to_k) as keys:
        alone = own(pictures[2], sentence)
    assert same(first, own(pictures[2], "a red cat"))
    grid = (second.maps[-1].shape[1], second.maps[-1].shape[2])
    every = attention_maps(queries[0], keys[0], attention.heads, grid)[0]
    told = [i for i, span in enumerate(prompt_chunks(tiny_pipe.tokenizer, sentence).spans) if span]
    assert torch.allclose(second.maps[-1], every[told], atol=1e-6)
    assert second.spans == alone.spans and not same(second, alone)


def test_it_does_not_matter_in_how_many_readings(
    tiny_pipe: Any, pictures: list[EncodedPicture]
) -> None:
    prompts = ["a red cat", LONG, "tree"]
    together = DiffusersCapture(tiny_pipe, queries="first").read(pictures[0], prompts)
    one_by_one = DiffusersCapture(tiny_pipe, queries="first")
    for prompt, maps in zip(prompts, together, strict=True):
        assert same(maps, one_by_one(pictures[0], prompt))
    assert len(together[1].tokens) == len(together[1].maps[0]) > 75
    first_long = DiffusersCapture(tiny_pipe, queries="first").read(pictures[0], [LONG, "tree"])
    assert same(first_long[0], DiffusersCapture(tiny_pipe)(pictures[0], LONG), 1e-5)


def test_queries_of_an_empty_sentence_do_not_depend_on_the_order(
    tiny_pipe: Any, pictures: list[EncodedPicture]
) -> None:
    def read(queries: Any, prompts: list[str]) -> TokenMaps:
        capture = DiffusersCapture(tiny_pipe, queries=queries)
        return [capture(pictures[0], prompt) for prompt in prompts][-1]

    assert same(read("empty", ["tree"]), read("empty", ["a red cat", "tree"]))
    assert not same(read("first", ["tree"]), read("first", ["a red cat", "tree"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "logits", "guidance": 4.0},
        {"mode": "logits", "guidance": 4.0, "schedule": "official"},
        {"seeds": 2, "flip": True},
        {"mode": "logits", "guidance": 4.0, "timesteps": (50, 300)},
        {"layers": "down", "clip_skip": 1},
    ],
)
def test_the_first_sentence_is_read_as_without_keeping(
    tiny_pipe: Any, pictures: list[EncodedPicture], changes: dict[str, Any]
) -> None:
    own, kept = (
        DiffusersCapture(tiny_pipe, CaptureSettings(queries=queries, **changes))
        for queries in ("own", "first")
    )
    assert same(own(pictures[2], "a red cat"), kept(pictures[2], "a red cat"), 1e-4)
    assert not same(own(pictures[2], "tree"), kept(pictures[2], "tree"), 1e-7)


def test_kept_queries_are_the_pictures_and_go_with_it(tiny_pipe: Any, picture: Image.Image) -> None:
    capture = DiffusersCapture(tiny_pipe, queries="first")
    encoded = [capture.encode(picture), capture.encode(picture.rotate(90))]
    with passes(tiny_pipe.unet) as rows:
        capture.read_batch(encoded, [["cat", "dog"], ["tree"]])
        capture.read_batch(encoded, [["sky"], ["cat", "dog"]])
    assert rows == [1, 1]
    assert same(capture(encoded[1], "tree"), DiffusersCapture(tiny_pipe)(encoded[1], "tree"), 1e-5)
    before = recorders()
    encoded.pop()
    gc.collect()
    assert before - recorders() == 1


def test_choices_are_checked() -> None:
    with pytest.raises(ValueError, match="queries is 'last'; choose one of own, first, empty"):
        CaptureSettings(queries="last")  # type: ignore[arg-type]
