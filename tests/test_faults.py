"""Faults raised at every stage: they come out as they are, and nothing of the models is changed."""

from __future__ import annotations

import gc
import hashlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from refdiff import steps
from refdiff.attention.diffusers import DiffusersCapture
from refdiff.errors import ModelError
from refdiff.io import files
from refdiff.pipeline import Look, segment
from refdiff.scoring.clip import ClipScorer
from refdiff.settings import Settings

TEXT = "the red cat on the left"
SETTINGS = Settings(empty_below=0.0)


class Fault(Exception):
    """Raised by the tests alone."""


class HardFault(BaseException):
    """What no handler of errors may keep."""


KINDS: tuple[type[BaseException], ...] = (
    Fault,
    HardFault,
    KeyboardInterrupt,
    MemoryError,
    RuntimeError,
    ValueError,
    SystemExit,
    OSError,
)


def modules_of(pipe: Any, scorer: ClipScorer) -> dict[str, nn.Module]:
    return {
        "unet": pipe.unet,
        "vae": pipe.vae,
        "text_encoder": pipe.text_encoder,
        "clip": scorer.model,
    }


def state_of(models: dict[str, nn.Module]) -> tuple[Any, ...]:
    """Everything that reading might leave changed: weights, hooks, modes, processors, RNG."""
    digest = hashlib.sha256()
    hooks, parts = 0, []
    for name, model in models.items():
        for key, value in model.state_dict().items():
            digest.update(key.encode() + value.numpy().tobytes())
        for path, module in model.named_modules():
            hooks += len(module._forward_hooks) + len(module._forward_pre_hooks)
            processor = getattr(module, "processor", None)
            parts.append((name, path, id(processor), module.training, "forward" in vars(module)))
    return digest.hexdigest(), hooks, parts, torch.get_rng_state().tolist()


@contextmanager
def failing(module: nn.Module, kind: type[BaseException]) -> Iterator[list[int]]:
    """Let a module raise when it runs; the list has how often it was reached."""
    reached: list[int] = []

    def fail(*_args: object) -> None:
        reached.append(1)
        raise kind("injected")

    handle = module.register_forward_pre_hook(fail)
    try:
        yield reached
    finally:
        handle.remove()


def forgetful(scorer: ClipScorer) -> ClipScorer:
    """The same CLIP, which remembers no text."""
    pixels = scorer.mean.flatten().tolist(), scorer.std.flatten().tolist()
    return ClipScorer(scorer.model, scorer.tokenizer, scorer.size, *pixels)


