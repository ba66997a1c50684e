"""Texts longer than one window of the text encoder, and learned words (textual inversion)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from refdiff.attention.capture import EncodedPicture
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.maps import word_map
from refdiff.attention.prompt_chunks import pack, prompt_chunks
from refdiff.attention.text_encoding import encode_texts
from refdiff.benchmark.random_models import TINY_TEXT, random_pipeline, random_unet
from refdiff.models.pipelines import CONFIGS

CATS = ("cat " * 75).strip()  # exactly one window


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    return random_pipeline(tiny=True)


@pytest.fixture(scope="module")
def xl() -> StableDiffusionXLPipeline:
    """SDXL's two text encoders, small, the second padded with "!" as the real one."""
    base = random_pipeline(tiny=True)
    torch.manual_seed(1)
    second = CLIPTextConfig.from_pretrained(CONFIGS / "sdxl", subfolder="text_encoder_2")
    second.update(TINY_TEXT)
    unet = {
        "block_out_channels": (32, 32, 32),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
        "sample_size": 16,
    }
    return StableDiffusionXLPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(second).eval(),
        tokenizer=base.tokenizer,
        tokenizer_2=CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer", pad_token="!"),
        unet=random_unet("sdxl", unet),
        scheduler=base.scheduler,
        add_watermarker=False,
    )


def official(pipe: Any, text: str, **changes: Any) -> tuple[torch.Tensor, Any]:
    """What the pipeline's own method makes of a text of one window."""
    with torch.no_grad():
        found = pipe.encode_prompt(
            text,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            **changes,
        )
    return found[0], found[2] if len(found) > 2 else None


def test_groups_are_packed_as_comfyui_packs_them() -> None:
    seven, eight = list("abcdefg"), list("ABCDEFGH")
    assert pack([], 10) == [[]]
    assert pack([seven, seven], 10) == [seven, seven]
    assert pack([seven, eight], 10) == [[*seven, "A", "B", "C"], list("DEFGH")]
    assert pack([eight, eight, ["x"], seven], 10) == [
        [*eight, "A", "B"], [*"CDEFGH", "x"], seven,
    ]  # fmt: skip
    assert pack([list(range(30))], 10) == [[*range(10)], [*range(10, 20)], [*range(20, 30)]]
    assert pack([seven], 5) == [list("abcde"), list("fg")]


@pytest.mark.parametrize("text", ["", "a red cat", "The dog's Éclair, 🐱 !!!", CATS])
def test_one_window_is_what_the_tokenizer_makes_of_it(
    xl: StableDiffusionXLPipeline, text: str
) -> None:
    for tokenizer in (xl.tokenizer, xl.tokenizer_2):
        found = prompt_chunks(tokenizer, text)
        padded = tokenizer(text, padding="max_length", max_length=77).input_ids
        assert found.ids == (tuple(padded),)
        assert found.tokens == tuple(tokenizer.convert_ids_to_tokens(padded))


def test_every_window_begins_and_ends_and_every_word_has_its_column(pipe: Any) -> None:
    text = CATS + " dog " + "bird " * 80 + "antidisestablishmentarianism"
    found = prompt_chunks(pipe.tokenizer, text)
    begin, end = pipe.tokenizer.bos_token_id, pipe.tokenizer.eos_token_id
    assert [len(row) for row in found.ids] == [77, 77, 77]
    assert all(row[0] == begin for row in found.ids)
    assert found.ids[0][76] == found.ids[1][76] == end
    assert found.tokens[77 + 1] == "dog</w>"
    assert found.spans[77 + 1] == (text.index("dog"), text.index("dog") + 3)
    assert found.spans[76] is None and found.spans[77] is None
    last, span = [(index, span) for index, span in enumerate(found.spans) if span][-1]
    assert last // 77 == 2 and span[1] == len(text)


def test_a_short_text_is_encoded_as_the_pipeline_does(pipe: Any, xl: Any) -> None:
    for each in (pipe, xl):
        text = encode_texts(each, ["a red cat", ""])
        for row, prompt in enumerate(["a red cat", ""]):
            states, pooled = official(each, prompt)
            assert torch.allclose(text.states[row], states[0], atol=1e-6)
            assert pooled is None or torch.allclose(text.pooled[row], pooled[0], atol=1e-6)
    assert text.states.shape == (2, 77, 64)


