"""The ways of reading attention: what DiffusersCapture answers, from the same weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any
from weakref import ref

import pytest
import torch
from PIL import Image

from refdiff.attention.backend import Shown
from refdiff.attention.capture import CaptureSettings, EncodedPicture
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.maps import AttentionRecorder

from . import twins
from .twins import difference

SENTENCES = ["the red cat on the left", "a dog", "a very small yellow cup, " * 14 + "a dog"]
GUIDED = {"mode": "logits", "guidance": 3.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "down": {"layers": "down"},
    "views": {"seeds": 2, "timesteps": (50, 300), "flip": True},
    "guided views": {"seeds": 2, "flip": True, "clip_skip": 1, **GUIDED},
    "guided official": {"schedule": "official", **GUIDED},
    "first": {"queries": "first", "timesteps": (20, 500), "flip": True},
    "empty": {"queries": "empty", "mode": "log_probabilities", "layers": "down"},
    "guided first": {"queries": "first", "schedule": "official", "clip_skip": 1, **GUIDED},
}


@pytest.fixture(scope="module")
def kind(pack: ModuleType) -> type:
    return import_module(f"{pack.__name__}.nodes.backend").ComfyCapture


@pytest.fixture(scope="module", params=[twins.first, twins.inpainting, twins.velocity, twins.sdxl])
def twin(pack: ModuleType, request: pytest.FixtureRequest) -> twins.Twins:
    return request.param()


def encoded(height: int = 9, width: int = 6) -> EncodedPicture:
    latent = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(1))
    return EncodedPicture(latent, (height * 8, width * 8))


def recorders() -> int:
    """How many recorders are alive; each may hold queries."""
    return sum(type(each).__name__ == "AttentionRecorder" for each in gc.get_objects())


@contextmanager
def passes(model: Any) -> Iterator[list[int]]:
    """The rows of every pass of a MODEL's UNet while the block runs."""
    rows: list[int] = []
    unet = model.model.diffusion_model
    handle = unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    yield rows
    handle.remove()


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_maps_as_diffusers(kind: type, twin: twins.Twins, name: str) -> None:
    settings, picture = CaptureSettings(**OPTIONS[name]), encoded()
    ours = kind(twin.model, twin.clip, None, settings).read(picture, SENTENCES)
    theirs = DiffusersCapture(twin.pipe, settings).read(picture, SENTENCES)
    for one, other in zip(ours, theirs, strict=True):
        assert difference(one, other) <= 1e-4 * min(1.0, float(other.maps[0].std()) * 10)
        assert (one.tokens, one.spans, one.text) == (other.tokens, other.spans, other.text)


def test_places_ask_each_other_as_in_diffusers(kind: type, twin: twins.Twins) -> None:
    settings, latent = CaptureSettings(flip=True), encoded().latent
    shown = Shown.of(latent, settings.views(1000), 1)
    seen = []
    for reader in (kind(twin.model, twin.clip, None), DiffusersCapture(twin.pipe)):
        recorder = AttentionRecorder(reader.layers, places=reader.layers)
        text = reader.backend.embed(["a dog"], 77).per_view(1, 2)
        with torch.no_grad():
            reader.backend.run(shown, text, [recorder], None)
        assert tuple(recorder.places) == reader.layers
        seen.append(recorder.places.values())
    for ours, theirs in zip(*seen, strict=True):
        assert ours[2:] == theirs[2:]  # heads and grid
        for mine, other in zip(ours[:2], theirs[:2], strict=True):
            assert mine.shape == other.shape and torch.allclose(mine, other, atol=1e-4)
            assert float(other.std()) > 1e-5


def test_down_leaves_the_way_up_out(kind: type, twin: twins.Twins) -> None:
    capture = kind(twin.model, twin.clip, None, CaptureSettings(layers="down"))
    ran: list[str] = []
    handle = twin.model.model.diffusion_model.output_blocks[0].register_forward_hook(
        lambda *_: ran.append("up")
    )
    (maps,) = capture.read(encoded(), ["a dog"])
    handle.remove()
    assert not ran and maps.layers == capture.layers
    assert {name.split("_")[0] for name in maps.layers} == {"input", "middle"}


