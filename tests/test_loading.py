"""Pipelines from single files in the original layout, from folders, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.hooks import layer_table
from refdiff.errors import ModelError
from refdiff.models import pipelines as loading
from refdiff.models.pipelines import load_pipeline

# ---- the original layout, written from a diffusers pipeline ---------------------------------

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_unet_name(name: str, unet: Any) -> str:
    top = next((new + name[len(old) :] for old, new in TOP.items() if name.startswith(old)), None)
    if top:
        return top
    per_block = unet.config.layers_per_block + 1
    side, rest = name.split("_block", 1)
    if side == "mid":
        kind, index, tail = re.fullmatch(r"\.(\w+)\.(\d+)\.(.*)", rest).groups()
        place = f"middle_block.{2 * int(index) if kind == 'resnets' else 1}"
    else:
        block, kind, index, tail = re.fullmatch(r"s\.(\d+)\.(\w+)\.(\d+)\.(.*)", rest).groups()
        first = int(block) * per_block + (side == "down")
        if kind == "downsamplers":
            return f"input_blocks.{first + per_block - 1}.0.op.{tail.removeprefix('conv.')}"
        if kind == "upsamplers":
            spot = 2 if hasattr(unet.up_blocks[int(block)], "attentions") else 1
            return f"output_blocks.{first + per_block - 1}.{spot}.{tail}"
        sides = {"down": "input_blocks", "up": "output_blocks"}
        place = f"{sides[side]}.{first + int(index)}.{int(kind == 'attentions')}"
    if kind == "resnets":
        part, leaf = tail.rsplit(".", 1)
        tail = f"{RESNET[part]}.{leaf}"
    return f"{place}.{tail}"


def original_vae(vae: Any) -> dict[str, Tensor]:
    blocks = len(vae.config.block_out_channels)
    found = {}
    for name, value in vae.state_dict().items():
        name = re.sub(
            r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name
        )
        name = re.sub(
            r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", name
        )
        name = re.sub(
            r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)",
            lambda m: (
                f"decoder.up.{blocks - 1 - int(m[1])}."
                + (f"block.{m[3]}" if m[2] == "resnets" else "upsample")
            ),
            name,
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for old, new in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
                name = name.replace(f".{old}.", f".{new}.")
            name = name.replace("group_norm", "norm")
            value = value[:, :, None, None] if value.ndim == 2 else value
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        found[f"first_stage_model.{name}"] = value
    return found


def original_clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": value
        for name, value in encoder.state_dict().items()
    }


def original_open_clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """OpenCLIP's names: q, k and v in one matrix, the projection transposed."""
    state = {n.removeprefix("text_model."): v for n, v in encoder.state_dict().items()}
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    if "text_projection.weight" in state:
        found["text_projection"] = state["text_projection.weight"].T
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for layer in range(encoder.config.num_hidden_layers):
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for leaf in ("weight", "bias"):
            parts = [state[f"{old}.self_attn.{x}_proj.{leaf}"] for x in "qkv"]
            found[f"{new}.attn.in_proj_{leaf}"] = torch.cat(parts)
            for theirs, ours in names.items():
                found[f"{new}.{ours}.{leaf}"] = state[f"{old}.{theirs}.{leaf}"]
    return {prefix + name: value for name, value in found.items()}


def original_layout(pipe: Any, family: str) -> dict[str, Tensor]:
    unet = pipe.unet
    state = {
        f"model.diffusion_model.{original_unet_name(name, unet)}": value
        for name, value in unet.state_dict().items()
    } | original_vae(pipe.vae)
    if family == "sd1":
        state |= original_clip(pipe.text_encoder, "cond_stage_model.transformer.")
    elif family == "sd2":
        state |= original_open_clip(pipe.text_encoder, "cond_stage_model.model.")
    else:
        state |= original_clip(pipe.text_encoder, "conditioner.embedders.0.transformer.")
        state |= original_open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    return {name: value.contiguous() for name, value in state.items()}


# ---- the shipped families at reduced width --------------------------------------------------


