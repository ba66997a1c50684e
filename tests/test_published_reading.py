"""Self-attention, heads and background words read out of real UNets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from refdiff import DiffusersCapture
from refdiff.attention.capture import CaptureSettings
from refdiff.attention.heads import head_outputs, head_weights, weighted_maps
from refdiff.attention.hooks import layer_table, recording
from refdiff.attention.maps import AttentionRecorder, TokenMaps, word_map
from refdiff.families import BACKGROUND, PROFILES
from refdiff.pipeline import Look
from refdiff.settings import Settings
from refdiff.steps import read_regions, rivals_of


@pytest.fixture(scope="module")
def strides(tiny_pipe: Any) -> list[int]:
    """Of the small UNet's cross-attentions, in the order of a pass."""
    return list(DiffusersCapture(tiny_pipe).strides.values())


def resized(layer: Tensor, size: Any) -> Tensor:
    return interpolate(layer[None, None], tuple(size), mode="bilinear")[0, 0]


def same(one: TokenMaps, other: TokenMaps) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True))


def test_nothing_else_changes(tiny_pipe: Any, picture: Image.Image, strides: list[int]) -> None:
    """The words' maps are as without; the UNet's hooks are gone."""
    plain = DiffusersCapture(tiny_pipe)
    placed = plain.using(CaptureSettings(places=min(strides)))
    latent = plain.encode(picture)
    (one,), (other,) = plain.read(latent, ["a red cat"]), placed.read(latent, ["a red cat"])
    assert same(one, other) and not one.places
    assert len(other.places) == strides.count(min(strides))
    assert not any(module._forward_hooks for module in tiny_pipe.unet.modules())


def test_a_sentences_places_do_not_depend_on_its_company(
    tiny_pipe: Any, picture: Image.Image, strides: list[int]
) -> None:
    capture = DiffusersCapture(tiny_pipe, places=max(strides), seeds=2, flip=True)
    latent = capture.encode(picture)
    alone = capture.read(latent, ["a dog"])[0]
    together = capture.read(latent, ["a red cat", "a dog", "two blue cups"])[1]
    for one, other in zip(alone.places, together.places, strict=True):
        assert torch.allclose(one.query, other.query, atol=1e-4)
        assert torch.allclose(one.key, other.key, atol=1e-4)


def test_the_pass_ends_after_the_last_of_both(
    tiny_pipe: Any, picture: Image.Image, strides: list[int]
) -> None:
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, own=name: ran.append(own))
        for name, module in tiny_pipe.unet.named_modules()
        if name.endswith(("attn1", "attn2"))
    ]
    try:
        capture = DiffusersCapture(tiny_pipe, strides=(max(strides),), places=min(strides))
        capture(picture, "a cat")
        last = capture.places[-1]
        assert last not in capture.layers and ran[-1] == last.replace("attn2", "attn1")
        ran.clear()
        fast = DiffusersCapture(tiny_pipe, layers="down", places=min(strides))
        fast(picture, "a cat")
        assert ran[-1] == fast.layers[-1] and set(fast.places) < set(capture.places)
    finally:
        for handle in handles:
            handle.remove()


def test_heads_weigh_by_what_they_say(tiny_pipe: Any, picture: Image.Image) -> None:
    """The maps of one layer against queries, keys and values taken by hand."""
    capture = DiffusersCapture(tiny_pipe, heads="output")
    name, seen = capture.layers[0], {}
    attention = tiny_pipe.unet.get_submodule(name)
    handles = [
        getattr(attention, part).register_forward_hook(
            lambda _m, _i, output, own=part: seen.setdefault(own, output)
        )
        for part in ("to_q", "to_k", "to_v")
    ]
    try:
        found = capture(picture, "a cat")
    finally:
        for handle in handles:
            handle.remove()

    def by_head(part: str) -> Tensor:
        return seen[part].unflatten(2, (attention.heads, -1)).transpose(1, 2)

    query = by_head("to_q")
    shown = (query @ by_head("to_k").mT * query.shape[-1] ** -0.5).softmax(-1)
    outputs = head_outputs(shown, seen["to_v"], attention.to_out[0].weight)
    wanted = weighted_maps(shown, head_weights(outputs))[0, [1, 2]]
    assert torch.allclose(found.maps[0].flatten(1), wanted, atol=1e-5)
    assert not same(found, DiffusersCapture(tiny_pipe)(picture, "a cat"))


def test_a_pass_made_of_heads_answers_as_a_plain_one(tiny_pipe: Any) -> None:
    unet = tiny_pipe.unet
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, 77, unet.config.cross_attention_dim)
    names = [name for name, _ in layer_table(unet)]
    with torch.no_grad():
        plain = unet(sample, 100, text).sample
        recorder = AttentionRecorder(names, heads="output")
        with recording(unet, recorder, (16, 16)):
            found = unet(sample, 100, text).sample
        again = AttentionRecorder(names, heads="output")
        with recording(unet, again, (16, 16), adapters=True):
            same_again = unet(sample, 100, text).sample
        assert torch.equal(unet(sample, 100, text).sample, plain)
        watched, seen = unet.get_submodule(names[0]).to_out[0], []
        handle = watched.register_forward_hook(lambda _m, given, made: seen.append((given, made)))
        with handle, recording(unet, AttentionRecorder(names, heads="output"), (16, 16)):
            unet(sample, 100, text)
    assert torch.allclose(found, plain, atol=1e-5) and torch.equal(same_again, plain)
    assert seen[0][1].numel() > 0  # what others watch for is there
    assert list(recorder.maps) == list(again.maps) == names
    for name in names:
        assert torch.allclose(recorder.maps[name], again.maps[name], atol=1e-5)


