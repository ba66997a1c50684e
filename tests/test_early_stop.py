"""A pass of the UNet ends with the last wanted layer, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import UNet2DConditionModel
from diffusers.hooks import apply_group_offloading
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from refdiff.attention.capture import CaptureSettings, asked_places
from refdiff.attention.diffusers import DiffusersCapture, strides_of, wanted_layers
from refdiff.attention.hooks import layer_table, recording
from refdiff.attention.maps import AttentionRecorder
from refdiff.attention.propagate import SelfAttention, propagate
from refdiff.benchmark.random_models import random_pipeline
from refdiff.families import PROFILES
from refdiff.models.pipelines import CONFIGS

LATENT = (8, 8)


def run(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(2, 4, *LATENT, generator=generator)
    text = torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        return unet(sample, 100, text, return_dict=False)[0]


def calls(unet: Any) -> tuple[list[str], list[Any]]:
    """The modules that run to their end, as they do, and the handles that tell."""
    names: list[str] = []

    def watch(name: str) -> Any:
        return lambda *_: names.append(name)

    return names, [m.register_forward_hook(watch(name)) for name, m in unet.named_modules()]


@pytest.mark.parametrize("layers", ["all", "down"])
def test_nothing_runs_after_the_last_wanted_layer(tiny_pipe: Any, layers: Any) -> None:
    unet = tiny_pipe.unet
    wanted = list(wanted_layers(unet, CaptureSettings(strides=(32, 16), layers=layers)))
    whole, stopped = AttentionRecorder(wanted), AttentionRecorder(wanted)
    plain = run(unet)
    with recording(unet, whole, LATENT):
        run(unet)
    names, handles = calls(unet)
    ended = []
    with recording(unet, stopped, LATENT, stop=True):
        run(unet)
        ended.append(True)
    for handle in handles:
        handle.remove()
    assert not ended and names[-1] == f"{wanted[-1]}.to_k"
    assert f"{wanted[-1]}.to_v" not in names and "conv_out" not in names
    assert any(name.startswith("up_blocks") for name in names) == (layers == "all")
    assert all(torch.equal(stopped.maps[name], whole.maps[name]) for name in wanted)
    assert not any(module._forward_hooks for module in unet.modules())
    assert torch.equal(plain, run(unet))


def test_a_pass_with_a_layer_still_to_come_goes_on(tiny_pipe: Any) -> None:
    unseen = AttentionRecorder([layer_table(tiny_pipe.unet)[0][0], "nowhere"])
    by_grid = AttentionRecorder(lambda name, grid: True)
    plain = run(tiny_pipe.unet)
    for recorder in (unseen, by_grid):
        with recording(tiny_pipe.unet, recorder, LATENT, stop=True):
            assert torch.equal(run(tiny_pipe.unet), plain)


def test_only_the_last_call_of_a_schedule_is_cut(tiny_pipe: Any, picture: Image.Image) -> None:
    capture = DiffusersCapture(tiny_pipe, CaptureSettings.official())
    encoded = capture.encode(picture)
    names, handles = calls(tiny_pipe.unet)
    maps = capture.read(encoded, ["a cat"])[0]
    for handle in handles:
        handle.remove()
    assert names.count("conv_in") == 2 and names.count("conv_out") == 1
    assert {name.partition("@")[2] for name in maps.layers} == {"51", "1"}


@pytest.mark.parametrize("whole_blocks", [False, True])
def test_offloaded_weights_go_back(picture: Image.Image, whole_blocks: bool) -> None:
    expected = DiffusersCapture(random_pipeline(tiny=True))(picture, "a red cat")
    pipe = random_pipeline(tiny=True)
    kinds = {"preload_module_classes": ["BasicTransformerBlock"]} if whole_blocks else {}
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        cpu_offload(part, torch.device("cpu"), **kinds)
    found = DiffusersCapture(pipe)(picture, "a red cat")
    assert all(torch.equal(a, b) for a, b in zip(found.maps, expected.maps, strict=True))
    parameters = [*pipe.unet.parameters(), *pipe.text_encoder.parameters()]
    assert {weight.device.type for weight in parameters} == {"meta"}
    capture = DiffusersCapture(pipe, queries="first")
    kept = capture(capture.encode(picture), "a red cat")
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(kept.maps, found.maps, strict=True))
    assert {weight.device.type for weight in pipe.unet.parameters()} == {"meta"}


def test_heads_have_their_say_while_weights_are_offloaded(picture: Image.Image) -> None:
    expected = DiffusersCapture(random_pipeline(tiny=True), heads="output")(picture, "a red cat")
    pipe = random_pipeline(tiny=True)
    cpu_offload(pipe.unet, torch.device("cpu"))
    found = DiffusersCapture(pipe, heads="output")(picture, "a red cat")
    pairs = zip(found.maps, expected.maps, strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert {weight.device.type for weight in pipe.unet.parameters()} == {"meta"}


def test_blocks_offloaded_by_diffusers_go_back(picture: Image.Image) -> None:
    expected = DiffusersCapture(random_pipeline(tiny=True))(picture, "a red cat")
    pipe = random_pipeline(tiny=True)
    cpu = torch.device("cpu")
    apply_group_offloading(pipe.unet, cpu, cpu, "block_level", num_blocks_per_group=1)
    names, handles = calls(pipe.unet)
    found = DiffusersCapture(pipe)(picture, "a red cat")
    for handle in handles:
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(found.maps, expected.maps, strict=True))
    assert "conv_out" in names  # these hooks want to see the end of a pass


def test_a_compiled_unet_is_left_early_too(tiny_pipe: Any) -> None:
    unet = torch.compile(tiny_pipe.unet, backend="eager")
    wanted = wanted_layers(unet, CaptureSettings(strides=(32,)))
    recorder = AttentionRecorder(wanted)
    with recording(unet, recorder, LATENT, stop=True):
        run(unet)
        raise AssertionError("the pass went on")
    assert recorder.done


def test_the_fast_setting_reads_down_path_and_middle(tiny_pipe: Any) -> None:
    full, fast = DiffusersCapture(tiny_pipe), DiffusersCapture(tiny_pipe, layers="down")
    assert fast.layers == tuple(name for name in full.layers if not name.startswith("up_"))
    assert 0 < len(fast.layers) < len(full.layers)
    with pytest.raises(ValueError, match="layers is 'up'"):
        CaptureSettings(layers="up")  # type: ignore[arg-type]


def attention_flops(query: Any, key: Any, value: Any, *_args: Any, **_named: Any) -> int:
    return sdpa_flop_count(query, key, value)


def flops(
    unet: Any, side: int, wanted: Collection[str] = (), settings: CaptureSettings | None = None
) -> int:
    """Of a pass over a latent of side x side, or of its part that shows the wanted layers.

    settings: those of heads and of the self-attention along which a heat is then spread.
    """
    asked = settings or CaptureSettings()
    places = asked_places(strides_of(unet), asked, None)
    sample, at = torch.empty(1, 4, side, side), torch.zeros(1)
    text = torch.empty(1, 77, unet.config.cross_attention_dim)
    added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    recorder = AttentionRecorder(wanted, heads=asked.heads, places=places)
    counter = FlopCounterMode(display=False, custom_mapping={on_cpu: attention_flops})
    with torch.no_grad(), counter:
        with recording(unet, recorder, (side, side), stop=bool(wanted)):
            unet(sample, at, text, added_cond_kwargs=added, return_dict=False)
        if places:
            seen = (recorder.places[name] for name in places)
            links = [SelfAttention(query[0], key[0], *of) for query, key, *of in seen]
            propagate(torch.empty(1, *links[0].grid), links)
    assert recorder.done
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("family", "side", "strides", "most", "most_fast"),
    [
        ("sd1", 64, (64, 32), 0.55, 0.33),
        pytest.param("sdxl", 128, (32,), 0.80, 0.43, marks=pytest.mark.full),
    ],
)
def test_floating_point_operations_at_true_size(
    family: str, side: int, strides: tuple[int, ...], most: float, most_fast: float
) -> None:
    config = UNet2DConditionModel.load_config(str(CONFIGS / family), subfolder="unet")
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet = UNet2DConditionModel.from_config(config).eval()
        plain = flops(unet, side)
        default = flops(unet, side, wanted_layers(unet, CaptureSettings(strides=strides)))
        settings = CaptureSettings(strides=strides, layers="down")
        fast = flops(unet, side, wanted_layers(unet, settings))
    assert fast < default < plain
    assert default <= most * plain and fast <= most_fast * plain


@pytest.mark.full
def test_operations_of_the_profile_of_sdxl() -> None:
    """All of it: layers, heads' say, and heat spread along seven layers' self-attention."""
    config = UNet2DConditionModel.load_config(str(CONFIGS / "sdxl"), subfolder="unet")
    settings = CaptureSettings(**PROFILES["sdxl"]["capture"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet = UNet2DConditionModel.from_config(config).eval()
        plain = flops(unet, 128)
        own = flops(unet, 128, wanted_layers(unet, settings), settings)
        mean = replace(settings, heads="mean")
        assert flops(unet, 128, wanted_layers(unet, mean), mean) < own <= 0.97 * plain


def test_models_moved_by_the_pipeline_are_sent_back(tiny_pipe: Any, picture: Image.Image) -> None:
    expected = DiffusersCapture(tiny_pipe)(picture, "a red cat")
    pipe = random_pipeline(tiny=True)
    pipe.enable_model_cpu_offload(device="cpu")
    hooks = list(pipe._all_hooks)
    found = DiffusersCapture(pipe)(picture, "a red cat")
    assert all(torch.equal(a, b) for a, b in zip(found.maps, expected.maps, strict=True))
    # the pipeline's own way of sending models back puts new hooks in the place of the old
    assert len(pipe._all_hooks) == len(hooks) and pipe._all_hooks[0] is not hooks[0]
