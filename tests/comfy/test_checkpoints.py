"""Files as users have them, through ComfyUI's own loaders, and what users wire beside a recording.

ComfyUI tells families by their true sizes, so its list of known models is given small ones.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from refdiff.attention.capture import CaptureSettings, EncodedPicture
from refdiff.attention.maps import TokenMaps

from . import twins
from .patches import compiled
from .twins import Twins, difference, snapshot

PROMPTS = ["the red cat on the left", "a dog"]
SETTINGS = {
    "mean": CaptureSettings(mode="logits"),
    "say": CaptureSettings(heads="output", places=16),
}
PROMPT = "a red cat"
Recorded = tuple[torch.Tensor, Any, Any]


@pytest.fixture(scope="module")
def kind(pack: ModuleType) -> type:
    return import_module(f"{pack.__name__}.nodes.backend").ComfyCapture


@pytest.fixture(scope="module")
def sampling(pack: ModuleType) -> ModuleType:
    return import_module(f"{pack.__name__}.nodes.sampling")


@pytest.fixture(scope="module")
def picture() -> EncodedPicture:
    latent = torch.randn(1, 4, 12, 20, generator=torch.Generator().manual_seed(1))
    return EncodedPicture(latent, (96, 160))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twins' sizes among those that ComfyUI knows."""
    from comfy import supported_models

    sizes = [
        (supported_models.SD15, {"context_dim": 32}),
        (supported_models.SDXL, {**twins.DEEP, "context_dim": 64}),
    ]
    small = []
    for family, shape in sizes:
        config = {**family.unet_config, "model_channels": twins.UNET["model_channels"]}
        config |= {name: value for name, value in shape.items() if name in config}
        small.append(type(family.__name__, (family,), {"unet_config": config}))
    monkeypatch.setattr(supported_models, "models", [*small, *supported_models.models])


def saved(twin: Twins, folder: Path, layers: dict[str, int]) -> tuple[Path, dict[str, Any]]:
    """A checkpoint as ComfyUI's own node saves it, and the sizes of its small text encoders."""
    from comfy.sd import save_checkpoint

    path = folder / "small.safetensors"
    save_checkpoint(str(path), twin.model, twin.clip)
    options = {
        f"clip_{name}_model_config": {**twins.TEXT, "num_hidden_layers": count}
        for name, count in layers.items()
    }
    return path, {**options, "dtype": torch.float32}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(
    ("make", "layers", "channels"),
    [
        (twins.first, {"l": 2}, 4),
        (twins.inpainting, {"l": 2}, 9),
        (twins.sdxl, {"l": 3, "g": 3}, 4),
    ],
    ids=["SD1", "nine channels", "SDXL"],
)
def test_a_checkpoint_reads_as_the_weights_in_it(
    kind: type,
    picture: EncodedPicture,
    known: None,
    tmp_path: Path,
    make: Callable[[], Twins],
    layers: dict[str, int],
    channels: int,
    settings: CaptureSettings,
) -> None:
    from comfy.sd import load_checkpoint_guess_config

    twin = make()
    path, options = saved(twin, tmp_path, layers)
    model, clip, *_ = load_checkpoint_guess_config(str(path), te_model_options=options)
    assert model.model.diffusion_model.in_channels == channels
    found = kind(model, clip, None, settings).read(picture, PROMPTS)
    expected = kind(twin.model, twin.clip, None, settings).read(picture, PROMPTS)
    for one, other in zip(found, expected, strict=True):
        assert one.layers == other.layers and difference(one, other) <= 1e-4


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_weights_of_eight_bits(
    kind: type,
    picture: EncodedPicture,
    known: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    settings: CaptureSettings,
) -> None:
    """As Load Diffusion Model keeps them: computed with in a wider type, and left as they are."""
    import folder_paths

    import nodes

    twin = twins.first()
    path, _ = saved(twin, tmp_path, {})
    folders = {**folder_paths.folder_names_and_paths}
    folders["diffusion_models"] = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    (model,) = nodes.UNETLoader().load_unet(path.name, dtype)
    assert str(model.model_dtype()).endswith(dtype.replace("fp8", "float8"))
    before = snapshot(model)
    found = kind(model, twin.clip, None, settings).read(picture, PROMPTS)
    assert snapshot(model) == before
    exact = kind(twin.model, twin.clip, None, settings).read(picture, PROMPTS)
    for one, other in zip(found, exact, strict=True):
        assert all(layer.dtype == torch.float32 and layer.isfinite().all() for layer in one.maps)
        assert 0 < difference(one, other) < 0.3


def words(twin: Twins, text: str) -> Any:
    import nodes

    return nodes.CLIPTextEncode().encode(twin.clip, text)[0]


def recorded(
    sampling: ModuleType,
    wire: Callable[[Any, Any], tuple[Any, Any]],
    steps: int = 2,
    patch: Callable[[Any], Any] = lambda model: model,
) -> Recorded:
    """A picture sampled by the recorded model, conditioned as `wire` makes it of the two prompts.

    Also what was recorded, and the latent that the same graph gives without recording. patch: what
    the user did to the model before.
    """
    import nodes

    twin = twins.first()
    user = patch(twin.model)
    model, prompt, recording = sampling.RecordSampling.execute(user, twin.clip, PROMPT).args
    empty = {"samples": torch.zeros(1, 4, 12, 20)}
    made = []
    for each in (model, user):
        conditions = wire(prompt, words(twin, ""))
        given = (7, steps, 4.0, "euler", "normal", *conditions, empty)
        made.append(nodes.KSampler().sample(each, *given)[0]["samples"])
    return made[0], recording, made[1]


