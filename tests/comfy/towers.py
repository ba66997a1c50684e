"""An open_clip model once more as ComfyUI's CLIP_VISION and CLIP: its classes, the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip import get_tokenizer
from open_clip.model import CLIP
from torch import Tensor

from refdiff.scoring.clip import ClipScorer

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.25, 0.2)
SIDE, HEAD = 64, 16
WIDTHS = {"g": 48, "h": 48, "l": 32}


def random_scorer(name: str, width: int = 0) -> ClipScorer:
    """A small CLIP in the manner of clip_g, clip_h or clip_l, whose weights all matter.

    Each is a number of half precision, in which ComfyUI keeps them.
    """
    width = width or WIDTHS[name]
    vision = {"image_size": SIDE, "patch_size": 8, "width": 64, "layers": 2, "head_width": HEAD}
    text = {"context_length": 77, "vocab_size": 49408, "heads": width // HEAD}
    torch.manual_seed(0)
    model = CLIP(
        width,
        vision,
        {**text, "width": width, "layers": 3},
        quick_gelu=name == "l",
    )
    for weight in model.parameters():
        weight.data = (weight.data + 0.05 * torch.randn_like(weight)).half().float()
    return ClipScorer(model.eval(), get_tokenizer("ViT-B-32"), SIDE, MEAN, STD)


def text_weights(scorer: ClipScorer) -> dict[str, Tensor]:
    """The text half in open_clip's own layout."""
    apart = ("visual.", "logit_", "attn_mask")
    state = scorer.model.state_dict()
    return {name: one.clone() for name, one in state.items() if not name.startswith(apart)}


def load_clip(**texts: ClipScorer) -> Any:
    """The CLIP of SDXL (g=, l=), SD2 (h=) or SD1 (l=) with the text towers of these models."""
    from comfy.sd import CLIP
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer
    from comfy.utils import clip_text_transformers_convert

    kinds: dict[str, tuple[type, type]] = {
        "g": (SDXLTokenizer, SDXLClipModel),
        "h": (SD2Tokenizer, SD2ClipModel),
        "l": (SD1Tokenizer, SD1ClipModel),
    }
    shapes = {f"clip_{name}_model_config": text_shape(one) for name, one in texts.items()}
    clip = CLIP(ClipTarget(*kinds[min(texts)]), model_options=shapes)
    for name, scorer in texts.items():
        weights = clip_text_transformers_convert(text_weights(scorer), "", "")
        getattr(clip.cond_stage_model, f"clip_{name}").load_sd(weights)
    return clip


def text_shape(scorer: ClipScorer) -> dict[str, Any]:
    """A text tower's sizes as ComfyUI's configs say them."""
    blocks = scorer.model.transformer.resblocks
    width = scorer.model.ln_final.weight.shape[0]
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": blocks[0].attn.num_heads,
        "num_hidden_layers": len(blocks),
        "hidden_act": activation(blocks),
    }


def activation(blocks: Any) -> str:
    """What ComfyUI calls the activation of open_clip's layers."""
    return "quick_gelu" if type(blocks[0].mlp.gelu).__name__ == "QuickGELU" else "gelu"


def load_vision(scorer: ClipScorer, folder: Path, **changes: Any) -> Any:
    """What Load CLIP Vision makes of a file of open_clip's, were its sizes among those it knows.

    changes: of the config, for a model of another kind, which gets no weights.
    """
    from comfy.clip_vision import ClipVisionModel, convert_to_transformers

    visual = scorer.model.visual
    width, layers = visual.conv1.out_channels, len(visual.transformer.resblocks)
    config = {
        "hidden_act": activation(visual.transformer.resblocks),
        "hidden_size": width,
        "image_size": scorer.size,
        "image_mean": scorer.mean.flatten().tolist(),
        "image_std": scorer.std.flatten().tolist(),
        "intermediate_size": 4 * width,
        "model_type": "clip_vision_model",
        "num_attention_heads": visual.transformer.resblocks[0].attn.num_heads,
        "num_channels": 3,
        "num_hidden_layers": layers,
        "patch_size": visual.patch_size[0],
        "projection_dim": visual.output_dim,
    } | changes
    file = folder / "clip_vision.json"
    file.write_text(json.dumps({key: one for key, one in config.items() if one is not None}))
    loaded = ClipVisionModel(str(file))
    if not changes:
        state = {name: one.clone() for name, one in scorer.model.state_dict().items()}
        assert not loaded.load_sd(convert_to_transformers(state, "visual.")).missing_keys
    return loaded
