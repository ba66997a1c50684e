"""The method's knobs on one node, so that "the same settings" can be wired."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..refdiff.attention import MODES
from ..refdiff.capture import CaptureSettings
from ..refdiff.settings import PROFILES, Settings
from .wires import CATEGORY, SETTINGS, NodeSettings, one_of, output

OWN = "as the profile"
LAYERS = {
    OWN: None,
    "coarsest": 1,
    "two coarsest": 2,
    "three coarsest": 3,
    "second coarsest only": (1,),
}


def profile_input() -> io.Input:
    return io.Combo.Input(
        "profile",
        options=list(PROFILES),
        default=Settings().profile,
        tooltip="default measures best; paper follows arXiv 2308.16777; official is the "
        "authors' released code.",
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
                    "layers",
                    options=list(LAYERS),
                    default=OWN,
                    tooltip="Which cross-attentions are read, by the coarseness of their grid.",
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
                    "snap", -1.0, 1.0, 0.1, f"How far the heat follows the picture's edges. {own}"
                ),
                noise_input("Which noise is put on the picture. It stays until you change it."),
                _switch(
                    "keep_model_patches",
                    "Let IP-Adapter and other patches on the model act on Ref-Diff's own "
                    "pass too. LoRAs always do.",
                ),
                _switch(
                    "raise_on_failure",
                    "Stop the graph on a failure instead of giving an empty mask.",
                ),
                _switch(
                    "merge_lines",
                    "Ref-Diff Segment: all lines of text in one mask instead of one each.",
                ),
            ],
            outputs=[output(SETTINGS, "settings", "For Ref-Diff Segment and the stages.")],
        )

    @classmethod
    def execute(
        cls,
        profile: str,
        layers: str,
        heat_mode: str,
        timestep: int,
        size: float,
        alpha: float,
        beta: float,
        snap: float,
        noise_index: int,
        keep_model_patches: bool,
        raise_on_failure: bool,
        merge_lines: bool,
    ) -> io.NodeOutput:
        base = Settings.named(profile)
        seen = {
            "grids": LAYERS[one_of("layers", layers, list(LAYERS))],
            "mode": None if heat_mode == OWN else heat_mode,
            "timestep": None if timestep < 0 else timestep,
            "size": size or None,
            "seed": noise_index,
        }
        rest = {"alpha": alpha, "beta": beta, "snap": snap}
        method = replace(
            base,
            capture=_changed(base.capture, seen),
            **{name: value for name, value in rest.items() if value >= 0},
        )
        settings = NodeSettings(method, keep_model_patches, raise_on_failure, merge_lines)
        return io.NodeOutput(settings)


def _changed(capture: CaptureSettings, changes: dict[str, object]) -> CaptureSettings:
    kept = {name: value for name, value in changes.items() if value is not None}
    if kept.get("mode", "logits") != "logits":
        kept["guidance"] = None  # it combines logits only
    return replace(capture, **kept)


def _number(name: str, low: float, high: float, step: float, tooltip: str) -> io.Input:
    kind = io.Int if isinstance(low, int) else io.Float
    return kind.Input(name, default=low, min=low, max=high, step=step, tooltip=tooltip)


def _switch(name: str, tooltip: str) -> io.Input:
    return io.Boolean.Input(name, default=False, tooltip=tooltip)
