"""The capture on real diffusers classes of small width, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor
from PIL import Image
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

import refdiff
from refdiff.attention.capture import CaptureSettings
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.hooks import layer_table, recording
from refdiff.attention.maps import AttentionRecorder, attention_maps, word_map
from refdiff.errors import HeatError, ModelError

CONFIGS = Path(refdiff.__file__).parent / "configs"
CROSS = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")


def text_encoder(kind: type = CLIPTextModel, width: int = 32) -> Any:
    return kind(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=width,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    ).eval()


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
    ).eval()


def tiny_unet(**changes: Any) -> UNet2DConditionModel:
    shape: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (32, 64, 64),
        "down_block_types": CROSS,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**(shape | changes)).eval()


def scheduler(**changes: Any) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **changes,
    )


def build(kind: type = StableDiffusionPipeline, **unet: Any) -> Any:
    torch.manual_seed(0)
    return kind(
        vae=tiny_vae(),
        text_encoder=text_encoder(),
        tokenizer=CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer"),
        unet=tiny_unet(**unet),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_xl() -> Any:
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer")
    unet = tiny_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        add_watermarker=False,
    )


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (48, 96, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def run(unet: UNet2DConditionModel, latent: tuple[int, int]) -> torch.Tensor:
    torch.manual_seed(2)
    sample, text = torch.randn(2, 4, *latent), torch.randn(2, 77, 32)
    with torch.no_grad():
        return unet(sample, 100, text, return_dict=False)[0]


@pytest.mark.parametrize("latent", [(8, 8), (8, 16), (9, 7), (5, 13), (1, 1)])
def test_recording_leaves_the_answer_bit_identical(pipe: Any, latent: tuple[int, int]) -> None:
    plain = run(pipe.unet, latent)
    recorder = AttentionRecorder([name for name, _ in layer_table(pipe.unet)])
    with recording(pipe.unet, recorder, latent):
        watched = run(pipe.unet, latent)
    assert torch.equal(plain, watched)
    assert recorder.done
    for name, stride in layer_table(pipe.unet):
        grid = tuple(-(-side // stride) for side in latent)
        assert recorder.maps[name].shape == (2, 77, *grid)


def test_the_maps_are_the_softmax_the_model_itself_computes(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
    attention = pipe.unet.get_submodule(name)
    scores, seen = attention.get_attention_scores, []

    def overheard(*inputs: Any) -> torch.Tensor:
        seen.append(scores(*inputs))
        return seen[-1]

    monkeypatch.setattr(attention, "get_attention_scores", overheard)
    monkeypatch.setattr(attention, "processor", AttnProcessor())
    recorder = AttentionRecorder([name])
    with recording(pipe.unet, recorder, (6, 4)):
        run(pipe.unet, (6, 4))
    expected = seen[0].unflatten(0, (2, -1)).mean(1).mT.unflatten(2, (6, 4))
    assert torch.allclose(recorder.maps[name], expected, atol=1e-6)
    assert torch.allclose(recorder.maps[name].sum(1), torch.ones(2, 6, 4), atol=1e-5)


class WeightedProcessor(nn.Module):
    """A processor with weights of its own, which diffusers keeps as a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.weight = AttnProcessor(), nn.Parameter(torch.ones(1))

    def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        return self.inner(attn, hidden_states, *args, **kwargs) * self.weight


