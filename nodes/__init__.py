"""The nodes. Each converts what is on its wires, calls `refdiff`, and converts the answer back."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .clip import LoadClipScorer
from .expression import ParseExpression
from .heat import AttentionFromImage, HeatMap
from .judge import ChooseMask, MaskProposals, ScoreProposals
from .knobs import RefDiffSettings
from .refine import RefineMask
from .sampling import CollectAttention, RecordSampling
from .segment import RefDiffSegment
from .world import LoadStickerModels

NODES: list[type[io.ComfyNode]] = [
    RefDiffSegment,
    RefDiffSettings,
    ParseExpression,
    AttentionFromImage,
    RecordSampling,
    CollectAttention,
    HeatMap,
    MaskProposals,
    LoadClipScorer,
    ScoreProposals,
    ChooseMask,
    RefineMask,
    LoadStickerModels,
]


class RefDiffExtension(ComfyExtension):
    """What ComfyUI asks a pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> RefDiffExtension:
    """Called by ComfyUI when it loads the pack."""
    return RefDiffExtension()
