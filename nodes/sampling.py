"""Record Sampling and Collect Attention: the words of a picture while it is being made.

A patch on a copy of the MODEL looks on while the user's own sampler runs, at no pass of its own.
Every run of a sampler is kept by the latent it ends in, so that Collect finds the run that made
the latent it is given.
"""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import Tensor

from ..refdiff.attention.capture import CaptureSettings, prompt_maps
from ..refdiff.attention.maps import AttentionRecorder, TokenMaps, word_columns
from ..refdiff.errors import ModelError
from ..refdiff.expression import Expression, Word, about
from ..refdiff.families import Family
from .expression import asked_words, understood
from .passes import grid_seen
from .pictures import shown
from .text import EncodedText, TextReader
from .types import (
    ATTENTION,
    CATEGORY,
    RECORDING,
    Attention,
    NodeSettings,
    found_by,
    output,
    settings_input,
)
from .unet import check_model, family, place_of, running_unet, wanted_layers

KEPT = 16
"""Latents a recording remembers, two of each run; of a run only a sum of maps per layer."""
CALLBACK = 5
"""Where among the arguments of ComfyUI's outer sampling its callback stands."""
CELL = 8
"""Pixels per latent cell of the models that words can be read from."""


@dataclass(eq=False)
class Run:
    """One run of a sampler: per layer the sum of the maps [B, T, h, w] and how many they are.

    size: of the latent. showing: of the part of it that the model sees now. in_part: whether the
    prompt was asked of a part that is not the whole.
    """

    size: tuple[int, ...] = ()
    showing: tuple[int, ...] = ()
    in_part: bool = False
    sums: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, layer: str, maps: Tensor) -> None:
        maps = maps.cpu()
        before = self.sums.get(layer)
        if before is not None and before.shape != maps.shape:
            return  # another patch makes the layer smaller at some steps
        self.sums[layer] = maps if before is None else before + maps
        self.seen[layer] = self.seen.get(layer, 0) + 1

    def mean(self) -> dict[str, Tensor]:
        return {layer: total / self.seen[layer] for layer, total in self.sums.items()}


@dataclass(eq=False)
class Recording:
    """The runs of the samplers that used a recorded MODEL, by the latents they ended in.

    family, strides: of the MODEL, and of its layers that are read.
    """

    expression: Expression
    text: EncodedText
    settings: NodeSettings
    family: Family
    strides: dict[str, int]
    runs: OrderedDict[str, Run] = field(default_factory=OrderedDict)

    @property
    def capture(self) -> CaptureSettings:
        """What is read of the MODEL."""
        return self.settings.method(self.family).capture

    @property
    def columns(self) -> tuple[int, ...]:
        """The tokens whose maps are kept."""
        return word_columns([self.text.spans])

    def keep(self, run: Run, *latents: Tensor) -> None:
        for latent in latents:
            self.runs[_fingerprint(latent)] = run
        while len(self.runs) > KEPT:
            self.runs.popitem(last=False)

    def run_of(self, latent: Tensor) -> Run:
        """The run that ended in this latent; ModelError when it is not among those kept."""
        run = self.runs.get(_fingerprint(latent))
        if run is None:
            made = "This latent was not made by" if self.runs else "No sampler has run with"
            raise ModelError(
                f"{made} the recorded model; wire that model to the sampler and the sampler's own "
                "LATENT to Collect Attention, and if the latent came from the cache, change the "
                "sampler's seed and run again."
            )
        if not run.sums and run.in_part:
            raise ModelError(
                "The recorded prompt acts on a part of the picture alone, and maps are of whole "
                "pictures; set its mask's area to default, and leave out areas and tiles."
            )
        if not run.sums:
            raise ModelError(
                "The sampler ran without the recorded prompt; wire Record Sampling's conditioning "
                "to its positive input."
            )
        return run


def recorded(model: Any, recording: Recording) -> Any:
    """A copy of the MODEL that tells the recording what its words look at."""
    clone = model.clone()
    finished = clone.model.process_latent_out
    current: list[Run] = []

    def outer(executor: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        size = tuple((args[0] if args else kwargs["noise"]).shape[-2:])
        run = Run(size, showing=size)
        denoised: list[Tensor] = []
        current.append(run)
        try:
            latent = executor(*_listening(args, denoised), **kwargs)
        finally:
            current.remove(run)
        recording.keep(run, latent, *(finished(clean.cpu()) for clean in denoised))
        return latent

    def shown_to(
        executor: Callable[..., Tensor], latent: Tensor, *args: Any, **named: Any
    ) -> Tensor:
        for run in current:
            run.showing = tuple(latent.shape[-2:])
        return executor(latent, *args, **named)

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "refdiff", outer)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "refdiff", shown_to)
    clone.set_model_attn2_patch(_watcher(clone, recording, current))
    return clone


def _listening(args: tuple[Any, ...], denoised: list[Tensor]) -> list[Any]:
    """The sampler's arguments, its callback telling what it thinks the picture will be.

    SamplerCustomAdvanced gives the last of these out as a latent of its own.
    """
    if len(args) <= CALLBACK:
        return [*args]  # another wrapper passes it by name; then only the latent is known
    callback = args[CALLBACK]

    def told(step: int, clean: Tensor, *rest: Any) -> None:
        denoised[:] = [clean]
        if callback is not None:
            callback(step, clean, *rest)

    return [*args[:CALLBACK], told, *args[CALLBACK + 1 :]]


