"""A transformer with joint attention, read through the same `Reader` as every UNet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from refdiff.attention.capture import EncodedPicture
from refdiff.attention.diffusers import check_pipeline
from refdiff.attention.maps import AttentionRecorder, word_map
from refdiff.attention.reader import Reader
from refdiff.errors import ModelError

from .sd3 import COLUMNS, COLUMNS_T5, Sd3Backend, joint_recording, sd3_pipeline

BLOCKS = ("transformer_blocks.0", "transformer_blocks.1")
TEXT = "a red cat"


@pytest.fixture(scope="module", params=[None, "rms_norm"])
def pipe(request: pytest.FixtureRequest) -> Any:
    return sd3_pipeline(request.param)


@pytest.fixture
def shown() -> EncodedPicture:
    latent = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1))
    return EncodedPicture(latent, (64, 96))


def output(pipe: Any, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(rows, 16, 8, 12, generator=generator)
    text = torch.randn(rows, 101, 4096, generator=generator)
    pooled = torch.randn(rows, 64, generator=generator)
    with torch.no_grad():
        return pipe.transformer(sample, text, pooled, torch.tensor([300]), return_dict=False)[0]


def test_words_of_a_picture_through_the_whole_reader(pipe: Any, picture: Image.Image) -> None:
    reader = Reader(Sd3Backend(pipe))
    encoded = reader.encode(picture)
    maps = reader(encoded, TEXT)
    height, width = (side // 2 for side in encoded.latent.shape[-2:])
    assert maps.layers == BLOCKS and maps.strides == (16, 16)
    assert all(each.shape == (len(maps.tokens), height, width) for each in maps.maps)
    both = maps.columns(2, 5)  # CLIP's "red" and T5's
    assert [maps.tokens[column] for column in both] == ["red</w>", "▁red"]
    assert [maps.tokens[column] for column in maps.columns(6, 9)][-3:] == ["c", "a", "t"]
    assert word_map(maps, both).max() == 1


def test_a_map_is_the_share_in_the_joint_attention(pipe: Any, shown: EncodedPicture) -> None:
    """Worked out anew from what the attention is given, by the model's own projections."""
    given: list[dict[str, torch.Tensor]] = []
    attention = pipe.transformer.transformer_blocks[1].attn
    handle = attention.register_forward_pre_hook(
        lambda _m, _i, named: given.append(named), with_kwargs=True
    )
    with joint_recording(pipe.transformer, AttentionRecorder([]), (4, 6), stop=False):
        output(pipe, rows=1)
    handle.remove()
    recorder = AttentionRecorder(BLOCKS[1:])
    with joint_recording(pipe.transformer, recorder, (4, 6), stop=True):
        output(pipe, rows=1)
        raise AssertionError("the pass went on")
    places, words = given[0]["hidden_states"], given[0]["encoder_hidden_states"]

    def heads(values: torch.Tensor, norm: Any) -> torch.Tensor:
        split = values.unflatten(2, (attention.heads, -1)).transpose(1, 2)
        return split if norm is None else norm(split)

    with torch.no_grad():
        query = heads(attention.to_q(places), attention.norm_q)
        own = heads(attention.to_k(places), attention.norm_k)
        told = heads(attention.add_k_proj(words), attention.norm_added_k)
        weights = (query @ torch.cat([own, told], 2).mT / 64**0.5).softmax(-1).mean(1)
    expected = weights[:, :, 24:].mT.unflatten(2, (4, 6))
    assert torch.allclose(recorder.maps[BLOCKS[1]][:, :101], expected, atol=1e-6)


def test_the_output_stays_and_nothing_is_left(pipe: Any) -> None:
    plain, recorder = output(pipe), AttentionRecorder(BLOCKS)
    with joint_recording(pipe.transformer, recorder, (4, 6), stop=False):
        assert torch.equal(output(pipe), plain)
    assert recorder.done and not recorder.missing
    for maps in recorder.maps.values():
        assert torch.allclose(maps.sum(1), torch.ones(2, 4, 6), atol=1e-5)
    with (
        pytest.raises(KeyboardInterrupt),
        joint_recording(pipe.transformer, AttentionRecorder(BLOCKS), (4, 6), stop=False),
    ):
        raise KeyboardInterrupt
    assert not any(module._forward_hooks for module in pipe.transformer.modules())


def test_nothing_after_the_last_wanted_block_runs(pipe: Any) -> None:
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in pipe.transformer.named_modules()
    ]
    recorder = AttentionRecorder(BLOCKS[:1])
    with joint_recording(pipe.transformer, recorder, (4, 6), stop=True):
        output(pipe)
    for handle in handles:
        handle.remove()
    assert recorder.done and "transformer_blocks.0.attn.to_out.0" not in ran
    assert not any(name.startswith(("transformer_blocks.1", "proj_out")) for name in ran)


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": 2, "flip": True, "timesteps": (50, 300)},
        {"mode": "logits", "guidance": 3.0, "schedule": "official"},
    ],
)
def test_several_sentences_are_read_as_each_alone(
    pipe: Any, shown: EncodedPicture, changes: dict[str, Any]
) -> None:
    reader = Reader(Sd3Backend(pipe), **changes)
    prompts = [TEXT, "a dog", *(f"a {letter}" for letter in "bcdefghij")]
    together = reader.read(shown, prompts)
    for index in (0, 1, 10):
        alone = reader(shown, prompts[index])
        assert together[index].text == prompts[index] and together[index].spans == alone.spans
        assert all(
            torch.allclose(a, b, atol=1e-4)
            for a, b in zip(together[index].maps, alone.maps, strict=True)
        )


def test_columns_are_those_of_the_pipelines_own_text(pipe: Any) -> None:
    backend = Sd3Backend(pipe)
    words = backend.words(TEXT)
    assert len(words.spans) == backend.embed([TEXT], 0).states.shape[1] == COLUMNS + COLUMNS_T5
    ids = pipe.tokenizer_3(TEXT).input_ids
    assert list(words.tokens[COLUMNS:][: len(ids)]) == pipe.tokenizer_3.convert_ids_to_tokens(ids)


def test_not_offered_yet(pipe: Any) -> None:
    with pytest.raises(ModelError, match="no UNet2DConditionModel to read words from"):
        check_pipeline(pipe)
    with pytest.raises(ValueError, match="in every block; set queries='own'"):
        Reader(Sd3Backend(pipe), queries="first")
