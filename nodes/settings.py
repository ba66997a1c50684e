"""The method's knobs on one node, so that "the same settings" can be wired."""

from __future__ import annotations

from comfy_api.latest import io

from ..refdiff.attention.capture import CaptureSettings
from ..refdiff.attention.maps import MODES
from ..refdiff.settings import Settings
from .profiles import offered, state_of
from .types import CATEGORY, SETTINGS, NodeSettings, found_by, one_of, output

OWN = "as the profile"
STRIDES: dict[str, tuple[int, ...]] = {
    "1/64": (64,),
    "1/32": (32,),
    "1/16": (16,),
    "1/64 and 1/32": (64, 32),
    "1/32 and 1/16": (32, 16),
    "1/64, 1/32 and 1/16": (64, 32, 16),
    "1/32, 1/16 and 1/8": (32, 16, 8),
}


def profile_input() -> io.Input:
    return io.Combo.Input(
        "profile",
        options=offered(),
        default=Settings().profile,
        tooltip="default measures best; paper follows arXiv 2308.16777; official is the "
        "authors' released code; any other is a NAME.refdiff.toml of `refdiff tune`, in "
        "models/refdiff.",
    )


def noise_input(tooltip: str) -> io.Input:
    default = CaptureSettings().seed
    return io.Int.Input("noise_index", default=default, min=0, max=2**31 - 1, tooltip=tooltip)


class RefDiffSettings(io.ComfyNode):
    """Knobs in, REFDIFF_SETTINGS out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        own = "-1: as the profile."
        return io.Schema(
            node_id="RefDiffSettings",
            display_name="Ref-Diff Settings",
            category=CATEGORY,
            description="The method's knobs. Wire them into Ref-Diff Segment and every stage node "
            "that should agree with it.",
            inputs=[
                profile_input(),
                io.Combo.Input(
                    "strides",
                    options=[OWN, *STRIDES],
                    default=OWN,
                    tooltip="Which cross-attentions are read, by the part of the picture's pixels "
                    "that they look from; all of them weigh alike.",
                ),
                io.Combo.Input(
                    "heat_mode",
                    options=[OWN, *MODES],
                    default=OWN,
                    tooltip="What a word's heat is made of: attention probabilities (the paper), "
                    "their logarithm, or the logits (the authors' code).",
                ),
                _number("timestep", -1, 999, 1, f"Noise put on the picture, 0 to 999. {own}"),
                _number(
                    "size",
                    0.0,
                    4.0,
                    0.25,
                    "Side of the picture the UNet sees, in the model's "
                    "native sides. 0: as the profile.",
                ),
                _number(
                    "alpha", -1.0, 1.0, 0.05, f"Weight of the heat against CLIP, 0 to 1. {own}"
                ),
                _number("beta", -1.0, 1.0, 0.05, f"CLIP: masked view against crop, 0 to 1. {own}"),
                _number(
                    "edges", -1.0, 1.0, 0.1, f"How far outlines follow the picture's edges. {own}"
                ),
                noise_input("Which noise is put on the picture. It stays until you change it."),
                _switch(
                    "keep_model_patches",
                    "Let IP-Adapter and other patches on the model act on Ref-Diff's own "
                    "pass too. LoRAs always do.",
                ),
                _switch(
                    "raise_if_nothing_found",
                    "Stop the graph when nothing is found instead of giving an empty mask.",
                ),
                _switch(
                    "merge_lines",
                    "Ref-Diff Segment: all lines of text in one mask instead of one each.",
                ),
            ],
            outputs=[output(SETTINGS, "settings", "For Ref-Diff Segment and the stages.")],
            **found_by("ref-diff options", "segment settings"),
        )

    @classmethod
    def fingerprint_inputs(cls, profile: str | None = None, **_inputs: object) -> object:
        """Another when the profile's file has changed."""
        return state_of(profile)

    @classmethod
    def execute(
        cls,
        profile: str,
        strides: str,
        heat_mode: str,
        timestep: int,
        size: float,
        alpha: float,
        beta: float,
        edges: float,
        noise_index: int,
        keep_model_patches: bool,
        raise_if_nothing_found: bool,
        merge_lines: bool,
    ) -> io.NodeOutput:
        capture: dict[str, object] = {"seed": noise_index}
        shares = {"alpha": alpha, "beta": beta, "edges": edges}
        changes = {name: value for name, value in shares.items() if value >= 0}
        if strides != OWN:
            capture["strides"] = STRIDES[one_of("strides", strides, [OWN, *STRIDES])]
            changes["stride_weights"] = None
        if heat_mode != OWN:
            capture["mode"] = heat_mode
            capture |= {} if heat_mode == "logits" else {"guidance": None}  # it combines logits
        if timestep >= 0:
            capture["timestep"] = timestep
        if size:
            capture["size"] = size
        settings = NodeSettings(
            profile,
            changes | {"capture": capture},
            keep_model_patches,
            raise_if_nothing_found,
            merge_lines,
        )
        settings.method("other")  # refused here rather than where it is wired
        return io.NodeOutput(settings)


def _number(name: str, low: float, high: float, step: float, tooltip: str) -> io.Input:
    kind = io.Int if isinstance(low, int) else io.Float
    return kind.Input(name, default=low, min=low, max=high, step=step, tooltip=tooltip)


def _switch(name: str, tooltip: str) -> io.Input:
    return io.Boolean.Input(name, default=False, tooltip=tooltip)