@pytest.mark.parametrize("kind", ["plain", "sliced", "fused", "weighted"])
def test_any_processor_is_seen_through(pipe: Any, picture: Image.Image, kind: str) -> None:
    expected = DiffusersCapture(pipe)(picture, "a red cat")
    other = build()
    if kind == "fused":
        other.unet.fuse_qkv_projections()
    else:
        makers = {"plain": AttnProcessor, "weighted": WeightedProcessor}
        make = makers.get(kind, lambda: SlicedAttnProcessor(1))
        other.unet.set_attn_processor({name: make() for name in other.unet.attn_processors})
    plain, before = run(other.unet, (8, 8)), other.unet.attn_processors
    found = DiffusersCapture(other)(picture, "a red cat")
    for a, b in zip(found.maps, expected.maps, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert all(other.unet.attn_processors[name] is kept for name, kept in before.items())
    assert torch.equal(plain, run(other.unet, (8, 8)))


def test_the_pipe_is_as_it_was_even_after_an_exception(pipe: Any) -> None:
    before = pipe.unet.attn_processors
    weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    plain = run(pipe.unet, (8, 8))
    with pytest.raises(KeyboardInterrupt), recording(pipe.unet, AttentionRecorder([]), (8, 8)):
        raise KeyboardInterrupt
    recorder = AttentionRecorder(lambda name, grid: True)
    with pytest.raises(ModelError, match="places"), recording(pipe.unet, recorder, (8, 4)):
        run(pipe.unet, (8, 8))
    after = pipe.unet.attn_processors
    assert all(after[name] is processor for name, processor in before.items())
    assert not any(module._forward_hooks for module in pipe.unet.modules())
    assert all(torch.equal(value, weights[n]) for n, value in pipe.unet.state_dict().items())
    assert torch.equal(plain, run(pipe.unet, (8, 8)))


def test_a_compiled_unet_is_seen_through() -> None:
    unet = build().unet
    unet.compile(backend="eager")
    plain = run(unet, (8, 8))
    recorder = AttentionRecorder([name for name, _ in layer_table(unet)])
    with recording(unet, recorder, (8, 8)):
        watched = run(unet, (8, 8))
    assert recorder.done and torch.equal(plain, watched)


@pytest.mark.parametrize("fused", [False, True])
def test_what_the_places_ask_each_other_is_seen_too(fused: bool) -> None:
    unet = build().unet
    layers = [name for name, _ in layer_table(unet)]
    plain, words = run(unet, (6, 8)), AttentionRecorder(layers)
    with recording(unet, words, (6, 8)):
        run(unet, (6, 8))
    attention = unet.get_submodule(layers[0].removesuffix("attn2") + "attn1")
    given: list[torch.Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    if fused:
        unet.fuse_qkv_projections()
    recorder = AttentionRecorder(layers, places=layers)
    with recording(unet, recorder, (6, 8), stop=True):
        run(unet, (6, 8))
    handle.remove()
    assert list(recorder.places) == layers and not words.places
    for name in layers:
        assert torch.allclose(recorder.maps[name], words.maps[name], atol=1e-5)
        height, width = recorder.maps[name].shape[2:]
        *both, _, grid = recorder.places[name]
        assert grid == (height, width)
        assert {one.shape[:2] for one in both} == {(2, height * width)}
    with torch.no_grad():
        query, key = attention.to_q(given[0]), attention.to_k(given[0])
    expected = attention_maps(query, key, attention.heads, (6, 8))
    assert torch.allclose(attention_maps(*recorder.places[layers[0]]), expected, atol=1e-5)
    assert torch.allclose(run(unet, (6, 8)), plain, atol=1e-5)


def test_own_aspect_at_the_strides_that_are_asked_for(pipe: Any, picture: Image.Image) -> None:
    maps = DiffusersCapture(pipe, strides=(32, 16))(picture, "a red cat")
    assert set(maps.strides) == {32, 16} and len(maps.strides) == len(maps.maps)
    assert {tuple(m.shape) for m in maps.maps} == {(3, 3, 6), (3, 6, 12)}
    assert maps.tokens == ("a</w>", "red</w>", "cat</w>")
    assert maps.spans == ((0, 1), (2, 5), (6, 9))
    assert maps.content is None
    heat = word_map(maps, maps.columns(6, 9), size=(48, 96))
    assert heat.shape == (48, 96) and heat.min() == 0 and 0 < heat.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (10, 100), (100, 10), (200, 3)])
def test_pictures_of_every_shape_keep_the_native_area(pipe: Any, size: tuple[int, int]) -> None:
    capture = DiffusersCapture(pipe)
    height, width = capture.encode(Image.new("RGB", size[::-1], "red")).latent.shape[-2:]
    assert height % 4 == 0 and width % 4 == 0
    assert 0.5 <= height * width / 16**2 <= 2
    assert (height > width) == (size[0] > size[1])
    maps = capture(Image.new("RGB", size[::-1], "red"), "cat")
    assert all(torch.isfinite(m).all() for m in maps.maps)


def test_the_latent_is_the_scaled_mean_of_the_posterior(pipe: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (128, 128, 3), generator=generator, dtype=torch.uint8)
    encoded = DiffusersCapture(pipe).encode(Image.fromarray(pixels.numpy()))
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1).latent_dist
    assert torch.allclose(encoded.latent, posterior.mean * 0.18215, atol=1e-5)
    assert encoded.size == (128, 128)


