"""Stable Diffusion 3 behind the `Reader` in ComfyUI: the same weights, maps and proof as in ../sd3.

A replacement of each wanted block asks its projections what its joint attention will be given, and
then runs the block itself; the softmax runs over all keys, the words' and the picture's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from refdiff.attention.backend import AllSeen, Embeds, Shown, Words
from refdiff.attention.capture import CaptureSettings
from refdiff.attention.maps import AttentionRecorder, Grid
from refdiff.attention.noise import cfg_output
from refdiff.attention.prompt_chunks import piece_spans
from refdiff.families import Family

STRIDE = 16  # pixels between the places of a picture


class Sd3Backend:
    """A Stable Diffusion 3 MODEL of ComfyUI, as refdiff's `Backend` says; one window of text."""

    family: Family = "other"
    way_up = None
    native, multiple, levels = 128, STRIDE, 1000

    def __init__(self, model: Any, clip: Any) -> None:
        self.model, self.clip = model, clip

    def layers(self) -> dict[str, int]:
        blocks = self.model.model.diffusion_model.joint_blocks
        return {f"joint_blocks.{index}": STRIDE for index in range(len(blocks))}

    def check(self, settings: CaptureSettings) -> None:
        """The proof is given settings that it keeps."""

    @contextmanager
    def session(self) -> Iterator[None]:
        yield

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        raise AssertionError("the proof is given its latents")

    def words(self, text: str) -> Words:
        tokenizer = self.clip.tokenizer.clip_l
        pieces = [
            tokenizer.inv_vocab[item[0]]
            for window in self.clip.tokenize(text)["l"]
            for item in window
        ]
        return Words(tuple(pieces), piece_spans(text, pieces))

    def embed(self, texts: Sequence[str], columns: int, clip_skip: int = 0) -> Embeds:
        told = [
            self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True)
            for text in texts
        ]
        states, pooled = (torch.cat(each).float() for each in zip(*told, strict=True))
        return Embeds(states, pooled)

    def run(
        self,
        shown: Shown,
        embeds: Embeds,
        recorders: Sequence[AttentionRecorder],
        guidance: float | None,
    ) -> None:
        import comfy.sample
        from comfy.samplers import KSAMPLER

        model = self.model.clone()
        running: list[AttentionRecorder] = []
        grid = shown.clean.shape[2] // 2, shown.clean.shape[3] // 2
        for layer in recorders[-1].missing:
            see = self._watcher(layer, grid, running, recorders[-1])
            number = int(layer.rpartition(".")[2])
            model.set_model_patch_replace(see, "dit", "double_block", number)
        raw = model.get_model_object("latent_format").process_out(shown.clean)
        conditioning = [[embeds.states, {"pooled_output": embeds.pooled}]]
        sigmas = shown.levels / self.levels
        comfy.sample.sample_custom(
            model,
            shown.noise,
            1.0,
            KSAMPLER(_sampler(shown, sigmas, recorders, running, guidance)),
            torch.cat([sigmas[1:, 0], torch.zeros(1)]),
            conditioning,
            conditioning,
            raw,
            disable_pbar=True,
            seed=0,
        )
        assert not any(recorder.missing for recorder in recorders)

    def keys(self, layers: Collection[str], embeds: Embeds) -> Mapping[str, Tensor]:
        raise AssertionError("the proof keeps no queries")

    def _watcher(
        self, layer: str, grid: Grid, running: list[AttentionRecorder], last: AttentionRecorder
    ) -> Callable[..., Any]:
        block = self.model.model.diffusion_model.get_submodule(layer)

        def see(args: dict[str, Any], extra: dict[str, Any]) -> Any:
            words = block.context_block.pre_attention(args["txt"], args["vec"])[0]
            places = block.x_block.pre_attention(args["img"], args["vec"])[0]
            key = torch.cat([words[1], places[1]], dim=1)
            running[0].add(layer, places[0], key, block.x_block.attn.num_heads, grid)
            if last.done:
                raise AllSeen(layer)
            return extra["original_block"](args)

        return see


def _sampler(
    shown: Shown,
    sigmas: Tensor,
    recorders: Sequence[AttentionRecorder],
    running: list[AttentionRecorder],
    guidance: float | None,
) -> Callable[..., Tensor]:
    levels = sigmas[..., None, None, None]

    def sampler(network: Any, start: Tensor, _: Any, extra_args: Any, **_unused: Any) -> Tensor:
        sample = (1 - levels[0]) * shown.clean + levels[0] * shown.noise
        for call, recorder in enumerate(recorders, start=1):
            running[:] = [recorder]
            try:
                clean = network(sample, sigmas[call], **extra_args)
            except AllSeen:
                return sample
            if call < len(recorders):
                velocity = cfg_output((sample - clean) / levels[call], guidance)
                sample = sample + (levels[call + 1] - levels[call]) * velocity
        return sample

    return sampler


def twin_of(pipe: Any) -> tuple[Any, Any]:
    """A pipeline's transformer and CLIPs as ComfyUI's MODEL and CLIP.

    ComfyUI's CLIP-L answers with what its projection is given: the pipeline's has to do nothing.
    """
    import comfy.sd
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.sd3_clip import SD3Tokenizer, sd3_clip

    torch.nn.init.eye_(pipe.text_encoder.text_projection.weight)
    weights = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    options: dict[str, Any] = {"dtype": torch.float32}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    shape |= {"num_hidden_layers": 3}
    target = ClipTarget(SD3Tokenizer, sd3_clip(clip_l=True, clip_g=True, t5=False))
    options = options | {f"clip_{name}_model_config": shape for name in "lg"}
    clip = comfy.sd.CLIP(target, model_options=options)
    for name, encoder in (("l", pipe.text_encoder), ("g", pipe.text_encoder_2)):
        getattr(clip.cond_stage_model, f"clip_{name}").load_sd(dict(encoder.state_dict()))
    return model, clip