def _watcher(
    model: Any, recording: Recording, current: list[Run]
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    unet = running_unet(model)
    wanted = {place_of(layer): layer for layer in recording.strides}
    mode, cond = recording.capture.mode, recording.text.cond
    columns = recording.columns

    def see(hidden: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        layer = wanted.get((*options["block"], options.get("block_index", 0)))
        rows = [] if layer is None or not current else _own_rows(hidden, context, cond, options)
        if rows and current[-1].showing != current[-1].size:
            current[-1].in_part, rows = True, []
        for own in rows:
            attention, grid = unet().get_submodule(layer).attn2, grid_seen(hidden, options)
            recorder = AttentionRecorder([layer], mode, columns)
            query, key = attention.to_q(hidden[own]), attention.to_k(context[own, : cond.shape[1]])
            recorder.add(layer, query, key, attention.heads, grid)
            current[-1].add(layer, recorder.maps[layer])
        return hidden, context, value

    compiling = "torch._dynamo" in sys.modules  # then blocks around it may be, and it need not
    return torch.compiler.disable(see) if compiling else see


def _own_rows(
    hidden: Tensor, context: Tensor, cond: Tensor, options: dict[str, Any]
) -> list[slice]:
    """The rows of the batch that are asked about the recorded prompt, one slice per prompt.

    ComfyUI repeats a prompt that is shorter than its company, so the text is a prefix.
    """
    chunks = options.get("cond_or_uncond") or [0]
    if len(hidden) % len(chunks) or context.shape[1] % cond.shape[1]:
        return []
    each = len(hidden) // len(chunks)
    own = cond[0].to(context)
    return [
        slice(n * each, (n + 1) * each)
        for n in range(len(chunks))
        if torch.equal(context[n * each, : len(own)], own)
    ]


def _fingerprint(latent: Tensor) -> str:
    return hashlib.sha256(latent.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


def token_maps(recording: Recording, run: Run, row: int) -> TokenMaps:
    """The mean maps of one picture of a run's batch."""
    mean = run.mean()
    return prompt_maps(
        {layer: maps[row] for layer, maps in mean.items()},
        recording.strides,
        recording.columns,
        recording.text.tokens,
        recording.text.spans,
        recording.expression.text,
        recording.capture.mode,
    )


class RecordSampling(io.ComfyNode):
    """A MODEL whose words are recorded while a sampler uses it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffRecordSampling",
            display_name="Record Sampling",
            category=CATEGORY,
            description="Records what the words of a prompt look at while your sampler makes the "
            "picture, at no extra pass. Wire model and conditioning to the sampler, the recording "
            "and the sampler's LATENT to Collect Attention.",
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1, 2 or XL model."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a red cat next to a green car",
                    tooltip="The positive prompt of the picture; weights like (cat:1.3) count.",
                ),
                settings_input(),
            ],
            outputs=[
                output(io.Model, "model", "For the sampler.", key="recorded"),
                output(io.Conditioning, "positive", "The prompt, for the sampler."),
                output(RECORDING, "recording", "For Collect Attention."),
            ],
            **found_by("daam", "record attention", "attention while sampling"),
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, prompt: str, settings: NodeSettings | None = None
    ) -> io.NodeOutput:
        check_model(model)
        text = TextReader(clip, prompt_weights=True, clip_skip=None)(prompt)
        settings, kind = settings or NodeSettings(), family(model)
        strides = wanted_layers(model.model.diffusion_model, settings.method(kind).capture)
        recording = Recording(_expression(prompt), text, settings, kind, strides)
        return io.NodeOutput(recorded(model, recording), [[text.cond, text.extra]], recording)


def _expression(prompt: str) -> Expression:
    """The prompt understood as far as it goes; a list of tags is no sentence."""
    try:
        return understood(prompt)[0]
    except ValueError:  # no word in it names a thing: the first one has to do
        whole = about(prompt, Word(prompt, 0, len(prompt)))
        return about(prompt, next(iter(asked_words(whole, "*")), whole.root.word))


class CollectAttention(io.ComfyNode):
    """The attention of the run that made a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffCollectAttention",
            display_name="Collect Attention",
            category=CATEGORY,
            description="What the words of the recorded prompt looked at in the run that made "
            "this latent, averaged over its steps; for a batch a list, one for each picture.",
            inputs=[
                RECORDING.Input("recording", tooltip="From Record Sampling."),
                io.Latent.Input("latent", tooltip="The LATENT of the sampler that ran."),
            ],
            outputs=[output(ATTENTION, "attention", "For Heat Map.", listed=True)],
            hidden=[io.Hidden.unique_id],
            **found_by("daam", "attention of a sampler"),
        )

    @classmethod
    def execute(cls, recording: Recording, latent: dict[str, Any]) -> io.NodeOutput:
        samples = latent["samples"]
        run = recording.run_of(samples)
        size = (samples.shape[-2] * CELL, samples.shape[-1] * CELL)
        found = [
            Attention(token_maps(recording, run, row), recording.family, recording.expression, size)
            for row in range(len(samples))
        ]
        steps = max(run.seen.values())
        words = f"{len(found)} pictures, {steps} steps, {len(run.sums)} layers"
        return io.NodeOutput(found, ui=shown(cls, words=words))