def test_a_long_text_is_its_windows_side_by_side(pipe: Any, xl: Any) -> None:
    for each in (pipe, xl):
        text = encode_texts(each, [CATS + " a dog", "tree"])
        assert text.states.shape[1] == 2 * 77
        (cats, pooled), (dog, _) = official(each, CATS), official(each, "a dog")
        assert torch.allclose(text.states[0], torch.cat([cats, dog], 1)[0], atol=1e-6)
        filled = torch.cat([official(each, "tree")[0], official(each, "")[0]], 1)
        assert torch.allclose(text.states[1], filled[0], atol=1e-6)
        assert pooled is None or torch.allclose(text.pooled[0], pooled[0], atol=1e-6)


def test_clip_skip_leaves_the_last_layers_out(pipe: Any, xl: Any) -> None:
    expected, _ = official(xl, "a red cat", clip_skip=1)
    found = encode_texts(xl, ["a red cat"], clip_skip=1)
    assert torch.allclose(found.states, expected, atol=1e-6)
    encoder = pipe.text_encoder
    ids = torch.tensor(prompt_chunks(pipe.tokenizer, "a red cat").ids)
    with torch.no_grad():
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
        expected = getattr(encoder, "text_model", encoder).final_layer_norm(hidden)
        found = encode_texts(pipe, ["a red cat"], clip_skip=1)
    assert torch.allclose(found.states, expected, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"mode": "logits", "guidance": 5.0}])
def test_words_of_every_window_are_read(pipe: Any, xl: Any, changes: Any) -> None:
    text = CATS + " a red dog"
    picture = EncodedPicture(torch.randn(1, 4, 4, 8), (32, 64))
    for each in (pipe, xl):
        capture = DiffusersCapture(each, **changes)
        maps = capture(picture, text)
        dog = maps.columns(text.index("dog"), len(text))
        assert dog == (77,) and maps.tokens[77] == "dog</w>" and len(maps.maps[0]) == 78
        assert 0 < word_map(maps, dog).max() <= 1
        both = capture.read(picture, ["a dog", text])
        short = capture(picture, "a dog")
        assert all(
            torch.allclose(a, b, atol=1e-4) for a, b in zip(both[0].maps, short.maps, strict=True)
        )
        assert all(
            torch.allclose(a, b, atol=1e-4) for a, b in zip(both[1].maps, maps.maps, strict=True)
        )


def test_learned_words_cover_all_their_vectors(pipe: Any) -> None:
    picture = EncodedPicture(torch.randn(1, 4, 4, 8), (32, 64))
    pipe.load_textual_inversion(torch.randn(1, 32), token="<one>")
    pipe.load_textual_inversion(torch.randn(3, 32), token="<three>")
    text = "a <three> cat, <one> <three>"
    found = prompt_chunks(pipe.tokenizer, text)
    expected, _ = official(pipe, text)
    assert torch.equal(encode_texts(pipe, [text]).states, expected)
    maps = DiffusersCapture(pipe)(picture, text)
    assert maps.columns(2, 9) == (1, 2, 3) and maps.columns(10, 13) == (4,)
    assert maps.columns(15, 20) == (6,) and maps.columns(21, 28) == (7, 8, 9)
    assert found.tokens[2:5] == ("<three>", "<three>_1", "<three>_2")


def test_a_learned_word_is_not_cut_at_the_end_of_a_window(pipe: Any) -> None:
    pipe.load_textual_inversion(torch.randn(3, 32), token="<three>")
    text = "cat " * 73 + "<three> dog"
    found = prompt_chunks(pipe.tokenizer, text)
    assert found.tokens[73:78] == ("cat</w>",) + ("<|endoftext|>",) * 3 + ("<|startoftext|>",)
    assert found.tokens[78:82] == ("<three>", "<three>_1", "<three>_2", "dog</w>")


def test_learned_words_of_sdxl(xl: Any) -> None:
    picture = EncodedPicture(torch.randn(1, 4, 4, 8), (32, 64))
    vectors = torch.randn(2, 32)
    for tokenizer, encoder in (
        (xl.tokenizer, xl.text_encoder), (xl.tokenizer_2, xl.text_encoder_2),
    ):  # fmt: skip
        xl.load_textual_inversion(vectors, token="<two>", text_encoder=encoder, tokenizer=tokenizer)
    expected, pooled = official(xl, "a <two> cat")
    found = encode_texts(xl, ["a <two> cat"])
    assert torch.allclose(found.states, expected, atol=1e-6)
    assert torch.allclose(found.pooled, pooled, atol=1e-6)
    maps = DiffusersCapture(xl)(picture, "a <two> cat")
    assert maps.columns(2, 7) == (1, 2) and maps.columns(8, 11) == (3,)