def reached_by(run: Callable[[], object], models: dict[str, nn.Module]) -> list[nn.Module]:
    """The modules without parts of their own that a run passes through, each once."""
    found: dict[nn.Module, None] = {}
    parts = [each for model in models.values() for each in model.modules()]
    handles = [
        each.register_forward_pre_hook(lambda module, _inputs: found.setdefault(module))
        for each in parts
        if not list(each.children())
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return list(found)


def test_faults_in_every_model(
    tiny_pipe: Any, tiny_scorer: ClipScorer, picture: Image.Image
) -> None:
    """Over 200 of them, in every layer of UNet, VAE, text encoder and CLIP, of eight kinds."""
    models = modules_of(tiny_pipe, tiny_scorer)
    capture, small = DiffusersCapture(tiny_pipe), picture.resize((64, 48))

    def run() -> Any:
        return segment(small, TEXT, capture, forgetful(tiny_scorer), SETTINGS)

    before = run()
    layers = reached_by(run, models)
    state, raised = state_of(models), 0
    for number in range(max(200, len(layers))):
        kind = KINDS[number % len(KINDS)]
        with failing(layers[number % len(layers)], kind) as reached, pytest.raises(kind) as caught:
            run()
        assert caught.type is kind and "injected" in str(caught.value) and reached
        raised += 1
    assert raised >= 200 and len(layers) > 50
    assert state_of(models) == state
    after = run()
    assert torch.equal(before.mask, after.mask) and torch.equal(before.heat, after.heat)


STEPS = [
    (steps, name)
    for name, step in vars(steps).items()
    if inspect.isfunction(step) and step.__module__ == steps.__name__ and name[0] != "_"
]
STAGES = [*STEPS, (files, "signed"), (files, "write_folder"), (os, "rename")]


@pytest.mark.parametrize(
    ("home", "name"), STAGES, ids=lambda each: str(getattr(each, "__name__", each))
)
def test_faults_between_the_models(
    home: Any,
    name: str,
    photo: Path,
    tiny_pipe: Any,
    tiny_scorer: ClipScorer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the steps of the method and in writing: no hook, no file, no part of one."""
    from refdiff.commands import segment as command
    from refdiff.commands.common import Ready
    from refdiff.models.catalogue import Models

    models = modules_of(tiny_pipe, tiny_scorer)
    loaded = Models(tiny_pipe, tiny_scorer, False, "tiny", "tiny")
    ready = Ready(loaded, DiffusersCapture(tiny_pipe), SETTINGS)
    monkeypatch.setattr(command, "make_ready", lambda *_: ready)
    state = state_of(models)
    for kind in KINDS:

        def fail(*_args: object, kind: type[BaseException] = kind, **_kwargs: object) -> None:
            raise kind("injected")

        with monkeypatch.context() as patch, pytest.raises(BaseException) as caught:
            patch.setattr(home, name, fail)
            command.segment([str(photo)], TEXT, out=tmp_path / "out", debug=True)
            pytest.skip("no part of this run")
        if caught.typename == "Skipped":
            return
        assert caught.type is kind or caught.typename in ("Exit", "RefDiffError")
        assert not list(tmp_path.rglob("mask.png")) and not list(tmp_path.rglob(".refdiff-*"))
    assert state_of(models) == state


def test_threads_on_one_pipe_are_right(
    tiny_pipe: Any, tiny_scorer: ClipScorer, picture: Image.Image
) -> None:
    """Four threads, each with pictures and sentences of its own, on one pipeline and one CLIP."""
    pictures = [picture.rotate(90 * turn, expand=True) for turn in range(4)]
    asked = [(each, f"the {word}") for each in pictures for word in ("cat", "dog", "red car")]
    models = modules_of(tiny_pipe, tiny_scorer)
    capture = DiffusersCapture(tiny_pipe)
    wanted = [segment(*each, capture, tiny_scorer, SETTINGS) for each in asked]
    state = state_of(models)
    with ThreadPoolExecutor(4) as pool:
        own = [DiffusersCapture(tiny_pipe) if number % 2 else capture for number in range(12)]
        found = list(
            pool.map(lambda n: segment(*asked[n], own[n], tiny_scorer, SETTINGS), range(12))
        )
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.mask, other.mask) and torch.equal(one.heat, other.heat)
    assert state_of(models)[:3] == state[:3]


def test_painting_in_another_thread_is_not_seen(tiny_pipe: Any, picture: Image.Image) -> None:
    """Passes that are none of ours run meanwhile, and give what they always give."""
    unet = tiny_pipe.unet
    inputs = torch.ones(1, 4, 8, 8), torch.tensor(5), torch.ones(1, 77, 32)
    with torch.no_grad():
        painted = unet(*inputs)[0]
    wanted = segment(picture, TEXT, DiffusersCapture(tiny_pipe), settings=SETTINGS)
    stop, wrong, passes = threading.Event(), [], [0]

    def paint() -> None:
        while not stop.is_set():
            with torch.no_grad():
                if not torch.equal(unet(*inputs)[0], painted):
                    wrong.append(1)
            passes[0] += 1

    painter = threading.Thread(target=paint)
    painter.start()
    try:
        for _ in range(5):
            found = segment(picture, TEXT, DiffusersCapture(tiny_pipe), settings=SETTINGS)
            assert torch.equal(found.mask, wanted.mask) and torch.equal(found.heat, wanted.heat)
    finally:
        stop.set()
        painter.join()
    assert passes[0] and not wrong


@contextmanager
def block_cache(unet: Any) -> Iterator[None]:
    """What DeepCache does: the UNet and its blocks get a forward that remembers; then their own."""

    def wrap(module: nn.Module) -> None:
        own, kept = module.forward, []

        def forward(*args: Any, **kwargs: Any) -> Any:
            kept.append(own(*args, **kwargs))
            return kept[0]

        module.forward = forward  # type: ignore[method-assign]
        owns.append((module, own))

    owns: list[tuple[nn.Module, Callable[..., Any]]] = []
    for module in (unet, *unet.down_blocks, unet.mid_block, *unet.up_blocks):
        wrap(module)
    try:
        yield
    finally:
        for module, own in owns:
            module.forward = own  # type: ignore[method-assign]


def test_a_pipe_that_remembers_its_blocks_is_refused(tiny_pipe: Any, picture: Image.Image) -> None:
    wanted = segment(picture, TEXT, DiffusersCapture(tiny_pipe), settings=SETTINGS)
    try:
        with block_cache(tiny_pipe.unet):
            with pytest.raises(ModelError, match=r"forward replaced, as DeepCache does; turn that"):
                segment(picture, TEXT, DiffusersCapture(tiny_pipe), settings=SETTINGS)
        again = segment(picture, TEXT, DiffusersCapture(tiny_pipe), settings=SETTINGS)
        assert torch.equal(again.mask, wanted.mask)
    finally:
        for module in tiny_pipe.unet.modules():
            vars(module).pop("forward", None)


def resident() -> int:
    """Kilobytes of memory that the process holds now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("runs", [60, pytest.param(300, marks=pytest.mark.full)])
def test_memory_is_flat(
    tiny_pipe: Any, tiny_scorer: ClipScorer, picture: Image.Image, runs: int
) -> None:
    """Answers and failures in turn, new pictures and new sentences each time."""
    capture, small = DiffusersCapture(tiny_pipe), picture.resize((64, 48))
    random = np.random.default_rng(0)
    sizes, tensors = [], []
    for run in range(runs):
        pixels = np.asarray(small) ^ random.integers(0, 8, (48, 64, 3), dtype=np.uint8)
        try:
            look = Look(Image.fromarray(pixels), capture, tiny_scorer, SETTINGS)
            look(f"the cat {run}", choice=1 if run % 3 else 99)
        except ValueError:
            assert run % 3 == 0
        if run % (runs // 5) == 0:
            gc.collect()
            sizes.append(resident())
            tensors.append(sum(isinstance(each, torch.Tensor) for each in gc.get_objects()))
    assert sizes[-1] - sizes[1] < 40_000 and tensors[-1] - tensors[1] < 400