def test_layers_weigh_by_what_they_link(
    tiny_pipe: Any, picture: Image.Image, strides: list[int]
) -> None:
    """Every layer's self-attention is seen; the spreading's own is kept alone."""
    named = (min(strides), 1)
    capture = DiffusersCapture(tiny_pipe, reference=named, places=max(strides), places_at=(0,))
    latent = capture.encode(picture)
    plain = DiffusersCapture(tiny_pipe).read(latent, ["a cat"])[0]
    alone, pair = capture.read(latent, ["a cat"])[0], capture.read(latent, ["two dogs", "a cat"])
    assert same(plain, alone) and plain.layer_weights is None and len(alone.places) == 1
    says = alone.layer_weights or ()
    assert len(says) == len(strides) and sum(says) == pytest.approx(1) and min(says) > 0
    assert pair[1].layer_weights == pytest.approx(says, abs=1e-5)
    kept = capture.using(replace(capture.settings, queries="first")).read(latent, ["a cat"])[0]
    assert kept.layer_weights == pytest.approx(says, abs=1e-5)

    heat = word_map(alone, (1,), normalise=False)
    sized = [resized(layer[1], heat.shape) for layer in alone.maps]
    wanted = torch.stack([one * say for one, say in zip(sized, says, strict=True)]).sum(0)
    assert torch.allclose(heat, wanted, atol=1e-6)


@pytest.mark.parametrize("named", [(7, 0), (0, 99)])
def test_a_layer_that_is_not_read_cannot_be_named(
    tiny_pipe: Any, strides: list[int], named: tuple[int, int]
) -> None:
    stride, which = named[0] or min(strides), named[1]
    with pytest.raises(ValueError, match=f"reference is .*{which}"):
        DiffusersCapture(tiny_pipe, reference=(stride, which))
    with pytest.raises(ValueError, match="as read with these settings"):
        DiffusersCapture(tiny_pipe, strides=(max(strides),), reference=(min(strides), 0))


def test_background_words_compete_and_are_never_looked_for(
    tiny_pipe: Any, picture: Image.Image
) -> None:
    text = "a red cat next to the dog"
    maps = DiffusersCapture(tiny_pipe, background=BACKGROUND)(picture, text)
    cat, dog = maps.columns(6, 9), maps.columns(22, 25)
    rivals = rivals_of(maps, cat)
    behind = [i for i, span in enumerate(maps.spans) if span and span[0] >= len(text)]
    assert rivals.groups == (dog, tuple(behind)) and len(behind) >= 5
    red = maps.columns(2, 5)
    said = {*cat, *red, *dog, *behind}
    assert set(rivals.sink) == set(range(len(maps.spans))) - said
    shares = [
        word_map(maps, own, rivals=rivals_of(maps, own), normalise=False) for own in (cat, dog)
    ]
    assert all(0 <= share.min() and share.max() <= 1 for share in shares)
    assert float((shares[0] + shares[1]).max()) <= 1 + 1e-6


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_familys_published_settings_answer(
    tiny_pipe: Any, picture: Image.Image, strides: list[int], family: str
) -> None:
    """Their kinds on the small UNet, whose strides are its own."""
    published = dict(PROFILES[family]["capture"]) | {"strides": None, "places": min(strides)}
    settings = Settings().changed(PROFILES[family] | {"capture": published, "stride_weights": None})
    found = Look(picture, DiffusersCapture(tiny_pipe), None, settings)("the red cat by the dog")
    assert torch.isfinite(found.heat).all() and found.heat.max() == 1
    assert found.settings.compete and found.settings.spread in ("mean", "sharp")


def test_regions_of_self_attention_are_candidates_besides(
    tiny_pipe: Any, picture: Image.Image, strides: list[int]
) -> None:
    plain = Settings(capture=CaptureSettings(places=min(strides)), clip_candidates=500)
    more = replace(plain, proposals="regions")
    capture = DiffusersCapture(tiny_pipe)
    few, many = (Look(picture, capture, None, one)("the red cat") for one in (plain, more))
    known = {mask.numpy().tobytes() for mask in many.masks}
    assert {mask.numpy().tobytes() for mask in few.masks} < known
    maps = capture.using(more.capture)(picture, "the red cat")
    regions = read_regions(maps, tuple(few.heat.shape), more)
    assert regions is not None and len(regions) and read_regions(maps, (9, 13), plain) is None
    assert read_regions(replace(maps, places=()), (9, 13), more) is None
    with pytest.raises(ValueError, match=r"set capture\.places"):
        Settings(proposals="regions")


def test_settings_that_cannot_be_kept_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="places is 7"):
        DiffusersCapture(tiny_pipe, places=7)
    with pytest.raises(ValueError, match="heads is"):
        CaptureSettings(heads="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spread is"):
        Settings(spread="all")  # type: ignore[arg-type]
