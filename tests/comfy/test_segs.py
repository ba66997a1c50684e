"""Impact Pack's SEGS, which are duck-typed here as there; and the way to the mask editor."""

from __future__ import annotations

from collections import namedtuple
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from .checks import different, segments, unequal
from .client import Client
from .graphs import stickers
from .server import Server

Seg = namedtuple("Seg", "cropped_image cropped_mask confidence crop_region bbox label")


@pytest.fixture(scope="module")
def segs(pack: ModuleType) -> ModuleType:
    return import_module(f"{pack.__name__}.nodes.segs")


def test_masks_go_there_and_back(client: Client) -> None:
    graph = stickers(client)
    graph["segs"] = client.node("RefDiffMasksToSegs", mask=["models", 5], label="thing")
    graph["back"] = client.node("RefDiffSegsToMasks", segs=["segs", 0])
    graph |= unequal(client, ["models", 5], ["back", 0], "masks")
    assert different(client, client.run(graph), "masks") == 0


def test_a_segment_is_what_impact_pack_reads(segs: ModuleType) -> None:
    mask = torch.zeros(2, 100, 80)
    mask[0, 10:20, 30:50] = 1
    size, found = segs.segs_of(mask, [0.7, 0.9], ["cat", "dog"], 3.0)
    assert size == (100, 80) and len(found) == 1  # an empty mask is no segment
    (one,) = found
    assert one.bbox == (30, 10, 50, 20) and one.crop_region == (10, 0, 70, 30)
    assert one.cropped_mask.shape == (30, 60) and one.cropped_mask.sum() == 200
    assert (one.confidence, one.label, one.control_net_wrapper) == (0.7, "cat", None)


def test_segs_of_others(segs: ModuleType) -> None:
    part = np.ones((1, 4, 5), np.uint8)
    seg = Seg(None, part, 0.5, [3, 2, 8, 6], [3, 2, 8, 6], "A")
    (mask,) = segs.masks_of(((10, 20), [seg]))
    assert mask.sum() == 20 and bool(mask[2:6, 3:8].all())
    assert segs.masks_of(((10, 20), [])).shape == (0, 10, 20)
    with pytest.raises(ValueError, match="This is no SEGS"):
        segs.masks_of([seg])


def test_a_detector(segs: ModuleType, pack: ModuleType) -> None:
    loader = import_module(f"{pack.__name__}.nodes.load_stickers").LoadStickerModels
    model, clip, vae, scorer, image, _ = loader.execute().args
    made = segs.DetectorProvider.execute(model, clip, vae, "the red cat\nthe two cats", scorer).args
    boxes, outlines = made
    for detector in made:
        detector.setAux("anything")
        (height, width), found = detector.detect(image, 0.5, 4, 3.0, drop_size=10)
        assert (height, width) == (256, 256)
        assert [one.label for one in found] == ["cat", "cats", "cats"]
        combined = detector.detect_combined(image, 0.5, 0)
        assert combined.shape == (1, 256, 256) and set(combined.unique().tolist()) == {0.0, 1.0}
    boxed, outlined = (one.detect_combined(image, 0.5, 0) for one in (boxes, outlines))
    assert bool((boxed >= outlined).all()) and boxed.sum() > outlined.sum()
    assert outlines.detect(image, 0.5, 0, 3.0, drop_size=200)[1] == []


