"""A MODEL that others have patched or half unloaded: seen through, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from refdiff.attention.capture import CaptureSettings, EncodedPicture
from refdiff.attention.maps import TokenMaps

from . import twins
from .patches import (
    attention_couple,
    compiled,
    deep_shrink,
    free_u,
    free_u_2,
    hyper_tile,
    hypernetwork,
    ip_adapter,
    longer_text,
    lora,
    merged,
    override,
    perturbed,
    self_attention_guidance,
    tome,
)
from .twins import difference, snapshot

SETTINGS = CaptureSettings(mode="logits")
PROMPTS = ["the red cat on the left", "a dog"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kind(pack: ModuleType) -> type:
    return import_module(f"{pack.__name__}.nodes.backend").ComfyCapture


@pytest.fixture(scope="module")
def twin(pack: ModuleType) -> twins.Twins:
    return twins.first()


@pytest.fixture(scope="module")
def picture() -> EncodedPicture:
    latent = torch.randn(1, 4, 12, 20, generator=torch.Generator().manual_seed(1))
    return EncodedPicture(latent, (96, 160))


@pytest.fixture(scope="module")
def expected(kind: type, twin: twins.Twins, picture: EncodedPicture) -> list[TokenMaps]:
    return kind(twin.model, twin.clip, None, SETTINGS).read(picture, PROMPTS)


SEEN_THROUGH = [override, perturbed, self_attention_guidance, compiled]
ACTING = [ip_adapter, free_u, free_u_2, tome, hyper_tile, deep_shrink]
REFUSED = {
    attention_couple: "asks 4 rows about 77 tokens, not 2 about 77; leave out the patch",
    longer_text: "asks 2 rows about 154 tokens",
    merged: "leave out token merging, or turn keep_patches off",
}
UNHEARD = [(patch, False, 0.0) for patch in (*SEEN_THROUGH, *ACTING, *REFUSED)]
KEPT = [(patch, True, 1e-5) for patch in SEEN_THROUGH]


@pytest.mark.parametrize(("patch", "keep", "most"), UNHEARD + KEPT)
def test_the_same_maps(
    kind: type,
    twin: twins.Twins,
    picture: EncodedPicture,
    expected: list[TokenMaps],
    patch: Callable[[Any], Any],
    keep: bool,
    most: float,
) -> None:
    """With patches cleared nobody is heard at all; with patches kept, some are seen through."""
    user = patch(twin.model)
    before = snapshot(user)
    found = kind(user, twin.clip, None, SETTINGS, keep_patches=keep).read(picture, PROMPTS)
    assert all(difference(a, b) <= most for a, b in zip(found, expected, strict=True))
    assert snapshot(user) == before


@pytest.mark.parametrize("patch", ACTING)
def test_acting_on_our_own_pass(
    kind: type,
    twin: twins.Twins,
    picture: EncodedPicture,
    expected: list[TokenMaps],
    patch: Callable[[Any], Any],
) -> None:
    user = patch(twin.model)
    before = snapshot(user)
    found = kind(user, twin.clip, None, SETTINGS, keep_patches=True).read(picture, PROMPTS)
    for one, other in zip(found, expected, strict=True):
        assert one.layers == other.layers
        pairs = list(zip(one.maps, other.maps, strict=True))
        assert all(a.isfinite().all() for a, _ in pairs)
        assert any(a.shape != b.shape or not torch.allclose(a, b, atol=1e-4) for a, b in pairs)
    assert snapshot(user) == before


@pytest.mark.parametrize("patch", REFUSED)
def test_refused_in_a_sentence(
    kind: type, twin: twins.Twins, picture: EncodedPicture, patch: Callable[[Any], Any]
) -> None:
    user = patch(twin.model)
    before = snapshot(user)
    with pytest.raises(Exception, match=REFUSED[patch]) as refusal:
        kind(user, twin.clip, None, SETTINGS, keep_patches=True).read(picture, PROMPTS)
    assert type(refusal.value).__name__ == "ModelError" and str(refusal.value).count(".") == 1
    assert snapshot(user) == before


def test_a_hypernetwork_changes_the_keys(
    kind: type,
    twin: twins.Twins,
    picture: EncodedPicture,
    expected: list[TokenMaps],
    tmp_path: Path,
) -> None:
    user = hypernetwork(twin.model, tmp_path)
    one = kind(user, twin.clip, None, SETTINGS).read(picture, PROMPTS)
    two = kind(user, twin.clip, None, SETTINGS, keep_patches=True).read(picture, PROMPTS)
    assert difference(one[0], expected[0]) == 0 < difference(two[0], expected[0])
    kept = CaptureSettings(queries="first")
    with pytest.raises(ValueError, match="turn keep_patches off, or set queries='own'"):
        kind(user, twin.clip, None, kept, keep_patches=True)
    assert kind(user, twin.clip, None, kept).read(picture, PROMPTS)[1].maps


@pytest.fixture
def with_lora(twin: twins.Twins) -> Any:
    from comfy.sd import load_lora_for_models

    return load_lora_for_models(twin.model, twin.clip, lora(), 1.0, 0.0)[0]


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        CaptureSettings(mode="logits", queries="first"),
        CaptureSettings(heads="output"),
    ],
    ids=["own queries", "first queries", "heads by their say"],
)
def test_a_lora_acts_however_little_of_the_model_is_loaded(
    kind: type,
    twin: twins.Twins,
    picture: EncodedPicture,
    expected: list[TokenMaps],
    with_lora: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: CaptureSettings,
) -> None:
    from comfy import model_management

    full = kind(with_lora, twin.clip, None, settings).read(picture, PROMPTS)
    plain = kind(twin.model, twin.clip, None, settings).read(picture, PROMPTS)
    assert difference(full[0], plain[0]) > 0.001
    # the CPU counts as a card without any memory to spare: every weight stays where it is kept
    monkeypatch.setattr(model_management, "is_device_cpu", lambda _: False)
    monkeypatch.setattr(model_management, "vram_state", model_management.VRAMState.NO_VRAM)
    model_management.unload_all_models()
    user = with_lora.clone()
    user.load(CPU, lowvram_model_memory=1)
    assert user.model.model_lowvram and user.lowvram_patch_counter() == 3
    little = kind(user, twin.clip, None, settings).read(picture, PROMPTS)
    assert user.model.model_lowvram and user.lowvram_patch_counter() >= 3
    assert all(difference(a, b) <= 1e-5 for a, b in zip(little, full, strict=True))
    monkeypatch.undo()
    model_management.unload_all_models()
    after = kind(twin.model, twin.clip, None, SETTINGS).read(picture, PROMPTS)
    assert difference(after[0], expected[0]) == 0


def test_weight_hooks_of_the_clip_act_as_a_lora(
    kind: type,
    twin: twins.Twins,
    picture: EncodedPicture,
    expected: list[TokenMaps],
    with_lora: Any,
) -> None:
    from comfy.hooks import create_hook_lora
    from comfy_extras.nodes_hooks import SetClipHooks

    hooks = create_hook_lora(lora(), 1.0, 0.0)
    (clip,) = SetClipHooks().apply_hooks(twin.clip, False, True, hooks)
    before = snapshot(twin.model)
    found = kind(twin.model, clip, None, SETTINGS).read(picture, PROMPTS)
    assert snapshot(twin.model) == before
    same = kind(with_lora, twin.clip, None, SETTINGS).read(picture, PROMPTS)
    assert all(difference(a, b) <= 1e-5 for a, b in zip(found, same, strict=True))
    assert difference(found[0], expected[0]) > 0.01
    with pytest.raises(ValueError, match="without Set CLIP Hooks, or set queries='own'"):
        kind(twin.model, clip, None, CaptureSettings(queries="empty"))
    after = kind(twin.model, twin.clip, None, SETTINGS).read(picture, PROMPTS)
    assert difference(after[0], expected[0]) == 0
