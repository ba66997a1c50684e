"""Masks of words while a picture is made: the picture stays, no pass is added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import refdiff
from refdiff.cli import app
from refdiff.errors import ModelError, WordError
from refdiff.painting.generate import reading

PROMPT = "a red cat next to a house"


def passes(pipe: Any) -> Any:
    """Counts the passes of the UNet while it is open."""
    counted: list[int] = []
    return pipe.unet.register_forward_hook(lambda *_: counted.append(1)), counted


def test_the_picture_is_the_one_made_unwatched_and_no_pass_is_added(tiny_pipe: Any) -> None:
    def made() -> Any:
        chance = torch.Generator().manual_seed(3)
        return tiny_pipe(PROMPT, num_inference_steps=4, generator=chance).images[0]

    handle, counted = passes(tiny_pipe)
    plain, alone = made(), len(counted)
    found = refdiff.generate(tiny_pipe, PROMPT, ["cat", "house"], steps=4, seed=3)
    handle.remove()
    assert len(counted) == 2 * alone
    assert np.array_equal(np.asarray(found.image), np.asarray(plain))
    assert set(found.found) == {"cat", "house"}
    for answer in found.found.values():
        assert tuple(answer.mask.shape) == (128, 128)
    assert not torch.equal(found.found["cat"].heat, found.found["house"].heat)


def test_a_pipeline_of_ones_own_is_read_by_a_callback(tiny_pipe: Any) -> None:
    def read(weights: Any) -> torch.Tensor:
        chance = torch.Generator().manual_seed(0)
        with reading(tiny_pipe, PROMPT, size=(96, 160), weights=weights) as reader:
            image = tiny_pipe(
                PROMPT, height=96, width=160, num_inference_steps=3, guidance_scale=1.0,
                generator=chance, callback_on_step_end=reader,
            ).images[0]  # fmt: skip
        assert image.size == (160, 96)
        found = reader.look(image)(PROMPT, "cat")
        assert tuple(found.mask.shape) == (96, 160)
        return found.heat

    first = read(lambda done: float(done < 0.5))
    last = read(lambda done: float(done >= 0.5))
    assert not torch.equal(first, last) and not torch.equal(first, read(None))
    assert sum(len(module._forward_hooks) for module in tiny_pipe.unet.modules()) == 0


def test_what_cannot_be_read_is_said(tiny_pipe: Any) -> None:
    with pytest.raises(WordError, match="dog"):
        refdiff.generate(tiny_pipe, PROMPT, ["dog"], steps=1)
    with reading(tiny_pipe, PROMPT) as reader:
        pass
    with pytest.raises(ModelError, match="callback_on_step_end"):
        reader.look(Image.new("RGB", (128, 128)))


def test_the_command_writes_the_picture_and_a_mask_per_word(
    tiny_model: Path, tmp_path: Path
) -> None:
    def run(*words: object, code: int = 0) -> str:
        given = ["generate", PROMPT, "-m", tiny_model, "--steps", 2, *words]
        result = CliRunner().invoke(app, [str(word) for word in given])
        assert result.exit_code == code, result.output
        return result.output

    out = tmp_path / "out.png"
    said = run("--masks", "cat, house", "-o", out)
    assert "cat:" in said and Image.open(out).size == (128, 128)
    for word in ("cat", "house"):
        assert Image.open(tmp_path / f"out.{word}.png").mode == "L"
    assert "--overwrite" in run("--masks", "cat", "-o", out, code=2)
    assert "dog" in run("--masks", "dog", "-o", tmp_path / "b.png", code=2)
    assert not (tmp_path / "b.png").exists()