def test_a_detailer(segs: ModuleType, pack: ModuleType) -> None:
    """What one does with each segment: crop, enlarge, paint by a recorded model, put back."""
    import nodes

    room = f"{pack.__name__}.nodes"
    loader = import_module(f"{room}.load_stickers").LoadStickerModels
    sampling = import_module(f"{room}.sampling")
    model, clip, vae, scorer, image, _ = loader.execute().args
    watched, prompt, recording = sampling.RecordSampling.execute(model, clip, "a blue cat").args
    nothing = nodes.CLIPTextEncode().encode(clip, "")[0]
    detector = segs.DetectorProvider.execute(model, clip, vae, "the two cats", scorer).args[1]
    _, found = detector.detect(image, 0.5, 4, 2.0, drop_size=10)
    painted, scale = image.clone(), nodes.ImageScale()
    for one in found:
        left, top, right, bottom = one.crop_region
        wide, high = right - left, bottom - top
        (large,) = scale.upscale(
            painted[:, top:bottom, left:right], "bicubic", 192, 192, "disabled"
        )
        mask = torch.from_numpy(one.cropped_mask)
        latent = {**nodes.VAEEncode().encode(vae, large)[0], "noise_mask": mask[None]}
        given = (3, 3, 4.0, "euler", "normal", prompt, nothing, latent, 0.7)
        (made,) = nodes.KSampler().sample(watched, *given)
        run = recording.run_of(made["samples"])
        assert sampling.token_maps(recording, run, 0).maps[0].isfinite().all()
        (decoded,) = nodes.VAEDecode().decode(vae, made)
        (small,) = scale.upscale(decoded, "bicubic", wide, high, "disabled")
        into = painted[:, top:bottom, left:right]
        painted[:, top:bottom, left:right] = torch.where(mask[..., None] > 0, small, into)
    changed = ((painted - image).abs() > 1e-6).any(-1)[0]
    allowed = segs.masks_of(((256, 256), found)).amax(0) > 0
    assert len(found) == 2 and not bool((changed & ~allowed).any())
    assert float((changed & allowed).sum() / allowed.sum()) > 0.9


def test_a_hook_has_the_last_word(segs: ModuleType) -> None:
    class Hook:
        def post_detection(self, found: object) -> str:
            return "hooked"

    answer = import_module(segs.__package__ + ".answers").Answer
    nothing = torch.zeros(8, 8)
    found = nothing > 0, 0.0, "", "", nothing
    empty = answer(Image.new("RGB", (8, 8)), nothing[None], nothing, *found)
    detector = segs.Detector(lambda image: [empty], boxes=False)
    assert detector.detect(torch.zeros(1, 8, 8, 3), 0.5, 0, 3.0) == ((8, 8), [])
    assert detector.detect(torch.zeros(1, 8, 8, 3), 0.5, 0, 3.0, 1, Hook()) == "hooked"


def test_to_the_mask_editor_and_back(client: Client, server: Server) -> None:
    """Load Image reads picture and mask from one file, and nothing is overwritten."""
    graph = segments(client, {"one": {"falloff": 9}}, text="the red cat")
    save = {"image": ["models", 4], "mask": ["one", 0]}
    graph["save"] = client.node("RefDiffSaveForMaskEditor", **save)
    run = client.run(graph)
    (saved,) = run.outputs["save"]["images"]
    before = (server.base / "input" / saved["filename"]).read_bytes()
    back = {
        **segments(client, {"one": {"falloff": 9}}, text="the red cat"),
        "load": client.node("LoadImage", image=saved["filename"]),
        "see": client.node("PreviewImage", images=["load", 0]),
        "see mask": client.node("MaskPreview", mask=["load", 1]),
        "sample": client.node("PreviewImage", images=["models", 4]),
        "again": client.node("RefDiffSaveForMaskEditor", filename_prefix="../refdiff_mask", **save),
    }
    run = client.run(back)
    assert np.array_equal(client.images(run, "see")[0], client.images(run, "sample")[0])
    one, other = client.images(run, "see mask")[0], client.images(run, "one mask")[0]
    assert np.abs(one.astype(int) - other).max() <= 1 and len(np.unique(one)) > 8
    (again,) = run.outputs["again"]["images"]
    assert again["filename"] != saved["filename"]
    assert (server.base / "input" / saved["filename"]).read_bytes() == before


def test_the_x_ray(client: Client) -> None:
    """A picture for each word; with another attention three, and no difference from itself."""
    graph = stickers(client)
    models = {"model": ["models", 0], "clip": ["models", 1], "vae": ["models", 2]}
    graph["read"] = client.node(
        "RefDiffAttentionFromImage", image=["models", 4], text="the red cat", **models
    )
    graph["alone"] = client.node("RefDiffPromptXRay", attention=["read", 0])
    graph["both"] = client.node(
        "RefDiffPromptXRay", attention=["read", 0], other=["read", 0], words="cat"
    )
    run = client.run(graph)
    (alone,), (both,) = client.images(run, "alone"), client.images(run, "both")
    assert alone.shape[1] == 2 * 336 + 16 and both.shape[1] == 3 * 336 + 16
    third = both[16:300, 2 * 336 + 16 : -16].astype(int)
    assert np.ptp(third, axis=2).max() == 0  # grey: nothing more, nothing less
    assert np.ptp(both[16:300, 16:300].astype(int), axis=2).max() > 50