def test_several_sentences_are_read_as_each_alone(pipe: Any, picture: Image.Image) -> None:
    capture = DiffusersCapture(pipe, strides=None)
    encoded = capture.encode(picture)
    prompts = ["a red cat", "the dog on the left", "tree"]
    for prompt, together in zip(prompts, capture.read(encoded, prompts), strict=True):
        alone = capture(encoded, prompt)
        assert together.text == prompt and together.spans == alone.spans
        for a, b in zip(together.maps, alone.maps, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
            assert 0 < a.min() and a.sum(0).max() < 1  # begin, end and padding have the rest
    assert capture.read(encoded, []) == []


def test_the_seed_decides_the_noise(pipe: Any, picture: Image.Image) -> None:
    def maps(**settings: Any) -> torch.Tensor:
        return DiffusersCapture(pipe, strides=(32,), **settings)(picture, "cat").maps[0]

    torch.manual_seed(7)
    first = maps(seed=3)
    torch.manual_seed(8)
    assert torch.equal(first, maps(seed=3))
    assert not torch.equal(first, maps(seed=4))
    assert not torch.equal(first, maps(seed=3, timestep=400))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_float32_maps(picture: Image.Image, dtype: torch.dtype) -> None:
    pipe = build().to(dtype=dtype)
    for mode in ("probabilities", "logits", "log_probabilities"):
        maps = DiffusersCapture(pipe, mode=mode)(picture, "a cat")
        assert all(m.dtype == torch.float32 and torch.isfinite(m).all() for m in maps.maps)
    assert pipe.vae.dtype == pipe.unet.dtype == dtype
    broken = DiffusersCapture(pipe)
    pipe.unet.conv_in.weight.data.fill_(float("nan"))
    with pytest.raises(HeatError):
        word_map(broken(picture, "cat"), [0])


def test_layer_table_of_sd1_and_sdxl_layouts() -> None:
    sd1 = tiny_unet(
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    table = layer_table(sd1)
    strides = [stride for _, stride in table]
    assert strides == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert table[6][0] == "mid_block.attentions.0.transformer_blocks.0.attn2"
    assert DiffusersCapture(
        build(
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        ),
        strides=(32,),
    ).layers == tuple(name for name, stride in table if stride == 4)
    xl = tiny_unet(
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
    )
    strides = [stride for _, stride in layer_table(xl)]
    assert len(strides) == 70 and strides.count(4) == 60 and strides.count(2) == 10


def test_inpainting_unet_is_told_that_nothing_is_hidden(picture: Image.Image) -> None:
    pipe = build(StableDiffusionInpaintPipeline, in_channels=9)
    seen: list[torch.Tensor] = []
    pipe.unet.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    capture = DiffusersCapture(pipe)
    encoded = capture.encode(picture)
    capture.read(encoded, ["cat", "dog"])
    assert seen[0].shape[:2] == (2, 9)
    assert (seen[0][:, 4] == 0).all()
    assert torch.equal(seen[0][1:, 5:], encoded.latent)


def test_sdxl(picture: Image.Image) -> None:
    pipe = build_xl()
    capture = DiffusersCapture(pipe)
    encoded = capture.encode(picture)
    together = capture.read(encoded, ["a cat", "a dog"])
    alone = capture(encoded, "a dog")
    assert len(alone.maps) == len(layer_table(pipe.unet)) == 11
    assert all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(together[1].maps, alone.maps, strict=True)
    )


def test_official_schedule(pipe: Any, picture: Image.Image) -> None:
    calls: list[tuple[int, int]] = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda _, inputs: calls.append((inputs[1].tolist(), inputs[0].shape[0]))
    )
    capture = DiffusersCapture(pipe, CaptureSettings.official())
    maps = capture(picture, "a red cat")
    handle.remove()
    assert calls == [([51, 51], 2), ([1, 1], 2)]
    per_call = len(capture.layers)
    assert len(maps.maps) == 2 * per_call
    assert maps.layers[0].endswith("@51") and maps.layers[-1].endswith("@1")
    assert maps.content == (0.25, 0.0, 0.5, 1.0)
    assert maps.spans[2:] == ((6, 9),) and ",</w>" not in maps.tokens
    assert set(maps.strides) == {32} and all(m.shape == (3, 8, 8) for m in maps.maps)
    heat = word_map(maps, maps.columns(6, 9))
    assert heat.shape == (4, 8)


def test_the_same_pipe_under_other_settings(pipe: Any) -> None:
    capture = DiffusersCapture(pipe, seed=3)
    assert capture.using(CaptureSettings(seed=3)) is capture
    other = capture.using(CaptureSettings.official())
    assert other.backend is capture.backend and other.settings.schedule == "official"
    assert set(other.layers) < set(capture.layers)


def test_guidance_is_a_difference_of_two_readings(pipe: Any, picture: Image.Image) -> None:
    guided = DiffusersCapture(pipe, mode="logits", guidance=9.0)(picture, "cat")
    cond = DiffusersCapture(pipe, mode="logits")(picture, "cat")
    uncond = DiffusersCapture(pipe, mode="logits")(picture, "")
    for g, c, u in zip(guided.maps, cond.maps, uncond.maps, strict=True):
        assert torch.allclose(g, 9 * c - 8 * u, atol=1e-4)


def test_padding_is_cut_off(pipe: Any, picture: Image.Image) -> None:
    capture = DiffusersCapture(pipe, pad=True, strides=(32, 16))
    encoded = capture.encode(picture)
    assert encoded.latent.shape[-2:] == (16, 16)
    assert encoded.content == (0.25, 0.0, 0.5, 1.0)
    maps = capture(encoded, "cat")
    assert word_map(maps, [0]).shape == (4, 8)


def test_what_is_no_stable_diffusion_is_refused(pipe: Any) -> None:
    class NoUnet:
        transformer = nn.Linear(1, 1)

    with pytest.raises(ModelError, match="NoUnet"):
        DiffusersCapture(NoUnet())
    with pytest.raises(ModelError, match="8 channels"):
        DiffusersCapture(build(in_channels=8))
    with pytest.raises(ModelError, match="FlowMatch"):
        DiffusersCapture(build_with(diffusers.FlowMatchEulerDiscreteScheduler()))
    with pytest.raises(ValueError, match="timestep"):
        DiffusersCapture(pipe, timestep=1000)(Image.new("RGB", (64, 64)), "cat")


def build_with(other: Any) -> Any:
    pipe = build()
    pipe.scheduler = other
    return pipe
