"""Every number of the method in one place, and the profiles: default, the paper's, the authors'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from .capture import CaptureSettings
from .crops import CropStyle
from .proposals import READINGS
from .scoring import SCORES

Bias = Literal["geometry", "paper", "official", "none"]


@dataclass(frozen=True)
class Settings:
    """How a sentence becomes a mask. Comments give the paper's symbols (arXiv 2308.16777)."""

    profile: str = "default"
    capture: CaptureSettings = field(default_factory=CaptureSettings)  # x_t, a
    grid_weights: tuple[float, ...] | None = (0.2, 0.8)  # coarsest first; None: layers weigh alike
    normalise: Literal["mean", "layer"] = "mean"  # where c's min-max is taken
    quantise: bool = False  # c rounded to 8 bits (authors' code)
    snap: float = 1.0  # how far c follows the picture's edges, 0 (bilinear c) to 1
    threshold: float | None = None  # cut c there, share of its range, instead of choosing a cut
    thresholds: int = 19  # |M|, from mu = 5 % to 95 %
    reading: str = "range"  # what mu is a share of: c's range, or the pixels ("percentile")
    # M: the best cut of each peak, every cut (the paper), or also each connected part of the cuts
    proposals: Literal["things", "cuts", "parts"] = "things"
    prominence: float = 0.25  # depth of the valley that makes two things of two peaks, share
    least_area: float = 0.002  # smallest proposal, share of the picture
    largest: int | None = None  # keep that many of the largest proposals (authors' code: 10)
    score: str = "contrast"  # s^G: contrast (the paper), otsu, weighted
    alpha: float = 0.2  # share of s^G in the sum, 0..1; the rest is s^D
    beta: float = 0.5  # share of CLIP's masked branch f_M in s^D, 0..1; the rest is the crop's f
    crop: CropStyle = field(default_factory=lambda: CropStyle("keep", 0.05))  # x * M
    # r: of the root's phrase, the mean of sentence and phrase, or one per branch (authors' code)
    texts: Literal["phrase", "paper", "official"] = "phrase"
    bias: Bias = "geometry"  # P: weights on masks, the paper's darkened picture, or none
    strength: float = 0.2  # of the geometric weights: s + strength * ln(weight)
    shortlist: int = 16  # proposals that CLIP looks at, best s^G first
    empty_below: float = 0.0  # presence under which the answer is "nothing found", 0..1

    def __post_init__(self) -> None:
        for name, known in (
            ("score", tuple(SCORES)),
            ("reading", READINGS),
            ("bias", BIASES),
            ("proposals", KINDS),
            ("texts", TEXTS),
            ("normalise", ("mean", "layer")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(known)}."
                )
        for name in ("alpha", "prominence", "beta", "snap", "empty_below", "least_area"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 0 to 1; correct it.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}, wanted above 0 and below 1, or None.")
        if self.thresholds < 1 or self.shortlist < 1:
            raise ValueError(
                f"thresholds is {self.thresholds} and shortlist {self.shortlist}, wanted 1 or more."
            )

    @classmethod
    def paper(cls, **changes: Any) -> Settings:
        """The paper to the letter where it is clear: t = 2 of 20 steps, softmax maps, alpha, beta.

        Its own proposals are nearly always cut far too small by its contrast score.
        """
        capture = CaptureSettings(timestep=101, grids=(1,), mode="probabilities")
        base = cls(
            profile="paper", capture=capture, proposals="cuts", least_area=0.0, score="contrast",
            alpha=0.1, beta=0.3, texts="paper", bias="paper", shortlist=10_000,
            snap=0.0, grid_weights=None, crop=CropStyle(),
        )  # fmt: skip
        return replace(base, **changes)

    @classmethod
    def official(cls, **changes: Any) -> Settings:
        """The authors' released code, without its channel swap and its cache.

        0.7 crop + 0.3 masked + 0.05 generative is alpha = 0.05 / 1.05. Without given masks, of
        which the authors always have some, the 10 largest of the 19 fraction-of-range cuts.
        """
        base = cls(
            profile="official", capture=CaptureSettings.official(), normalise="layer",
            quantise=True, proposals="cuts", least_area=0.0, largest=10, score="contrast",
            alpha=0.05 / 1.05, beta=0.3, crop=CropStyle.official(), texts="official",
            bias="official", shortlist=10_000, snap=0.0, grid_weights=None,
        )  # fmt: skip
        return replace(base, **changes)

    @classmethod
    def named(cls, profile: str) -> Settings:
        """The settings of a profile; raises ValueError for one that is not known."""
        if profile not in PROFILES:
            raise ValueError(f"The profile is {profile!r}, wanted one of {', '.join(PROFILES)}.")
        return PROFILES[profile]()

    def sized(self, size: float) -> Settings:
        """The same at another size, in multiples of the model's native side."""
        return replace(self, capture=replace(self.capture, size=size))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in ("capture", "crop"):
            nested = plain[name]
            plain[name] = {item.name: getattr(nested, item.name) for item in fields(nested)}
        return plain


TEXTS = ("phrase", "paper", "official")
KINDS = ("things", "cuts", "parts")
BIASES = ("geometry", "paper", "official", "none")
PROFILES: dict[str, Callable[[], Settings]] = {
    "default": Settings,
    "paper": Settings.paper,
    "official": Settings.official,
}
