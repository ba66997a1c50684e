"""Masks of one picture as CLIP sees them, and what CLIP says of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import normalize

from ..expression import Expression, Noun
from .clip import ClipScorer, RegionFeatures, blend, similarity
from .paper_bias import darkened

if TYPE_CHECKING:
    from ..settings import Settings


@dataclass(frozen=True, eq=False)
class ClipJudgement:
    """What CLIP says of each mask, [N] each.

    similarity: s^D, the cosine. logits: the cosine times the CLIP's own logit scale, by which one
    CLIP's differences mean the same as another's. likely: how probable it is that the mask shows
    the words, 0..1; None for a CLIP that can't say (`ClipScorer.probability`).
    """

    similarity: Tensor
    logits: Tensor
    likely: Tensor | None = None


class Regions:
    """Masks of one picture, looked at once for any number of sentences.

    pixels: the picture [3, H, W] in 0..1 at its own size (`ClipScorer.picture_limit` caps it);
    masks: bool [N, h, w] of the same frame, at any size.
    """

    def __init__(self, clip: ClipScorer, pixels: Tensor, masks: Tensor) -> None:
        self.clip, self.pixels, self.masks = clip, pixels, masks
        self._features: RegionFeatures | None = None

    def judge(self, noun: Noun, expression: Expression, settings: Settings) -> ClipJudgement:
        """s^D of section 3.3: how close each mask, cut out and in place, is to the words."""
        texts = self.clip.text_features([expression.text, noun.phrase, noun.word.text])
        if settings.clip_text == "official":
            crop_text, masked_text = texts[0], blend(texts, [0.5, 0.0, 0.5])
        elif settings.clip_text == "paper":
            crop_text = masked_text = blend(texts, [0.5, 0.5, 0.0])
        else:
            said = [one.replace("{}", noun.phrase) for one in settings.clip_templates]
            found = self.clip.text_features(said)
            crop_text = found[0] if len(found) == 1 else normalize(found.mean(0), dim=0)
            masked_text = crop_text
        features = self._seen(expression, settings)
        near = similarity(features, crop_text, masked_text, settings.beta)
        return ClipJudgement(near, self.clip.logits(near), self.clip.probability(near))

    def _seen(self, expression: Expression, settings: Settings) -> RegionFeatures:
        """The masks' features; made anew only where the words change the picture's pixels."""
        crop, masked = darkened(self.pixels, expression, settings.place_rule)
        same = crop is self.pixels and masked is self.pixels
        if same and self._features is not None:
            return self._features
        if settings.views == "official":
            features = self.clip.official_features(crop, masked, self.masks)
        else:
            features = RegionFeatures(
                self.clip.crop_features(crop, self.masks, settings.crop),
                self.clip.masked_features(masked, self.masks),
            )
        if same:
            self._features = features
        return features
