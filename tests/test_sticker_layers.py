"""The table of what each layer of a sticker UNet finds: its groups, its maps, its figures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from refdiff.attention.capture import CaptureSettings
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.expression import parse
from refdiff.stickers import SAMPLE, WEIGHTS
from refdiff.stickers.training import layers
from refdiff.stickers.training.published_maps import OPTIONS, maps_of

STRIDES = {"down": 16, "mid": 32, "up.0": 16, "up.1": 8}
TEXT = "the cat next to the dog"


def test_layers_are_grouped_by_stride_and_by_what_taught_them() -> None:
    groups = layers.groups_of(STRIDES, "up.0")
    assert groups["up.0 (1/16), taught"] == ("up.0",) and groups["mid (1/32)"] == ("mid",)
    assert groups["untaught, 1/16"] == ("down",) and groups["after the taught"] == ("up.1",)
    assert groups["all untaught"] == ("down", "mid", "up.1")
    assert groups["all"] == tuple(STRIDES) and groups["taught"] == ("up.0",)


def test_where_all_were_taught_nothing_is_untaught() -> None:
    groups = layers.groups_of(STRIDES, "all", single=False)
    assert set(groups) == {"taught", "all"}


def test_a_taught_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="taught is 'attic', and the layers are down, mid"):
        layers.groups_of(STRIDES, "attic")


@pytest.fixture(scope="module")
def capture() -> DiffusersCapture:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    return DiffusersCapture(pipe, CaptureSettings(strides=None))


@pytest.fixture(scope="module")
def made(capture: DiffusersCapture) -> dict[tuple[str, str], Any]:
    groups = {name: (name,) for name in capture.strides} | {"all": tuple(capture.strides)}
    return maps_of(capture, capture.encode(Image.open(SAMPLE)), parse(TEXT), groups)


def test_plain_maps_are_those_that_the_capture_reads(
    capture: DiffusersCapture, made: dict[tuple[str, str], Any]
) -> None:
    (read,) = capture.read(capture.encode(Image.open(SAMPLE)), [TEXT])
    for name, maps in zip(read.layers, read.maps, strict=True):
        found = made[name, "plain"]
        assert found.tokens == read.tokens and found.maps[0].shape[1:] == (16, 16)
        if maps.shape[1:] == (16, 16):
            assert torch.allclose(found.maps[0], maps, atol=1e-5)
    assert not any(module._forward_hooks for module in capture.backend.pipe.unet.modules())


def test_every_way_changes_the_maps_and_shares_are_shares(
    made: dict[tuple[str, str], Any],
) -> None:
    plain = made["all", "plain"].maps[0]
    for option in OPTIONS[1:]:
        maps = made["all", option].maps[0]
        assert maps.shape == plain.shape and bool(torch.isfinite(maps).all())
        assert not torch.allclose(maps, plain, atol=1e-4)
    told = made["all", "words compete"]
    cat, dog = (told.maps[0][told.columns(at, at + 3)[0]] for at in (4, 20))
    assert float(cat.min()) >= 0 and float((cat + dog).max()) <= 1 + 1e-6
    one = made["mid_block.attentions.0.transformer_blocks.0.attn2", "layers"].maps[0]
    alone = made["mid_block.attentions.0.transformer_blocks.0.attn2", "plain"].maps[0]
    assert torch.allclose(one, alone, atol=1e-6)  # a single layer has all the say


def test_the_table_has_a_row_for_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    layers.main(taught="mid_block.attentions.0.transformer_blocks.0.attn2", limit=2)
    lines = capsys.readouterr().out.strip().splitlines()
    assert all(option in lines[0] for option in OPTIONS)
    named = [line.split(" | ")[0].strip("| ") for line in lines[2:]]
    assert named[2] == "mid_block.0 (1/32), taught" and named[-2:] == ["all", layers.CHANCE]
    assert len(named) == 7 + 2 + 4 + 1
    assert len({cell for line in lines[2:] for cell in line.split(" | ")[1:]}) > 2
