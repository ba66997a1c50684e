"""The nodes. Each converts what is on its wires, calls `refdiff`, and converts the answer back."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .candidates import ShowCandidates
from .clip_vision import ClipVisionScorer
from .expression import ParseExpression
from .heat import AttentionFromImage, HeatMap
from .load_clip import LoadClipScorer
from .load_stickers import LoadStickerModels
from .refine import RefineMask
from .sampling import CollectAttention, RecordSampling
from .save_mask import SaveForMaskEditor
from .score_choose import ChooseMask, MaskProposals, ScoreProposals
from .segment import RefDiffSegment
from .segs import DetectorProvider, MasksToSegs, SegsToMasks
from .settings import RefDiffSettings
from .xray import PromptXRay

NODES: list[type[io.ComfyNode]] = [
    RefDiffSegment,
    RefDiffSettings,
    ParseExpression,
    AttentionFromImage,
    RecordSampling,
    CollectAttention,
    HeatMap,
    PromptXRay,
    MaskProposals,
    LoadClipScorer,
    ClipVisionScorer,
    ScoreProposals,
    ShowCandidates,
    ChooseMask,
    RefineMask,
    SaveForMaskEditor,
    MasksToSegs,
    SegsToMasks,
    DetectorProvider,
    LoadStickerModels,
]


class RefDiffExtension(ComfyExtension):
    """What ComfyUI asks a pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> RefDiffExtension:
    """Called by ComfyUI when it loads the pack."""
    return RefDiffExtension()
