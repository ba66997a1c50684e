"""The benchmark: that its stopwatches, counters and ratios say what they are said to say."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from typer.testing import CliRunner

from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.hooks import layer_table
from refdiff.benchmark.chart import draw
from refdiff.benchmark.clock import clocked, flops, interleaved, ratio, seconds
from refdiff.benchmark.curve import Curve
from refdiff.benchmark.growth import random_masks
from refdiff.benchmark.look import NETWORKS, noisy_picture, overhead, stages, stored, to_heat
from refdiff.benchmark.memory import Peak, peak_of
from refdiff.benchmark.passes import latent_of, plain_pass, traced_step, unet_part
from refdiff.benchmark.random_models import CLIPSEG, SAM_VIT_H, random_clipseg, random_sam
from refdiff.benchmark.report import Report, Task
from refdiff.cli import app
from refdiff.commands.bench import FIGURES, rows_of
from refdiff.scoring.clip import ClipScorer
from refdiff.settings import Settings

CPU = torch.device("cpu")
TEXT = "the red cat on the left"


def hooks_of(*modules: nn.Module) -> int:
    every = [each for module in modules for each in module.modules()]
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in every)


def test_a_stopwatch_counts_a_network_once_and_leaves_nothing(tiny_pipe: Any) -> None:
    run = plain_pass(tiny_pipe, 128)
    run()
    with clocked({"unet": [tiny_pipe.unet], "vae": [tiny_pipe.vae]}, CPU) as spent:
        total = seconds(lambda: (run(), time.sleep(0.05)), CPU)
    assert 0 < spent["unet"] <= total - 0.05
    assert spent["vae"] == 0
    assert hooks_of(tiny_pipe.unet, tiny_pipe.vae) == 0


def test_a_stopwatch_is_taken_off_after_an_error(tiny_pipe: Any) -> None:
    with pytest.raises(RuntimeError), clocked({"unet": [tiny_pipe.unet]}, CPU):
        tiny_pipe.unet(torch.zeros(1, 3, 16, 16), torch.tensor(1), torch.zeros(1, 77, 32))
    assert hooks_of(tiny_pipe.unet) == 0


def test_actions_take_turns_at_being_first() -> None:
    order: list[str] = []
    ticks = iter(range(100))

    def action(name: str) -> float:
        order.append(name)
        return float(next(ticks))

    found = interleaved({name: lambda name=name: action(name) for name in "abc"}, 3)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [0, 5, 7], "b": [1, 3, 8], "c": [2, 4, 6]}


def test_a_ratio_is_the_median_of_pairs() -> None:
    assert ratio({"ours": [1.0, 9.0, 3.0], "plain": [2.0, 3.0, 10.0]}, "ours", "plain") == 0.5


def test_operations_of_products_and_attention_are_counted() -> None:
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert flops(lambda: left @ right) == 2 * 3 * 5 * 7
    query, key = torch.ones(2, 4, 16, 8), torch.ones(2, 4, 9, 8)
    asked = flops(lambda: scaled_dot_product_attention(query, key, key))
    assert asked == 2 * (2 * 2 * 4 * 16 * 9 * 8)


def test_a_peak_is_of_tensors_alive_at_once() -> None:
    before = torch.zeros(1000)

    def action() -> None:
        first = torch.zeros(1000)
        second = first + before
        del first
        torch.zeros(500).add_(second[:500])

    assert peak_of(action) == 8000


def test_reading_needs_fewer_operations_than_a_pass_and_fast_fewer_still(tiny_pipe: Any) -> None:
    picture, plain = latent_of(tiny_pipe, 128), plain_pass(tiny_pipe, 128)
    default = DiffusersCapture(tiny_pipe, Settings().capture)
    fast = DiffusersCapture(tiny_pipe, Settings().capture, layers="down")
    whole, ours, least = (
        flops(action)
        for action in (
            plain,
            lambda: default.read(picture, [TEXT]),
            lambda: fast.read(picture, [TEXT]),
        )
    )
    assert 0 < least < ours < whole


def test_the_unets_part_leaves_the_text_encoder_out(tiny_pipe: Any) -> None:
    capture, picture = DiffusersCapture(tiny_pipe), latent_of(tiny_pipe, 128)
    texts = [TEXT] * 8
    capture.read(picture, texts)  # transformers keeps hooks of its own from the first call on
    before = hooks_of(tiny_pipe.text_encoder, tiny_pipe.unet)
    parts: list[float] = []
    with clocked({"text": [tiny_pipe.text_encoder]}, CPU) as spent:
        whole = seconds(lambda: parts.append(unet_part(tiny_pipe, capture, picture, texts)), CPU)
    assert 0 < parts[0] < whole - 0.9 * spent["text"]
    assert hooks_of(tiny_pipe.text_encoder, tiny_pipe.unet) == before


def test_a_plain_pass_has_its_rows_and_a_traced_step_all_layers(tiny_pipe: Any) -> None:
    assert plain_pass(tiny_pipe, 128, rows=3)().shape == (3, 4, 16, 16)
    traced = traced_step(tiny_pipe, 128)()
    assert traced.shape == (77, 16, 16)
    layers = torch.full((16, 16), float(len(layer_table(tiny_pipe.unet))))
    torch.testing.assert_close(traced.sum(0), layers, rtol=0.05, atol=0.0)


def test_stages_are_the_whole_of_a_segmentation(tiny_pipe: Any, tiny_scorer: ClipScorer) -> None:
    picture = noisy_picture(128)
    stages(tiny_pipe, tiny_scorer, picture, TEXT)
    found = stages(tiny_pipe, tiny_scorer, picture, TEXT)
    assert min(found[name] for name in NETWORKS) > 0
    assert min(found.values()) > -1e-3
    added = sum(seconds for name, seconds in found.items() if name not in NETWORKS)
    assert overhead(found) == pytest.approx(added / sum(found.values()))


def test_further_sentences_need_no_pass(tiny_pipe: Any) -> None:
    passes: list[int] = []
    handle = tiny_pipe.unet.conv_in.register_forward_hook(lambda *_: passes.append(1))
    try:
        found = to_heat(tiny_pipe, noisy_picture(128), [TEXT, "a dog", "a car"], stored())
    finally:
        handle.remove()
    assert len(passes) == 1
    assert len(found) == 3 and min(found) > 0


def test_rivals_have_their_published_sizes() -> None:
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        SamVisionConfig,
        SamVisionModel,
    )

    with torch.device("meta"):
        sam = SamVisionModel(SamVisionConfig(**SAM_VIT_H))
        refined = CLIPSegConfig(**CLIPSEG, use_complex_transposed_convolution=True)
        clipseg = CLIPSegForImageSegmentation(refined)
    assert sum(weight.numel() for weight in sam.parameters()) == 637_026_048
    assert sum(weight.numel() for weight in clipseg.parameters()) == 150_747_746


@torch.no_grad()
def test_rivals_answer_with_numbers() -> None:
    pixels, words = torch.rand(1, 3, 352, 352), torch.tensor([[49406, 2368, 49407]])
    answer = random_clipseg(tiny=True)(pixel_values=pixels, input_ids=words).logits
    assert answer.shape[-2:] == (352, 352) and bool(answer.isfinite().all())
    answer = random_sam(tiny=True)(pixels[..., :128, :128])[0]
    assert answer.shape == (1, 256, 8, 8) and bool(answer.isfinite().all())


def test_random_masks_are_full_and_different() -> None:
    masks = random_masks(20, 32)
    assert masks.shape == (20, 32, 32) and bool(masks.flatten(1).any(1).all())
    assert len({mask.numpy().tobytes() for mask in masks}) > 10


def test_growth_is_drawn_in_panels() -> None:
    curve = Curve("sides", "px", {"a": [(1, 1.0), (2, 4.0)], "b": [(1, 2.0), (2, 2.0)]})
    one, four = draw([curve], "here"), draw([curve] * 4, "here")
    assert four.height > one.height and four.width == one.width
    assert len(one.getcolors(1 << 20)) > 10


def test_runs_are_checked() -> None:
    with pytest.raises(ValueError, match="runs is 0"):
        Task(CPU, runs=0)


def test_bench_prints_one_object(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    drawn = tmp_path / "growth.png"
    words = ["bench", "--tiny", "--runs", "1", "--growth", "--picture", str(drawn), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    goals = {
        "down_vs_plain_pass",
        "published_vs_plain_pass",
        "official_vs_ours",
        "next_sentence",
        "overhead",
    }
    rivals = {"fast_vs_plain_pass", "clipseg_vs_ours", "sam_vs_ours", "daam_vs_ours"}
    assert goals | rivals <= set(plain["ratios"])
    assert min(plain["ratios"].values()) > 0 and plain["ratios"]["overhead"] < 1
    assert plain["machine"]["cpu"] and plain["machine"]["pixels"] == 128
    assert [peak["pixels"] for peak in plain["memory"]] == [128, 256]
    with Image.open(drawn) as picture:
        assert picture.width > 500
    curves = {one["title"]: one for one in plain["curves"]}
    rates = curves["labelling stickers"]["series"]
    gains = curves["labelling stickers, 2 Ray workers against one process"]["series"][""]
    assert set(rates) == {"one process", "2 Ray workers"}
    for points in (*rates.values(), gains):
        assert [count for count, _ in points] == [1, 2, 4, 8]
        assert min(amount for _, amount in points) > 0
    peaks = [Peak(*list(peak.values())[:4]) for peak in plain["memory"]]
    rows = list(rows_of(Report(**{**plain, "memory": peaks, "curves": []})))
    assert len(rows) == len(FIGURES) + len(plain["stages"]) + 2 * len(peaks)