def maps_of(sampling: ModuleType, latent: torch.Tensor, recording: Any) -> TokenMaps:
    return sampling.token_maps(recording, recording.run_of(latent), 0)


def control_file(folder: Path) -> Path:
    """A small ControlNet of Stable Diffusion 1 with random weights, as its files are laid out."""
    from comfy.cldm.cldm import ControlNet

    config = {**twins.UNET, **twins.SHALLOW, "in_channels": 4, "context_dim": 32, "num_heads": 8}
    del config["out_channels"]
    generator = torch.Generator().manual_seed(5)
    shapes = ControlNet(**config, hint_channels=3).state_dict()
    made = {
        name: torch.randn(tensor.shape, generator=generator) / max(tensor[0].numel(), 1) ** 0.5
        for name, tensor in shapes.items()
    }
    path = folder / "control.safetensors"
    save_file(made, path)
    return path


def test_a_controlnet_beside_a_recording(sampling: ModuleType, known: None, tmp_path: Path) -> None:
    """It steers the picture and so what the words look at; the recording steers nothing."""
    from comfy.controlnet import load_controlnet

    import nodes

    control = load_controlnet(str(control_file(tmp_path)))
    hint = torch.rand(1, 96, 160, 3, generator=torch.Generator().manual_seed(2))

    def wire(positive: Any, negative: Any) -> tuple[Any, Any]:
        given = (positive, negative, control, hint, 1.0, 0.0, 1.0)
        return nodes.ControlNetApplyAdvanced().apply_controlnet(*given)

    steered, recording, unseen = recorded(sampling, wire)
    assert torch.equal(steered, unseen)
    plain, other, _ = recorded(sampling, lambda *both: both)
    assert not torch.allclose(steered, plain, atol=1e-3)
    found, without = maps_of(sampling, steered, recording), maps_of(sampling, plain, other)
    assert found.layers == without.layers and difference(found, without) > 1e-4


def test_compiled_blocks_beside_a_recording(sampling: ModuleType) -> None:
    plain, alone, _ = recorded(sampling, lambda *both: both)
    latent, recording, unseen = recorded(sampling, lambda *both: both, patch=compiled)
    assert torch.equal(latent, unseen)
    found, expected = maps_of(sampling, latent, recording), maps_of(sampling, plain, alone)
    assert difference(found, expected) <= 1e-5


def halves(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture's left and right half as masks, at the latent's 12 rows times eight."""
    left = torch.zeros(1, 96, 8 * width)
    left[..., : 4 * width] = 1
    return left, 1 - left


def test_regional_prompts_beside_a_recording(sampling: ModuleType) -> None:
    """Each prompt acts on its half; the recorded one alone is kept, of the whole picture.

    At the first step the picture is the same noise, whatever else is asked about it.
    """
    import nodes

    left, right = halves(20)

    def wire(positive: Any, negative: Any) -> tuple[Any, Any]:
        mask = nodes.ConditioningSetMask()
        other = words(twins.first(), "a dog on a bench")
        (one,) = mask.append(positive, left, "default", 1.0)
        (two,) = mask.append(other, right, "default", 1.0)
        return nodes.ConditioningCombine().combine(one, two)[0], negative

    latent, recording, unseen = recorded(sampling, wire, steps=1)
    assert torch.equal(latent, unseen)
    plain, alone, _ = recorded(sampling, lambda *both: both, steps=1)
    assert not torch.allclose(latent, plain, atol=1e-3)
    found, expected = maps_of(sampling, latent, recording), maps_of(sampling, plain, alone)
    assert difference(found, expected) <= 1e-5


def test_a_prompt_on_a_part_of_the_picture(sampling: ModuleType) -> None:
    """What it looks at there is not stretched over the whole."""
    import nodes

    def wire(positive: Any, negative: Any) -> tuple[Any, Any]:
        left, _ = halves(20)
        return nodes.ConditioningSetMask().append(positive, left, "mask bounds", 1.0)[0], negative

    latent, recording, unseen = recorded(sampling, wire)
    assert torch.equal(latent, unseen)
    with pytest.raises(Exception, match="acts on a part of the picture") as refusal:
        recording.run_of(latent)
    assert type(refusal.value).__name__ == "ModelError" and str(refusal.value).count(".") == 1


def test_another_copy_of_the_weights_runs(sampling: ModuleType) -> None:
    """As with dynamic loading, where ComfyUI gives hooks a copy that it loads in whole."""
    import nodes

    twin = twins.first()
    changed = twins.first.__wrapped__().model  # the same weights once more
    for name, weight in changed.model.diffusion_model.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            weight.data.mul_(1.5)
    found = []
    for mine, runs in ((twin.model, changed), (changed, changed)):
        model, prompt, recording = sampling.RecordSampling.execute(mine, twin.clip, PROMPT).args
        model = model.clone()
        model.model = runs.model
        given = (7, 2, 4.0, "euler", "normal", prompt, words(twin, ""))
        latent = {"samples": torch.zeros(1, 4, 12, 20)}
        made = nodes.KSampler().sample(model, *given, latent)[0]["samples"]
        found.append(maps_of(sampling, made, recording))
    assert difference(*found) == 0
