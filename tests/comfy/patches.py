"""What users do to a MODEL before we see it, by ComfyUI's own nodes where it has them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch


def extra_node(module: str, name: str, model: Any, *given: Any, **named: Any) -> Any:
    """What a node of ComfyUI's own makes of a MODEL."""
    node = getattr(import_module(f"comfy_extras.{module}"), name)
    made = node.execute(model, *given, **named) if hasattr(node, "execute") else None
    return node().patch(model, *given, **named)[0] if made is None else made[0]


def tome(model: Any) -> Any:
    return extra_node("nodes_tomesd", "TomePatchModel", model, 0.5)


def hyper_tile(model: Any) -> Any:
    return extra_node("nodes_hypertile", "HyperTile", model, 32, 2, 0, False)


def free_u(model: Any) -> Any:
    return extra_node("nodes_freelunch", "FreeU", model, 1.3, 1.4, 0.9, 0.2)


def free_u_2(model: Any) -> Any:
    return extra_node("nodes_freelunch", "FreeU_V2", model, 1.3, 1.4, 0.9, 0.2)


def perturbed(model: Any) -> Any:
    return extra_node("nodes_pag", "PerturbedAttentionGuidance", model, 3.0)


def self_attention_guidance(model: Any) -> Any:
    return extra_node("nodes_sag", "SelfAttentionGuidance", model, 0.5, 2.0)


def deep_shrink(model: Any) -> Any:
    given = (1, 2.0, 0.0, 1.0, True, "bicubic", "bicubic")
    return extra_node("nodes_model_downscale", "PatchModelAddDownscale", model, *given)


def compiled(model: Any) -> Any:
    """The block with the last cross-attention as torch.compile runs it."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    user = model.clone()
    keys = ["diffusion_model.output_blocks.5.1.transformer_blocks.0"]
    set_torch_compile_wrapper(user, backend="eager", keys=keys)
    return user


def override(model: Any) -> Any:
    """An attention of its own for every layer, as the nodes for Sage and Flash set it."""
    from comfy.ldm.modules.attention import attention_split

    user = model.clone()
    options = user.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda _, *given, **named: attention_split(
        *given, **named
    )
    return user


def ip_adapter(model: Any) -> Any:
    """Another picture's tokens asked beside the text's, as IPAdapter_plus replaces attn2."""
    from comfy.ldm.modules.attention import optimized_attention

    def replace(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        heads, other = options["n_heads"], torch.ones_like(k[:, :4])
        text = optimized_attention(q, k, v, heads)
        return text + optimized_attention(q, other, other, heads)

    user = model.clone()
    for block, number in [("input", 1), ("input", 3), ("middle", 0), ("output", 2)]:
        user.set_model_attn2_replace(replace, block, number)
    return user


def attention_couple(model: Any) -> Any:
    """The picture asked twice, about two prompts, as the regional prompting packs do."""
    user = model.clone()
    user.set_model_attn2_patch(
        lambda n, c, v, o: (n.repeat(2, 1, 1), c.repeat(2, 1, 1), v.repeat(2, 1, 1))
    )
    user.set_model_attn2_output_patch(lambda n, o: n.chunk(2)[0])
    return user


def longer_text(model: Any) -> Any:
    """A second prompt's tokens after the first's."""
    user = model.clone()
    user.set_model_attn2_patch(lambda n, c, v, o: (n, c.repeat(1, 2, 1), v.repeat(1, 2, 1)))
    return user


def merged(model: Any) -> Any:
    """Every second place left out of the cross-attention."""
    user = model.clone()
    user.set_model_attn2_patch(lambda n, c, v, o: (n[:, ::2], c, v))
    user.set_model_attn2_output_patch(lambda n, o: n.repeat_interleave(2, 1))
    return user


def hypernetwork(model: Any, folder: Path) -> Any:
    """Other keys for the same words."""
    import folder_paths

    part = {"linear.weight": torch.randn(32, 32) / 4, "linear.bias": torch.zeros(32)}
    torch.save({32: [part, part]}, folder / "hyper.pt")
    folder_paths.folder_names_and_paths["hypernetworks"] = ([str(folder)], {".pt"})
    return extra_node("nodes_hypernetwork", "HypernetworkLoader", model, "hyper.pt", 1.0)


def lora() -> dict[str, torch.Tensor]:
    """A LoRA of the middle block's keys and of what comes before and after them."""
    torch.manual_seed(3)
    made = {}
    parts = {"attn2_to_k": (32, 128), "attn1_to_q": (128, 128), "attn2_to_out_0": (128, 128)}
    for part, (wide, tall) in parts.items():
        name = f"lora_unet_middle_block_1_transformer_blocks_0_{part}"
        made[f"{name}.lora_up.weight"] = torch.randn(tall, 4) / 3
        made[f"{name}.lora_down.weight"] = torch.randn(4, wide) / 3
        made[f"{name}.alpha"] = torch.tensor(4.0)
    return made