def test_ten_sentences_are_asked_of_one_pass(kind: type, twin: twins.Twins) -> None:
    picture, prompts = encoded(), [f"cat number {number}" for number in range(10)]
    capture = kind(twin.model, twin.clip, None, CaptureSettings(queries="first", seeds=2))
    with passes(twin.model) as rows:
        together = capture.read(picture, prompts)
        later = capture.using(capture.settings).read(picture, [prompts[7]])
    assert rows == [2]
    assert difference(later[0], together[7]) <= 1e-6
    own = capture.using(replace(capture.settings, queries="own"))
    with passes(twin.model) as rows:
        first, seventh = own.read(picture, [prompts[0], prompts[7]])
    assert rows == [4]
    assert difference(together[0], first) <= 1e-5
    assert difference(together[7], seventh) > 1e-6


def test_rows_of_a_pass_are_bounded(kind: type) -> None:
    twin = twins.first()
    settings = CaptureSettings(seeds=3, **GUIDED)
    with passes(twin.model) as rows:
        kind(twin.model, twin.clip, None, settings).read(encoded(), ["cat", "dog"])
    assert rows == [6, 6]


def test_kept_queries_go_with_the_picture(kind: type) -> None:
    twin = twins.first()
    capture = kind(twin.model, twin.clip, None, CaptureSettings(queries="empty"))
    pictures = [encoded(), encoded(3, 5)]
    for picture in pictures:
        capture.read(picture, ["a dog"])
    before = recorders()
    pictures.pop()
    del picture
    gc.collect()
    assert before - recorders() == 1


def test_a_lora_reaches_the_keys_of_further_sentences(kind: type) -> None:
    twin = twins.first()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    change = torch.randn(128, 32, generator=torch.Generator().manual_seed(2))
    user = twin.model.clone()
    user.add_patches({key: ("diff", (change,))}, 0.3)
    settings = CaptureSettings(queries="empty", strides=(32,), mode="logits")
    plain, patched = (
        kind(model, twin.clip, None, settings).read(encoded(), ["a dog"])
        for model in (twin.model, user)
    )
    assert difference(plain[0], patched[0]) > 1e-3


@pytest.mark.parametrize("cast", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_float32_logits(
    kind: type, pack: ModuleType, dtype: Any, cast: Any
) -> None:
    full, half = twins.first(), twins.first(dtype=dtype, cast=cast)
    assert half.model.model_dtype() == dtype
    for latent, queries in (((9, 7), "own"), ((1, 5), "empty"), ((1, 1), "own")):
        settings = CaptureSettings(mode="logits", queries=queries)
        one, other = (
            kind(each.model, each.clip, None, settings).read(encoded(*latent), SENTENCES)[1]
            for each in (half, full)
        )
        assert all(m.dtype == torch.float32 and m.isfinite().all() for m in one.maps)
        assert 0 < difference(one, other) < (0.05 if latent == (9, 7) else 1)


@pytest.mark.parametrize("heads", ["mean", "output"])
def test_weights_of_eight_bits(kind: type, heads: Any) -> None:
    """As Load Diffusion Model's fp8: kept small, computed in another type."""
    kept = torch.float8_e4m3fn
    full, small = twins.first(), twins.first(dtype=kept, cast=torch.float32)
    assert small.model.model_dtype() == kept
    settings = CaptureSettings(heads=heads)
    one, other = (
        kind(each.model, each.clip, None, settings).read(encoded(), SENTENCES)[1]
        for each in (small, full)
    )
    assert all(m.dtype == torch.float32 and m.isfinite().all() for m in one.maps)
    assert 0 < difference(one, other) < 0.05


def test_pictures_are_remembered_by_all_that_shapes_their_latent(
    kind: type, pack: ModuleType
) -> None:
    cache = import_module(f"{pack.__name__}.nodes.maps_cache")
    model, clip, vae = import_module(f"{pack.__name__}.nodes.stickers").sticker_models()
    from comfy.latent_formats import SDXL

    other = model.clone()
    other.add_object_patch("latent_format", SDXL())
    image = Image.new("RGB", (64, 48), "red")
    small = CaptureSettings(size=0.25)
    captures = [
        cache.remembering(kind(each, clip, vae, small), (each, clip, vae), keep=False)
        for each in (model, other)
    ]
    one, two = (capture.encoded(capture.encode(image)) for capture in captures)
    scale = SDXL().scale_factor / model.get_model_object("latent_format").scale_factor
    assert torch.allclose(two.latent, one.latent * scale, atol=1e-5)
    for capture, latent in zip(captures, (one, two), strict=True):
        assert capture.encoded(capture.encode(image.copy())) is latent
    latents, watched = ref(one), ref(vae)
    assert len(cache.memory_of(vae).kept) == 2
    del one, two, vae, captures, capture, latent
    gc.collect()
    assert watched() is None and latents() is None
