"""Reading attention inside ComfyUI: what diffusers reads, from the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any
from weakref import ReferenceType, ref

import pytest
import torch
from PIL import Image

from refdiff import stickers
from refdiff.attention.capture import CaptureSettings, EncodedPicture
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.families import BACKGROUND
from refdiff.models.pipelines import load_pipeline

from . import twins
from .twins import difference, snapshot

SENTENCES = [
    "the red cat on the left",
    "a dog",
    "second cup from the right, next to a blue sports-car",
    "a very small yellow cup, " * 14 + "a dog",
]
SETTINGS = {
    "default": CaptureSettings(),
    "logits": CaptureSettings(mode="logits", timestep=400, seed=3, strides=(32,), size=0.5),
    "log": CaptureSettings(mode="log_probabilities", size=0.5, pad=True, timestep=0),
    "official": replace(CaptureSettings.official(), size=0.5),
    "published": CaptureSettings(
        places=16, places_at=(0, 2), heads="output", reference=(16, 1), background=BACKGROUND
    ),
}
SMALL = CaptureSettings(size=0.5)
Trio = tuple[Any, Any, Any]


@pytest.fixture(scope="module")
def trio(pack: ModuleType) -> Trio:
    return import_module(f"{pack.__name__}.nodes.stickers").sticker_models()


@pytest.fixture(scope="module")
def kind(pack: ModuleType) -> type:
    return import_module(f"{pack.__name__}.nodes.backend").ComfyCapture


@pytest.fixture(scope="module")
def capture(kind: type, trio: Trio) -> Any:
    return kind(*trio)


@pytest.fixture(scope="module")
def small(capture: Any) -> Any:
    return capture.using(SMALL)


@pytest.fixture(scope="module")
def reference() -> DiffusersCapture:
    return DiffusersCapture(load_pipeline(stickers.WEIGHTS))


@pytest.fixture(scope="module")
def sample() -> Image.Image:
    return Image.open(stickers.SAMPLE).convert("RGB")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_maps_as_diffusers(
    capture: Any, reference: DiffusersCapture, picture: Image.Image, name: str
) -> None:
    ours, theirs = capture.using(SETTINGS[name]), reference.using(SETTINGS[name])
    encoded, expected = ours.encode(picture), theirs.encode(picture)
    assert encoded.size == expected.size and encoded.content == expected.content
    assert torch.allclose(encoded.latent, expected.latent, atol=1e-3)
    found = zip(
        ours.read(encoded, SENTENCES), theirs.read(expected, SENTENCES), SENTENCES, strict=True
    )
    for one, other, sentence in found:
        assert difference(one, other) <= 1e-4
        assert (one.tokens, one.spans, one.text) == (other.tokens, other.spans, sentence)
        assert (one.mode, one.content) == (other.mode, other.content)
        assert (one.layer_weights is None) == (SETTINGS[name].reference is None)
        weights = one.layer_weights or (), other.layer_weights or ()
        assert weights[0] == pytest.approx(weights[1], abs=1e-5)
        assert len(one.places) == len(other.places) == len(SETTINGS[name].places_at or ())
        for our, their in zip(one.places, other.places, strict=True):
            assert (our.heads, our.grid) == (their.heads, their.grid)
            assert torch.allclose(our.query, their.query, atol=1e-3)
            assert torch.allclose(our.key, their.key, atol=1e-3)


def test_an_inpainting_model_is_told_that_nothing_is_hidden(kind: type) -> None:
    seen: list[torch.Tensor] = []
    twin = twins.inpainting()
    first = twin.model.model.diffusion_model.input_blocks[0][0]
    handle = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoded = EncodedPicture(torch.randn(1, 4, 8, 12), (64, 96))
    kind(twin.model, twin.clip, None, CaptureSettings(flip=True)).read(encoded, SENTENCES[:2])
    handle.remove()
    assert seen[0].shape == (4, 9, 8, 12)
    assert not seen[0][:, 4].any()
    shown = encoded.latent.expand(2, -1, -1, -1)
    assert torch.allclose(seen[0][:, 5:], torch.cat([shown, shown.flip(-1)]), atol=1e-6)


def test_sentences_of_any_length_and_number_together(small: Any, sample: Image.Image) -> None:
    encoded = small.encode(sample)
    long = SENTENCES[-1]
    prompts = ["a dog", long, *(f"cat number {i}" for i in range(9))]
    together = small.read(encoded, prompts)
    for index in (0, 1, 10):
        assert difference(together[index], small(encoded, prompts[index])) <= 1e-5
    assert together[0].maps[0].shape == (2, 8, 8)
    assert together[1].maps[0].shape == (len(together[1].tokens), 8, 8)
    dog = together[1].columns(len(long) - 3, len(long))
    assert len(dog) == 1 and dog[0] > 75 and together[1].tokens[dog[0]] == "dog</w>"
    assert small.read(encoded, []) == []


def foreign(model: Any, calls: list[str]) -> Any:
    """The MODEL of a user who patched everything that can be patched."""
    from comfy.ldm.modules.attention import optimized_attention

    def note(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def patch(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return answer(*given, **named)

        return patch

    user = model.clone()
    user.set_model_attn2_replace(
        note("replace", lambda q, k, v, o: optimized_attention(q, k, v, o["n_heads"])), "middle", 0
    )
    user.set_model_attn2_patch(note("attn2", lambda n, c, v, o: (n, c, v)))
    user.set_model_unet_function_wrapper(
        note("function", lambda run, a: run(a["input"], a["timestep"], **a["c"]))
    )
    user.set_model_sampler_cfg_function(note("cfg", lambda a: a["cond"]))
    user.set_model_sampler_post_cfg_function(note("post", lambda a: a["denoised"]), True)
    options = user.model_options["transformer_options"]
    options["optimized_attention_override"] = note("override", lambda f, *a, **k: f(*a, **k))
    user.add_wrapper("diffusion_model", note("wrapper", lambda run, *a, **k: run(*a, **k)))
    user.add_callback("on_pre_run", note("callback", lambda patcher: None))
    return user


def test_foreign_patches_stay_out_and_stay_on(
    kind: type, trio: Trio, small: Any, sample: Image.Image
) -> None:
    calls: list[str] = []
    user = foreign(trio[0], calls)
    before = snapshot(user)
    encoded = small.encode(sample)
    expected = small(encoded, SENTENCES[0])
    assert difference(kind(user, *trio[1:], SMALL)(encoded, SENTENCES[0]), expected) == 0
    assert calls == []
    kept = kind(user, *trio[1:], SMALL, keep_patches=True)
    assert difference(kept(encoded, SENTENCES[0]), expected) <= 1e-5
    assert set(calls) == {"replace", "attn2", "function", "override", "wrapper", "callback"}
    assert snapshot(user) == before


@pytest.mark.parametrize("failure", ["none", "error", "cancel"])
def test_nothing_is_left_behind(kind: type, trio: Trio, sample: Image.Image, failure: str) -> None:
    from comfy import model_management

    model, clip = trio[0].clone(), trio[1].clone()
    copies: list[ReferenceType[Any]] = []
    for patcher in (model, clip.patcher):
        patcher.add_callback("on_clone", lambda _, copy: copies.append(ref(copy)))
    capture = kind(model, clip, trio[2], SMALL)
    encoded = capture.encode(sample)
    expected = capture(encoded, "a dog")
    before = snapshot(model), snapshot(clip.patcher), clip.layer_idx
    wanted = {"error": ZeroDivisionError, "cancel": model_management.InterruptProcessingException}

    def fail(*_: Any) -> None:
        model_management.interrupt_current_processing(failure == "cancel")
        1 / (failure != "error")

    handle = model.model.diffusion_model.input_blocks[4][0].register_forward_hook(fail)
    raised: type[BaseException] | None = None
    try:
        capture(encoded, "a dog")
    except (Exception, model_management.InterruptProcessingException) as error:
        raised = type(error)  # an interrupt is a BaseException since ComfyUI 0.20 or so
    handle.remove()
    assert raised is wanted.get(failure)
    assert (snapshot(model), snapshot(clip.patcher), clip.layer_idx) == before
    assert len(copies) == 4 and all(copy() is None for copy in copies)
    assert all(one is not None for one in model_management.loaded_models())
    assert difference(capture(encoded, "a dog"), expected) == 0


def test_nothing_after_the_last_wanted_layer_runs(capture: Any, sample: Image.Image) -> None:
    unet = capture.backend.model.model.diffusion_model
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in unet.named_modules()
        if name.count(".") == 2 and name.endswith(".0") and name.startswith(("input", "output"))
    ]
    encoded = capture.encode(sample)
    for strides, last in (((32,), "output_blocks.1.0"), ((32, 16), "output_blocks.3.0")):
        ran.clear()
        capture.using(CaptureSettings(strides=strides))(encoded, "a dog")
        assert [name for name in ran if name.startswith("input")][-1] == "input_blocks.5.0"
        assert ran[-1] == last and len(ran) == len(set(ran))
    for handle in handles:
        handle.remove()


def test_the_model_samples_as_before_after_a_look(
    capture: Any, trio: Trio, sample: Image.Image
) -> None:
    import nodes

    model, clip, vae = trio
    assert nodes.__file__.endswith("nodes.py")  # ComfyUI's own
    words = [nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red cat", "")]

    def sampled() -> torch.Tensor:
        with torch.no_grad():
            pixels = torch.full((1, 128, 192, 3), 0.5)
            mask = torch.zeros(1, 128, 192)
            mask[:, 32:96, 64:128] = 1
            latent = nodes.VAEEncodeForInpaint().encode(vae, pixels, mask)[0]
            made = nodes.KSampler().sample(model, 1, 3, 5.0, "euler", "normal", *words, latent)[0]
            return nodes.VAEDecode().decode(vae, made)[0]

    before = sampled()
    capture(sample, "a dog")
    assert before.shape == (1, 128, 192, 3) and before.std() > 0.01
    assert torch.equal(sampled(), before)


def test_the_vae_decodes_as_in_diffusers(trio: Trio, reference: DiffusersCapture) -> None:
    latent = torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.backend.pipe.vae.decode(latent).sample.clamp(-1, 1) / 2 + 0.5
        assert torch.allclose(trio[2].decode(latent).movedim(-1, 1), expected, atol=0.01)