def narrowed(config: dict[str, Any], part: str, family: str) -> dict[str, Any]:
    """The shipped config of one component, its layout kept and its widths cut."""
    if part == "unet":
        levels = len(config["block_out_channels"])
        config |= {"block_out_channels": [32, 64, 64, 64][:levels], "sample_size": 8}
        config |= {"cross_attention_dim": 96 if family == "sdxl" else 32, "attention_head_dim": 8}
        if family == "sdxl":
            config |= {"transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 8}
            config |= {"projection_class_embeddings_input_dim": 6 * 8 + 64}
    if part == "vae":
        config |= {"block_out_channels": [32] * 4}
    if part.startswith("text_encoder"):
        width = 64 if part == "text_encoder_2" else 32  # told apart by their widths
        config |= {"hidden_size": width, "intermediate_size": 64, "num_attention_heads": 2}
        config |= {"num_hidden_layers": 2, "projection_dim": width}
    return config


@pytest.fixture
def narrow_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped configs folder, narrowed, in the place of the shipped one."""
    shipped, copy = loading.CONFIGS, tmp_path / "configs"
    for source in shipped.rglob("*"):
        target = copy / source.relative_to(shipped)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif source.name == "config.json":
            family, part = source.parts[-3:-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            config = narrowed(json.loads(source.read_text("utf-8")), part, family)
            target.write_text(json.dumps(config), "utf-8")
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    monkeypatch.setattr(loading, "CONFIGS", copy)
    return copy


def from_configs(folder: Path, family: str, **unet: Any) -> Any:
    """A pipeline of random weights, of the classes and shapes the configs describe."""
    torch.manual_seed(0)
    home = folder / family

    def config(part: str) -> dict[str, Any]:
        return json.loads((home / part / "config.json").read_text("utf-8"))

    text = CLIPTextConfig(**config("text_encoder"))
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel.from_config(config("unet") | unet),
        "vae": diffusers.AutoencoderKL.from_config(config("vae")),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "scheduler": diffusers.DDIMScheduler.from_pretrained(home, subfolder="scheduler"),
    }
    if family == "sdxl":
        text_2 = CLIPTextConfig(**config("text_encoder_2"))
        parts |= {"text_encoder_2": CLIPTextModelWithProjection(text_2)}
        parts |= {"tokenizer_2": parts["tokenizer"]}
        return diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def same_weights(one: Any, other: Any) -> bool:
    parts = [p for p in one.components if isinstance(getattr(one, p), torch.nn.Module)]
    return all(
        torch.equal(a, b)
        for part in parts
        for a, b in zip(
            getattr(one, part).state_dict().values(),
            getattr(other, part).state_dict().values(),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("family", "channels", "kind"),
    [
        ("sd1", 4, diffusers.StableDiffusionPipeline),
        ("sd1", 9, diffusers.StableDiffusionInpaintPipeline),
        ("sd2", 4, diffusers.StableDiffusionPipeline),
        ("sdxl", 4, diffusers.StableDiffusionXLPipeline),
        ("sdxl", 9, diffusers.StableDiffusionXLInpaintPipeline),
    ],
)
def test_a_single_file_loads_without_the_hub(
    narrow_configs: Path, tmp_path: Path, family: str, channels: int, kind: type
) -> None:
    made = from_configs(narrow_configs, family, in_channels=channels)
    path = tmp_path / "model.safetensors"
    save_file(original_layout(made, family), path)
    loaded = load_pipeline(path)
    assert type(loaded) is kind
    assert same_weights(made, loaded)
    assert len(loaded.tokenizer) == 49408 and loaded.tokenizer.model_max_length == 77
    maps = DiffusersCapture(loaded)(Image.new("RGB", (64, 64), "red"), "a red cat")
    assert maps.columns(6, 9) == (2,) and all(torch.isfinite(m).all() for m in maps.maps)


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_an_old_file_without_text_model_in_its_names(
    narrow_configs: Path, tmp_path: Path, ending: str
) -> None:
    """As merges of 2022 have it; its text encoder answers like that of the newer layout."""
    made = from_configs(narrow_configs, "sd1")
    old = {
        name.replace("transformer.text_model.", "transformer."): value
        for name, value in original_layout(made, "sd1").items()
    }
    old["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77.0)[None]
    path = tmp_path / f"old.{ending}"
    save_file(old, path) if ending == "safetensors" else torch.save({"state_dict": old}, path)
    loaded = load_pipeline(path)
    assert same_weights(made, loaded)
    picture = Image.new("RGB", (64, 64), "red")
    ours, theirs = (DiffusersCapture(pipe)(picture, "a red cat") for pipe in (loaded, made))
    assert all(torch.equal(a, b) for a, b in zip(ours.maps, theirs.maps, strict=True))
    del old["cond_stage_model.transformer.encoder.layers.1.mlp.fc1.weight"]
    save_file(old, tmp_path / "part.safetensors")
    with pytest.raises(ModelError, match=r"part.safetensors looks like sd1 but"):
        load_pipeline(tmp_path / "part.safetensors")


def test_shipped_configs_describe_the_public_models() -> None:
    """Parameter counts and layer tables of SD 1.5, SD 2.1 and SDXL base, to the last weight."""
    counts = {
        "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
        "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
        "sdxl": {
            "unet": 2_567_463_684,
            "vae": 83_653_863,
            "text_encoder": 123_060_480,
            "text_encoder_2": 694_659_840,
        },
    }
    strides = {"sd1": [1, 2, 4, 8], "sd2": [1, 2, 4, 8], "sdxl": [2, 4]}
    for family, expected in counts.items():
        with torch.device("meta"):
            pipe = from_configs(loading.CONFIGS, family)
        found = {
            part: sum(weight.numel() for weight in getattr(pipe, part).parameters())
            for part in expected
        }
        assert found == expected
        table = layer_table(pipe.unet)
        assert len(table) == {"sd1": 16, "sd2": 16, "sdxl": 70}[family]
        assert sorted({stride for _, stride in table}) == strides[family]


def test_shipped_tokenizer_is_clips() -> None:
    ours = CLIPTokenizer.from_pretrained(loading.CONFIGS / "tokenizer")
    theirs = SimpleTokenizer()
    for text in (
        "a photo of the RED cat's hat, isn't it?",
        "café naïve 42nd 1,000.50 $!",
        "snowman ☃ 🐱 猫 antidisestablishmentarianism",
    ):
        assert ours(text)["input_ids"][1:-1] == theirs.encode(text)
    assert ours("")["input_ids"] == [49406, 49407]
    padded = ours("cat", padding="max_length")["input_ids"]
    assert len(padded) == 77 and padded[-1] == 49407
    zeros = loading.own_tokenizers("sd2", ["tokenizer"])["tokenizer"]
    assert zeros("cat", padding="max_length")["input_ids"][-1] == 0
    size = sum(file.stat().st_size for file in (loading.CONFIGS / "tokenizer").iterdir())
    assert size < 2_500_000


def sd2_norm(spread: float) -> dict[str, Tensor]:
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    return {name: torch.tensor([spread, -spread] * 16)}


@pytest.mark.parametrize(
    ("spread", "prediction", "cells"), [(0.2, "v_prediction", 8), (0.01, "epsilon", 64)]
)
def test_sd2_base_and_768_are_told_apart(
    narrow_configs: Path, tmp_path: Path, spread: float, prediction: str, cells: int
) -> None:
    made = from_configs(narrow_configs, "sd2")
    path = tmp_path / "model.safetensors"
    save_file(original_layout(made, "sd2") | sd2_norm(spread), path)
    loaded = load_pipeline(path, dtype=torch.bfloat16)
    assert loaded.scheduler.config.prediction_type == prediction
    assert loaded.unet.config.sample_size == cells
    assert loaded.unet.dtype == loaded.vae.dtype == loaded.text_encoder.dtype == torch.bfloat16


def test_a_pickle_of_tensors_loads_and_one_of_code_is_refused(
    narrow_configs: Path, tmp_path: Path
) -> None:
    made = from_configs(narrow_configs, "sd1")
    good, bad = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    state = {"state_dict": original_layout(made, "sd1"), "global_step": 3}
    torch.save(state, good)
    assert same_weights(made, load_pipeline(good))
    torch.save(state | {"callbacks": Path("code")}, bad)
    with pytest.raises(ModelError, match=r"bad\.ckpt .* convert it to \.safetensors"):
        load_pipeline(bad)


def test_a_folder_loads_and_keeps_its_weights(narrow_configs: Path, tmp_path: Path) -> None:
    made = from_configs(narrow_configs, "sd1")
    made.save_pretrained(tmp_path / "plain")
    loaded = load_pipeline(tmp_path / "plain")
    assert same_weights(made, loaded) and loaded.safety_checker is None
    made.to(dtype=torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    assert load_pipeline(tmp_path / "half", dtype=torch.float16).unet.dtype == torch.float16


def unet_keys(channels: int = 4, width: int = 768) -> dict[str, Tensor]:
    prefix = "model.diffusion_model."
    return {
        prefix + "input_blocks.0.0.weight": torch.zeros(8, channels, 3, 3),
        prefix + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, width),
    }


CLIP = {"cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(8)}
VAE = {"first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)}
REFUSED = {
    "a LoRA": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(1)},
    "a diffusion transformer": {
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.zeros(1)
    },
    "a diffusion transformer ": {"joint_blocks.0.x_block.mlp.fc1.weight": torch.zeros(1)},
    "a diffusion transformer  ": {"transformer_blocks.0.attn.to_q.weight": torch.zeros(1)},
    "a VAE alone": {
        "encoder.conv_in.weight": torch.zeros(1),
        "decoder.conv_in.weight": torch.zeros(1),
    },
    "a UNet alone": {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": torch.zeros(1)
    },
    "a ControlNet": {"control_model.time_embed.0.weight": torch.zeros(1)},
    "an image upscaler": {
        "conv_first.weight": torch.zeros(1),
        "body.0.rdb1.conv1.weight": torch.zeros(1),
    },
    "a UNet without a text encoder": unet_keys() | VAE,
    "no VAE": unet_keys() | CLIP,
    "takes 7 channels": unet_keys(channels=7) | CLIP | VAE,
    "512 wide": unet_keys(width=512) | CLIP | VAE,
    "the SDXL refiner": unet_keys()
    | {"conditioner.embedders.0.model.ln_final.weight": torch.zeros(1)}
    | VAE,
    "do not fit|lacks": unet_keys() | CLIP | VAE,
    "no model file that is known": {"something.else": torch.zeros(1)},
    "is empty": {},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_whole_checkpoint_is_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "file.safetensors"
    save_file(REFUSED[what], path)
    with pytest.raises(ModelError, match=what.strip()) as caught:
        load_pipeline(path)
    assert "\n" not in str(caught.value) and "file.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "gone",
    [
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight",
        "first_stage_model.quant_conv.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
def test_a_checkpoint_that_lacks_a_weight_is_refused(
    narrow_configs: Path, tmp_path: Path, gone: str
) -> None:
    state = original_layout(from_configs(narrow_configs, "sd1"), "sd1")
    del state[gone]
    save_file(state, tmp_path / "file.safetensors")
    with pytest.raises(ModelError, match=r"lacks (some|1) of its weights"):
        load_pipeline(tmp_path / "file.safetensors")


def test_broken_and_absent_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    save_file(unet_keys(), whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cut\.safetensors is cut short"):
        load_pipeline(cut)
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(ModelError, match="no safetensors file"):
        load_pipeline(pointer)
    with pytest.raises(ModelError, match="There is no model at"):
        load_pipeline(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "FluxPipeline", "transformer": ["diffusers", "F"]})
    )
    with pytest.raises(ModelError, match="FluxPipeline, which has no UNet"):
        load_pipeline(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"'nobody/no-such-model' is neither .* pass a diffusers"):
        load_pipeline("nobody/no-such-model")
