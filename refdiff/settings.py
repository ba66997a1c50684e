"""Every number of the method in one place, and the profiles: default, the paper's, the authors'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from .attention.capture import CaptureSettings
from .attention.maps import Spread
from .families import PROFILES as FAMILY_PROFILES
from .families import Family
from .masks.resize import LONGEST
from .scoring.crops import CropStyle

Proposals = Literal["peaks", "regions", "cuts", "parts"]
Score = Literal["contrast", "otsu"]
Fusion = Literal["log", "sum", "rank", "calibrated"]
ClipText = Literal["phrase", "paper", "official"]
Views = Literal["refdiff", "official"]
PlaceRule = Literal["geometry", "paper", "official", "none"]
StrideWeights = tuple[tuple[int, float], ...]
_OPTIONS = {
    "spread": get_args(Spread),
    "proposals": get_args(Proposals),
    "score": get_args(Score),
    "fusion": get_args(Fusion),
    "clip_text": get_args(ClipText),
    "views": get_args(Views),
    "place_rule": get_args(PlaceRule),
}
_SHARES = (
    "alpha",
    "beta",
    "prominence",
    "faintest",
    "edges",
    "edge_reach",
    "empty_below",
    "least_area",
)


@dataclass(frozen=True)
class Settings:
    """How a sentence becomes a mask. Comments give the paper's symbols (arXiv 2308.16777)."""

    profile: str = "default"
    family: Family = "other"  # whose published numbers these are; see `families`
    capture: CaptureSettings = field(default_factory=CaptureSettings)  # x_t, a
    # (stride, weight): layers of a stride are averaged first; None: every layer weighs alike
    stride_weights: StrideWeights | None = None
    # c is the word's share against the text's other nouns and the background, stop words apart
    compete: bool = False
    spread: Spread = "off"  # c along self-attention (`CaptureSettings.places`): twice, or as iSeg's
    # long side in pixels at which heat is cut and candidates compared; outlines are drawn at the
    # picture's own. Larger ones find smaller things and take longer; no published figure
    working: int = LONGEST
    threshold: float | None = None  # cut c there, share of its range, instead of choosing a cut
    thresholds: int = 19  # |M|, from mu = 5 % to 95 %
    # M: the best cut of each peak; also regions by self-attention, of `CaptureSettings.places`
    # (N-cut; DiffCut, arXiv 2406.02842); every cut (the paper), or also each connected part of them
    proposals: Proposals = "peaks"
    prominence: float = 0.25  # depth of the valley that makes two things of two peaks, share
    faintest: float = 0.3  # height of a peak that still makes a thing, share of the highest
    unions: bool = True  # also neighbouring peaks together, and the whole map's best cut
    least_area: float = 0.002  # smallest proposal, share of the picture
    largest: int | None = None  # keep that many of the largest proposals (authors' code: 10)
    edges: float = 1.0  # how far the outline follows the picture's edges, 0 to 1
    edge_reach: float = 1 / 16  # how far off the outline may be, share of the long side
    score: Score = "contrast"  # s^G
    # product of shares (their logarithms' sum), free of any model's scale; the paper's sum; product
    # of 1 / rank; or weights fitted on stickers, where `alpha` has no say (`families.CALIBRATED`)
    fusion: Fusion = "log"
    alpha: float = 0.4  # share of s^G in the fusion, 0..1; the rest is s^D
    beta: float = 0.5  # share of CLIP's masked branch f_M in s^D, 0..1; the rest is the crop's f
    crop: CropStyle = field(default_factory=lambda: CropStyle("keep", 0.05))  # x * M
    # r: of the root's phrase, the mean of sentence and phrase, or one per branch (authors' code)
    clip_text: ClipText = "phrase"
    # sentences the phrase is put into, their features averaged ("a photo of a {}": worth 1.3 points
    # on ImageNet, CLIP's paper, arXiv 2103.00020, section 3.1.4); for clip_text "phrase"
    clip_templates: tuple[str, ...] = ("{}",)
    # how the heat is drawn and CLIP shown the masks: this project's way, or the authors' code's
    views: Views = "refdiff"
    place_rule: PlaceRule = "geometry"  # P: weights on masks, a darkened picture, or none
    place_weight: float = 2.0  # of the logarithm of the geometric weights in the fusion
    clip_candidates: int = 24  # proposals that CLIP looks at, best s^G first
    empty_below: float = 0.0  # presence under which the answer is "nothing found", 0..1

    def __post_init__(self) -> None:
        for name, known in _OPTIONS.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(known)}."
                )
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 0 to 1; correct it.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}, wanted above 0 and below 1, or None.")
        if not 64 <= self.working <= 2048:
            raise ValueError(f"working is {self.working} pixels, wanted 64 to 2048.")
        if not self.clip_templates or any(one.count("{}") != 1 for one in self.clip_templates):
            raise ValueError(
                f"clip_templates is {self.clip_templates!r}, wanted sentences with one {{}} each, "
                'such as "a photo of a {}".'
            )
        if self.proposals == "regions" and self.capture.places is None:
            raise ValueError(
                "proposals is 'regions', which needs the self-attention; set capture.places, such "
                "as 16 pixels."
            )
        if self.thresholds < 1 or self.clip_candidates < 1:
            raise ValueError(
                f"thresholds is {self.thresholds} and clip_candidates {self.clip_candidates}, "
                "wanted 1 or more."
            )

    @classmethod
    def paper(cls, **changes: Any) -> Settings:
        """The paper to the letter where it is clear: t = 2 of 20 steps, softmax maps, alpha, beta.

        Its own proposals are nearly always cut far too small by its contrast score.
        """
        capture = CaptureSettings(timestep=101, strides=(32,), mode="probabilities")
        base = cls(
            profile="paper", capture=capture, proposals="cuts", least_area=0.0, edges=0.0,
            fusion="sum", alpha=0.1, beta=0.3, crop=CropStyle(), clip_text="paper",
            place_rule="paper", place_weight=0.0, clip_candidates=10_000,
        )  # fmt: skip
        return replace(base, **changes)

    @classmethod
    def official(cls, **changes: Any) -> Settings:
        """The authors' released code, without its channel swap and its cache.

        0.7 crop + 0.3 masked + 0.05 generative is alpha = 0.05 / 1.05. Without given masks, of
        which the authors always have some, the 10 largest of the 19 fraction-of-range cuts.
        """
        base = cls(
            profile="official", capture=CaptureSettings.official(),
            proposals="cuts", least_area=0.0, largest=10, edges=0.0, fusion="sum",
            alpha=0.05 / 1.05, beta=0.3, clip_text="official",
            views="official", place_rule="official", place_weight=0.0, clip_candidates=10_000,
        )  # fmt: skip
        return replace(base, **changes)

    @classmethod
    def named(cls, profile: str, family: Family = "other") -> Settings:
        """The settings of a profile for a family of models; ValueError for one that is not known.

        The default profile takes what `families` holds for the family; the paper's and the
        authors' are the same for all.
        """
        if profile not in PROFILES:
            raise ValueError(f"The profile is {profile!r}, wanted one of {', '.join(PROFILES)}.")
        base = replace(PROFILES[profile](), family=family)
        return base.changed(FAMILY_PROFILES[family]) if profile == "default" else base

    def changed(self, changes: Mapping[str, Any]) -> Settings:
        """The same with some fields changed; `capture` and `crop` take mappings of theirs."""
        plain = dict(changes)
        for name in ("capture", "crop"):
            if name in plain:
                plain[name] = replace(getattr(self, name), **plain[name])
        return replace(self, **plain)

    def sized(self, size: float) -> Settings:
        """The same at another size, in multiples of the model's native side."""
        return self.changed({"capture": {"size": size}})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in ("capture", "crop"):
            nested = plain[name]
            plain[name] = {item.name: getattr(nested, item.name) for item in fields(nested)}
        return plain


PROFILES: dict[str, Callable[[], Settings]] = {
    "default": Settings,
    "paper": Settings.paper,
    "official": Settings.official,
}
