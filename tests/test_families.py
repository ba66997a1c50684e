"""Every family's own layout: at reduced width by default, at its true width with `-m full`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from refdiff.attention.capture import CaptureSettings, EncodedPicture
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.hooks import layer_table, recording
from refdiff.attention.maps import AttentionRecorder
from refdiff.benchmark.random_models import TINY_TEXT, random_pipeline, random_unet
from refdiff.models.pipelines import CONFIGS

FAMILIES = ["sd1", "sd2", "sdxl"]
SD_STRIDES = [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]
XL_STRIDES = [2] * 4 + [4] * 20 + [4] * 10 + [4] * 30 + [2] * 6


def narrow(family: str) -> dict[str, Any]:
    """A family's layout with 32 and 64 channels instead of its own."""
    changes: dict[str, Any] = {"attention_head_dim": 4, "cross_attention_dim": 32}
    if family != "sdxl":
        return {**changes, "block_out_channels": (32, 32, 64, 64), "sample_size": 16}
    return {
        "attention_head_dim": 4,
        "block_out_channels": (32, 32, 64),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
        "sample_size": 16,
    }


def build(family: str, inpaint: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """A pipeline of a family's true layout and scheduler, of little width."""
    base, changes = random_pipeline(tiny=True), narrow(family)
    changes |= {"in_channels": 9} if inpaint else {}
    parts: dict[str, Any] = {
        "vae": base.vae,
        "unet": random_unet(family, changes),
        "scheduler": DDIMScheduler.from_pretrained(CONFIGS / family, subfolder="scheduler"),
    }
    tokenizer = CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer", pad_token="!")
    torch.manual_seed(1)
    if family == "sdxl":
        second = CLIPTextConfig.from_pretrained(CONFIGS / family, subfolder="text_encoder_2")
        second.update(TINY_TEXT)
        kind: Any = StableDiffusionXLInpaintPipeline if inpaint else StableDiffusionXLPipeline
        pipe = kind(
            text_encoder=base.text_encoder,
            text_encoder_2=CLIPTextModelWithProjection(second).eval(),
            tokenizer=base.tokenizer,
            tokenizer_2=tokenizer,
            add_watermarker=False,
            **parts,
        )
        return pipe.to(dtype)
    text = CLIPTextConfig.from_pretrained(CONFIGS / family, subfolder="text_encoder")
    text.update(TINY_TEXT)
    kind = StableDiffusionInpaintPipeline if inpaint else StableDiffusionPipeline
    pipe = kind(
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=base.tokenizer if family == "sd1" else tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
    return pipe.to(dtype)


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {family: build(family) for family in FAMILIES}


def picture(height: int, width: int, seed: int = 0) -> EncodedPicture:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 4, height, width, generator=generator)
    return EncodedPicture(latent, (8 * height, 8 * width))


def answer(pipe: Any, latent: tuple[int, int], rows: int = 2) -> torch.Tensor:
    """One pass of the UNet itself."""
    generator, unet = torch.Generator().manual_seed(2), pipe.unet
    width = unet.config.cross_attention_dim
    sample = torch.randn(rows, unet.config.in_channels, *latent, generator=generator)
    text = torch.randn(rows, 77, width, generator=generator)
    pooled = unet.config.projection_class_embeddings_input_dim or 48
    pooled -= 6 * (unet.config.addition_time_embed_dim or 8)
    added = {"text_embeds": torch.ones(rows, pooled), "time_ids": torch.ones(rows, 6)}
    added = {name: value.to(unet.dtype) for name, value in added.items()}
    with torch.no_grad():
        return unet(
            sample.to(unet.dtype),
            100,
            text.to(unet.dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_tables(family: str, pipes: dict[str, Any]) -> None:
    config = UNet2DConditionModel.load_config(str(CONFIGS / family), subfolder="unet")
    with torch.device("meta"):
        table = layer_table(UNet2DConditionModel.from_config(config))
    assert table == layer_table(pipes[family].unet)
    strides = [stride for _, stride in table]
    assert strides == (XL_STRIDES if family == "sdxl" else SD_STRIDES)
    middle = [name for name, _ in table if name.startswith("mid_block.attentions.0")]
    assert len(middle) == (10 if family == "sdxl" else 1)
    assert all(name.endswith("attn2") for name, _ in table)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("latent", [(8, 8), (9, 7), (3, 14)])
def test_every_layer_is_seen_and_the_answer_stays(
    pipes: dict[str, Any], family: str, latent: tuple[int, int]
) -> None:
    pipe = pipes[family]
    plain, table = answer(pipe, latent), layer_table(pipe.unet)
    recorder = AttentionRecorder([name for name, _ in table])
    with recording(pipe.unet, recorder, latent):
        watched = answer(pipe, latent)
    assert torch.equal(plain, watched)
    assert list(recorder.maps) == [name for name, _ in table]
    for name, stride in table:
        maps = recorder.maps[name]
        assert maps.shape == (2, 77, -(-latent[0] // stride), -(-latent[1] // stride))
        assert torch.allclose(maps.sum(1), torch.ones_like(maps[:, 0]), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_and_sentences_in_one_batch(pipes: dict[str, Any], family: str) -> None:
    capture = DiffusersCapture(pipes[family], strides=(32,))
    pictures = [picture(8, 16), picture(8, 16, seed=1)]
    prompts = [["a red cat", "tree"], ["the dog on the left"]]
    found = capture.read_batch(pictures, prompts)
    for own, texts, each in zip(found, prompts, pictures, strict=True):
        for maps, text in zip(own, texts, strict=True):
            alone = capture(each, text)
            assert maps.text == text and maps.spans == alone.spans
            for a, b in zip(maps.maps, alone.maps, strict=True):
                assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_finite_float32_logits(family: str, dtype: torch.dtype) -> None:
    pipe = build(family, dtype=dtype)
    for queries in ("own", "first"):
        capture = DiffusersCapture(pipe, mode="logits", queries=queries)
        for maps in capture.read(picture(8, 8), ["a cat", "a dog"]):
            assert all(m.dtype == torch.float32 and torch.isfinite(m).all() for m in maps.maps)


@pytest.mark.parametrize("family", FAMILIES)
def test_inpainting_is_told_that_nothing_is_hidden(family: str) -> None:
    pipe, shown = build(family, inpaint=True), picture(8, 8)
    seen: list[torch.Tensor] = []
    pipe.unet.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    DiffusersCapture(pipe, strides=(32,), flip=True).read(shown, ["cat", "dog"])
    assert seen[0].shape[:2] == (4, 9) and (seen[0][:, 4] == 0).all()
    assert torch.equal(seen[0][1:2, 5:], shown.latent)
    assert torch.equal(seen[0][3:, 5:], shown.latent.flip(-1))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_official_schedule_steps_as_the_scheduler_does(
    pipes: dict[str, Any], prediction: str
) -> None:
    pipe, shown = pipes["sd2"], picture(8, 8)
    changes = {"prediction_type": prediction, "clip_sample": False, "steps_offset": 1}
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **changes)
    scheduler.set_timesteps(20)
    inputs: list[torch.Tensor] = []
    answers: list[torch.Tensor] = []
    own, pipe.scheduler = pipe.scheduler, scheduler
    handles = [
        pipe.unet.register_forward_pre_hook(lambda _, given: inputs.append(given[0])),
        pipe.unet.register_forward_hook(lambda _m, _i, output: answers.append(output[0])),
    ]
    settings = CaptureSettings(mode="logits", guidance=3.0, schedule="official")
    DiffusersCapture(pipe, settings)(shown, "a cat")
    pipe.scheduler = own
    for handle in handles:
        handle.remove()
    uncond, cond = answers[0].chunk(2)
    guided = uncond + 3.0 * (cond - uncond)
    expected = scheduler.step(guided, 51, inputs[0][:1]).prev_sample
    assert len(inputs) == 2 and torch.allclose(inputs[1][:1], expected, atol=1e-4)


def test_sdxl_is_told_the_pictures_size(pipes: dict[str, Any]) -> None:
    pipe = pipes["sdxl"]
    seen: list[dict[str, torch.Tensor]] = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda _m, _i, named: seen.append(named["added_cond_kwargs"]), with_kwargs=True
    )
    DiffusersCapture(pipe, strides=(32,)).read(picture(8, 16), ["a cat", "a dog"])
    handle.remove()
    assert seen[0]["time_ids"].tolist() == [[64, 128, 0, 0, 64, 128]] * 2
    pooled = [
        pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)[2][0]
        for text in ("a cat", "a dog")
    ]
    assert torch.allclose(seen[0]["text_embeds"], torch.stack(pooled), atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "dtype"),
    [("sd1", torch.float32), ("sd2", torch.bfloat16), ("sdxl", torch.bfloat16)],
)
def test_true_width(family: str, dtype: torch.dtype) -> None:
    narrow_one = build(family)
    narrow_one.unet = unet = random_unet(family, dtype=dtype)
    plain, table = answer(narrow_one, (8, 16), rows=1), layer_table(unet)
    recorder = AttentionRecorder([name for name, _ in table], "logits")
    with recording(unet, recorder, (8, 16)):
        assert torch.equal(answer(narrow_one, (8, 16), rows=1), plain)
    assert len(recorder.maps) == (70 if family == "sdxl" else 16)
    assert all(torch.isfinite(maps).all() for maps in recorder.maps.values())
    assert all(maps.dtype == torch.float32 for maps in recorder.maps.values())
