"""Stable Diffusion 3 behind the `Reader`: a joint attention of picture and text, in diffusers.

A proof that the reader is not bound to UNets, offered to nobody yet. A map is what a place of the
picture asks of each column of the text, as a share of all it asks, the picture's places included:
the softmax runs over all keys of the joint attention, as in the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from refdiff.attention.backend import AllSeen, Embeds, Shown, Words
from refdiff.attention.capture import CaptureSettings
from refdiff.attention.diffusers import vae_mean
from refdiff.attention.maps import AttentionRecorder, Grid
from refdiff.attention.noise import cfg_output
from refdiff.attention.prompt_chunks import prompt_chunks
from refdiff.families import Family
from refdiff.models.pipelines import CONFIGS

COLUMNS, COLUMNS_T5 = 77, 24  # of CLIP's text and of T5's


class Sd3Backend:
    """A Stable Diffusion 3 pipeline of diffusers, as refdiff's `Backend` says; one window of text.

    Without its third encoder the text ends with CLIP's columns, as in ComfyUI.
    """

    family: Family = "other"
    way_up = None

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.native = pipe.transformer.config.sample_size * pipe.vae_scale_factor
        self.multiple = pipe.transformer.config.patch_size * pipe.vae_scale_factor
        self.levels = pipe.scheduler.config.num_train_timesteps

    def layers(self) -> dict[str, int]:
        blocks = len(self.pipe.transformer.transformer_blocks)
        return {f"transformer_blocks.{index}": self.multiple for index in range(blocks)}

    def check(self, settings: CaptureSettings) -> None:
        refuse_kept_queries(settings)

    @contextmanager
    def session(self) -> Iterator[None]:
        yield

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        stacked = torch.from_numpy(np.stack([np.array(image) for image in images]))
        pixels = stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
        return vae_mean(self.pipe.vae, pixels).float()

    def words(self, text: str) -> Words:
        clip = prompt_chunks(self.pipe.tokenizer, text)
        tokens, spans = list(clip.tokens[:COLUMNS]), list(clip.spans[:COLUMNS])
        if self.pipe.text_encoder_3 is not None:
            tokenizer, most = self.pipe.tokenizer_3, COLUMNS_T5
            found = tokenizer(
                text, padding="max_length", max_length=most, return_offsets_mapping=True
            )
            tokens += tokenizer.convert_ids_to_tokens(found["input_ids"])
            spans += [(a, b) if a < b else None for a, b in found["offset_mapping"]]
        return Words(tuple(tokens), tuple(spans))

    def embed(self, texts: Sequence[str], columns: int, clip_skip: int = 0) -> Embeds:
        states, _, pooled, _ = self.pipe.encode_prompt(
            list(texts),
            None,
            None,
            do_classifier_free_guidance=False,
            clip_skip=clip_skip,
            max_sequence_length=0 if self.pipe.text_encoder_3 is None else COLUMNS_T5,
        )
        return Embeds(states, pooled)

    def run(
        self,
        shown: Shown,
        embeds: Embeds,
        recorders: Sequence[AttentionRecorder],
        guidance: float | None,
    ) -> None:
        """Straight lines from picture to noise, and Euler's steps from call to call."""
        sigmas = (shown.levels / self.levels)[..., None, None, None]
        sample = (1 - sigmas[0]) * shown.clean + sigmas[0] * shown.noise
        patch = self.pipe.transformer.config.patch_size
        grid = sample.shape[2] // patch, sample.shape[3] // patch
        for call, recorder in enumerate(recorders, start=1):
            last = call == len(recorders)
            with joint_recording(self.pipe.transformer, recorder, grid, stop=last):
                output = self.pipe.transformer(
                    sample, embeds.states, embeds.pooled, shown.levels[call], return_dict=False
                )[0]
            assert not recorder.missing
            if not last:
                sample = sample + (sigmas[call + 1] - sigmas[call]) * cfg_output(output, guidance)

    def keys(self, layers: Collection[str], embeds: Embeds) -> Mapping[str, Tensor]:
        raise AssertionError("`check` refuses kept queries")


def refuse_kept_queries(settings: CaptureSettings) -> None:
    """A block's text is what the blocks before made of text and picture: it needs a pass."""
    if settings.queries != "own":
        raise ValueError(
            f"queries is {settings.queries!r}, and this model's words change with the picture in "
            "every block; set queries='own'."
        )


@contextmanager
def joint_recording(
    transformer: Any, recorder: AttentionRecorder, grid: Grid, stop: bool
) -> Iterator[None]:
    """Let `recorder` see the joint attentions it wants; `stop` as in `hooks.recording`."""
    handles: list[Any] = []
    try:
        for index, block in enumerate(transformer.transformer_blocks):
            name = f"transformer_blocks.{index}"
            if recorder.wants(name, grid):
                handles += _observe(name, block.attn, recorder, grid, stop)
        yield
    except AllSeen:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _observe(
    name: str, attention: Any, recorder: AttentionRecorder, grid: Grid, stop: bool
) -> list[Any]:
    seen: dict[str, Tensor] = {}

    def hook(part: str, projection: Any, norm: Any) -> Any:
        def see(_module: Any, _inputs: Any, output: Tensor) -> None:
            seen[part] = output
            if len(seen) == 3:
                key = torch.cat([seen["text"], seen["places"]], dim=-2)
                recorder.add(name, seen["asking"], key, attention.heads, grid)
                if stop and recorder.done:
                    raise AllSeen(name)

        return (projection if norm is None else norm).register_forward_hook(see)

    return [
        hook("asking", attention.to_q, attention.norm_q),
        hook("places", attention.to_k, attention.norm_k),
        hook("text", attention.add_k_proj, attention.norm_added_k),
    ]


def sd3_pipeline(qk_norm: str | None = None, t5: bool = True) -> Any:
    """The real classes with random weights: two blocks of two heads, 128 numbers wide."""
    torch.manual_seed(0)
    width = 4096  # of the text, as ComfyUI pads it
    transformer = SD3Transformer2DModel(
        sample_size=16,
        num_layers=2,
        num_attention_heads=2,
        joint_attention_dim=width,
        caption_projection_dim=128,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        qk_norm=qk_norm,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    third = {"text_encoder_3": _t5(width), "tokenizer_3": t5_tokenizer()} if t5 else {}
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=_clip("quick_gelu"),
        tokenizer=_clip_tokenizer("<|endoftext|>"),
        text_encoder_2=_clip("gelu"),
        tokenizer_2=_clip_tokenizer("!"),
        **({"text_encoder_3": None, "tokenizer_3": None} | third),
    )


def _clip(act: str) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=3,
        projection_dim=32,
        hidden_act=act,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    return CLIPTextModelWithProjection(config).eval()


def _clip_tokenizer(pad: str) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer", pad_token=pad)


def _t5(width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=64, d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=1, dropout_rate=0.0
    )
    return T5EncoderModel(config).eval()


def t5_tokenizer() -> T5TokenizerFast:
    """Pieces of one letter, and two words that are whole."""
    letters = [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,-."]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    pieces = [*special, *letters, ("▁red", -2.0), ("▁a", -2.0)]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
