"""The steps of the method, each a function of tensors and settings.

`pipeline.Look` runs them one after the other. They live at the working size: heat is [h, w] float
in 0..1, masks are bool [N, h, w] of the same size. Symbols are the paper's (arXiv 2308.16777).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from .attention.maps import Rivals, TokenMaps, min_max, word_map
from .attention.official_heat import official_heat
from .errors import WordError
from .expression import Exclusion, Expression, Noun, Word, parse
from .families import CALIBRATED
from .language.nouns import nouns_in
from .masks.edges import BLUNT, follow_edges, outline
from .masks.instances import best_of_each, same_object
from .masks.ncut import regions
from .masks.peaks import cut_zones, join_neighbours, otsu_cut, split_peaks
from .masks.proposals import drop_repeats, keep_largest, threshold_cuts
from .masks.resize import upsample
from .scoring import choice as choosing
from .scoring import place, scores
from .scoring.official import keep_to_largest
from .scoring.parts import held, wholes
from .scoring.regions import ClipJudgement, Regions
from .settings import Settings

THING = "a thing"
"""What is read for a sentence that names no thing: on 40 validation scenes of the stickers cuts of
its noun's heat find 0.89 of the objects, and cuts of the mean map of "left" 0.08."""


def asks_for_a_thing(expression: Expression) -> bool:
    """Whether some target has no word of its own to look for: "second from the left"."""
    targets = expression.targets()
    return any(not (one.root.pictured or one.complement) for one in targets)


def noun_columns(noun: Noun, maps: TokenMaps) -> tuple[int, ...]:
    """The columns of a noun; of one that names no thing those of `THING`, or of the whole text."""
    if maps.text == THING:
        return maps.columns(THING.index("thing"), len(THING))
    if noun.word.text:
        return maps.columns(noun.word.start, noun.word.end)
    return maps.columns(0, len(maps.text))


def read_heat(
    maps: TokenMaps, columns: tuple[int, ...], size: tuple[int, int], settings: Settings
) -> Tensor:
    """c of section 3.2, [h, w]: the heat of the tokens in these columns; see `word_map`."""
    if settings.views == "official":
        return official_heat(maps, columns, size)
    weights = settings.stride_weights
    competing = settings.compete and maps.mode == "probabilities"
    return word_map(
        maps,
        columns,
        size=size,
        weights=None if weights is None else dict(weights),
        rivals=rivals_of(maps, columns) if competing else None,
        spread=settings.spread,
    )


def rivals_of(maps: TokenMaps, columns: Sequence[int]) -> Rivals:
    """What competes with these tokens of a text: its other nouns and the background's words.

    Words that describe a noun take no part; all others, stop words, are a sink.
    """
    own, taken = set(columns), set(columns)
    groups = []
    for noun in _nouns(maps.text):
        words = [_columns(maps, word) for word in noun.words()]
        taken.update(column for word in words for column in word)
        group = _columns(maps, noun.word) if noun.word.text else ()
        if group and not own.intersection(group):
            groups.append(group)
    behind = [i for i, span in enumerate(maps.spans) if span and span[0] >= len(maps.text)]
    groups += [tuple(behind)] if behind else []
    sink = [i for i in range(len(maps.spans)) if i not in taken and i not in behind]
    return Rivals(tuple(dict.fromkeys(groups)), tuple(sink))


@lru_cache(maxsize=64)
def _nouns(text: str) -> tuple[Noun, ...]:
    """Every noun of a text; none of one that cannot be understood."""
    try:
        targets = parse(text).targets()
    except ValueError:
        return ()
    denied = [one for target in targets for one in target.excluded]
    roots = [*(target.root for target in targets), *(one.noun for one in denied)]
    relations = [relation for target in targets for relation in target.relations]
    relations += [relation for one in denied for relation in one.relations]
    return (*roots, *nouns_in(relations))


def _columns(maps: TokenMaps, word: Word) -> tuple[int, ...]:
    try:
        return maps.columns(word.start, word.end)
    except (WordError, ValueError):
        return ()


def read_regions(maps: TokenMaps, size: tuple[int, int], settings: Settings) -> Tensor | None:
    """Regions [N, h, w] of places that look alike to the self-attention; None if not asked for, or
    where the maps hold none of it (those of a run that is over).

    size: the working size, (height, width). The features are the keys of `CaptureSettings.places`.
    """
    if settings.proposals != "regions" or not maps.places:
        return None
    features = torch.cat([normalize(one.key.float(), dim=1) for one in maps.places], dim=1)
    masks = torch.stack([upsample(mask, size) for mask in regions(features, maps.places[0].grid)])
    return masks[masks.flatten(1).float().mean(1) >= max(settings.least_area, 1e-9)]


def propose(
    heat: Tensor,
    settings: Settings,
    pixels: Tensor | None = None,
    more: Tensor | None = None,
) -> Tensor:
    """M of section 3.2: the masks that the heat proposes, [N, h, w]; the best s^G if too many.

    pixels: the picture [3, h, w]. Peaks are looked for in the heat as it was read and, for masks
    that CLIP sees better, in the heat drawn to the picture's edges, which parts some things and
    joins others; the choice decides. more: masks [N, h, w] besides, such as `read_regions`.
    """
    drawn = heat
    if pixels is not None and settings.edges:
        drawn = follow_edges(heat, pixels, settings.edges, settings.edge_reach)
    masks = _cut(heat, drawn, settings)
    if more is not None and settings.threshold is None:
        masks = drop_repeats(torch.cat([masks, more]))
    most = settings.clip_candidates
    if len(masks) <= most:
        return masks
    best = scores.SCORES[settings.score](heat, masks).topk(most).indices
    return masks[best.sort().values]


def _cut(heat: Tensor, drawn: Tensor, settings: Settings) -> Tensor:
    if settings.threshold is not None:
        return (drawn >= settings.threshold)[None]
    if settings.proposals in ("peaks", "regions"):
        seen = (heat,) if drawn is heat else (heat, drawn)
        return drop_repeats(torch.cat([_peak_cuts(one, settings) for one in seen]))
    parts = settings.proposals == "parts"
    cuts = threshold_cuts(drawn, settings.thresholds, parts, settings.least_area)
    return keep_largest(cuts, settings.largest) if settings.largest else cuts


def _peak_cuts(heat: Tensor, settings: Settings) -> Tensor:
    """The best cut of each peak, and with unions of neighbouring peaks and of the whole map."""
    zones, number = split_peaks(heat, settings.prominence, settings.faintest), settings.thresholds
    masks = [cut_zones(heat, zones, number, settings.least_area)]
    for union in join_neighbours(heat, zones) if settings.unions else ():
        rest = zones[~(zones & union).flatten(1).any(1)]
        masks.append(cut_zones(heat, torch.cat([union[None], rest]), number)[:1])
    if settings.unions:
        masks.append(otsu_cut(heat, number))
    return torch.cat(masks)


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """Masks [N, h, w] and, [N] each, s^G, the weight of their place, and the fused order.

    clip: what CLIP says of them, or None. total: what ranks them, the fusion's own number. score:
    the same for people, 0..1: the share of each among the things that differ, or the paper's sum as
    it is. notes: sentences on words that could not be obeyed. fit: how well each fits the noun,
    0..1 (`scores.noun_fit`).
    """

    masks: Tensor
    generative: Tensor
    clip: ClipJudgement | None
    place: Tensor
    total: Tensor
    score: Tensor
    notes: tuple[str, ...] = ()
    fit: Tensor | None = None


def score(
    expression: Expression,
    heat: Tensor,
    masks: Tensor,
    settings: Settings,
    clip: ClipJudgement | None = None,
    anchors: Mapping[Noun, Tensor] | None = None,
    inside: Tensor | None = None,
) -> CandidateScores:
    """Fusion of s^G and s^D, moved by place, size, order and relation words.

    heat: as it was read, not drawn to edges. clip: None for the generative half alone. anchors:
    the heat of each noun that the expression relates its root to. inside: bool [h, w], where the
    root must lie as a part of something (`parts.gate`).
    """
    generative = scores.SCORES[settings.score](heat, masks)
    fit = scores.noun_fit(heat, masks, None if clip is None else clip.logits)
    total = _fused(generative, clip, masks, settings)
    weighted = place.Weighted(torch.ones(len(masks)))
    if settings.place_rule == "geometry":
        weighted = place.weights(masks, expression, fit, dict(anchors or {}))
        labels = same_object(masks, total)
        total = choosing.levelled(total, fit, labels, place.ruled(expression))
    weight = weighted.weights if inside is None else weighted.weights * held(masks, inside)
    if expression.root.anything and settings.place_rule == "geometry":
        weight = weight * wholes(masks)
    total = scores.placed(total, weight, settings.place_weight)
    if settings.views == "official" and settings.largest:
        total = keep_to_largest(total, masks, settings.largest)
    share = total if settings.fusion == "sum" else _shares(total, masks)
    notes = tuple(weighted.notes)
    return CandidateScores(masks, generative, clip, weight, total, share, notes, fit)


def _fused(
    generative: Tensor, clip: ClipJudgement | None, masks: Tensor, settings: Settings
) -> Tensor:
    """s^G and s^D as one, before any word on place: [N]."""
    if settings.fusion == "sum":
        near = None if clip is None else clip.similarity
        return scores.weighted_sum(generative, near, settings.alpha)
    logits = None if clip is None else clip.logits
    if settings.fusion == "calibrated":
        areas = masks.flatten(1).float().mean(1)
        return scores.calibrated(generative, logits, areas, CALIBRATED)
    fuse = scores.log_ranks if settings.fusion == "rank" else scores.log_shares
    return fuse(generative, logits, settings.alpha)


def _shares(total: Tensor, masks: Tensor) -> Tensor:
    """Each mask's share among the things that differ: exp(total) over their sum, at most 1: [N]."""
    different = best_of_each(total, same_object(masks, total))
    return (total - total[different].logsumexp(0)).exp().clamp(max=1)


def find_anchors(
    expression: Expression,
    settings: Settings,
    heat_of: Callable[[Noun], Tensor],
    regions_of: Callable[[Tensor], Regions | None],
) -> dict[Noun, Tensor]:
    """Where the nouns are that the expression relates its root to: heat [h, w] of each.

    heat_of: the heat of a noun; one that raises WordError is left out, and the relation is noted.
    regions_of: candidates for a heat as CLIP sees them; None where there is no CLIP, and the
    heat alone tells.
    """
    anchors: dict[Noun, Tensor] = {}
    if settings.place_rule != "geometry":
        return anchors
    relations = [*expression.relations, *(r for one in expression.excluded for r in one.relations)]
    for noun in nouns_in(relations):
        with suppress(WordError):
            heat = heat_of(noun)
            regions = regions_of(heat)
            if regions is not None:
                judged = regions.judge(noun, expression, settings)
                heat = _located(heat, regions.masks, judged, settings)
            anchors[noun] = heat
    return anchors


def _located(heat: Tensor, masks: Tensor, clip: ClipJudgement, settings: Settings) -> Tensor:
    """The masks [N, h, w] weighed by how likely each is to show the noun: heat [h, w]."""
    generative = scores.SCORES[settings.score](heat, masks)
    likely = scores.log_shares(generative, clip.logits, settings.alpha).softmax(0)
    return min_max((likely[:, None, None] * masks.float()).sum(0))


def denied(expression: Expression, one: Exclusion) -> bool:
    """True for what is denied of the thing looked for, or leaves out some of its kind."""
    return one.told or one.noun.anything or one.noun.lemma == expression.root.lemma


def find_denied(
    expression: Expression,
    settings: Settings,
    regions: Regions | None,
    heat_of: Callable[[Sequence[Word]], Tensor],
) -> dict[Noun, Tensor]:
    """Where what the expression excludes is seen, as heat [h, w]: "not red", "but not the dog".

    regions: the candidates as CLIP sees them, who tells what is red; without it the words' heat
    does, which heat_of gives. Words that are no token are left out.
    """
    found: dict[Noun, Tensor] = {}
    for one in expression.excluded if settings.place_rule == "geometry" else ():
        own = denied(expression, one)
        looks = bool(one.noun.modifiers or one.relations)
        if own and looks and regions is not None:
            judged = regions.judge(one.noun, expression, settings)
            value = ((judged.logits - judged.logits.max()) / scores.TEMPERATURE).exp()
            found[one.noun] = (regions.masks * value[:, None, None]).amax(0)
        elif one.noun.modifiers or not own:
            with suppress(WordError):
                found[one.noun] = heat_of(one.noun.modifiers if own else (one.noun.word,))
    return found


def choose(
    expression: Expression, found: CandidateScores, settings: Settings, choice: int = 1
) -> list[int]:
    """Which masks are the answer: one, or for a plural the best of each thing that is meant.

    choice: 2 takes the next best different thing, and so on; ValueError when there are not as many.
    """
    if settings.place_rule != "geometry" or expression.number == 1 or choice != 1:
        return [choosing.next_choice(found.total, found.masks, choice)]
    shown = best_of_each(found.total, same_object(found.masks, found.total))
    fit = torch.ones_like(found.total) if found.fit is None else found.fit
    parts = (found.total[shown], fit[shown], found.place[shown])
    things, _ = choosing.chosen_things(*parts, expression.number)
    return [shown[index] for index in things]


def outlined(mask: Tensor, picture: Image.Image, settings: Settings) -> Tensor:
    """A mask bool [h, w] at the picture's own size: brought to its edges, and then polished."""
    near = outline(mask, picture, settings.edge_reach, BLUNT, settings.edges)
    return outline(near, picture, amount=settings.edges)


def doubt(found: CandidateScores, chosen: list[int], settings: Settings) -> choosing.Doubt:
    """How close the best mask of the next thing comes to the answer; none for several.

    Differences of the paper's sum mean something beside their own spread alone.
    """
    if len(chosen) != 1:
        return choosing.Doubt(0.0, None)
    spread = float(found.total.std(correction=0).clamp(min=1e-6))
    scale = spread if settings.fusion == "sum" else 1.0
    return choosing.doubt(found.total, chosen[0], same_object(found.masks, found.total), scale)


def attention_odds(
    maps: TokenMaps, columns: tuple[int, ...], size: tuple[int, int]
) -> Tensor | None:
    """A word's share of each place's attention against an even share: [h, w] from 0 up.

    p n, with p the word's share and n the number of columns that compete for it: every token of
    the text, begin and end. 1 is no evidence, whatever the length of the text. None for logits.
    """
    if maps.mode == "logits":
        return None
    raw = word_map(maps, columns, size=size, normalise=False)
    share = raw.exp() if maps.mode == "log_probabilities" else raw
    return share * (len(maps.tokens) + 2)


def presence(odds: Tensor | None, found: CandidateScores) -> float:
    """Is the thing there at all? 0..1, by the masks that show it best, whichever is chosen.

    The geometric mean of what is known: o / (1 + o), o being the highest mean of the word's
    attention odds inside a mask, and the highest of CLIP's probabilities, where it was trained
    to tell (`ClipScorer.probability`). 0 without masks, 1 when nothing is known.
    """
    masks = found.masks.flatten(1).float()
    if not bool(masks.any()):
        return 0.0
    signs = []
    if odds is not None:
        best = float((masks @ odds.flatten() / masks.sum(1).clamp(min=1)).max())
        signs.append(best / (1 + best))
    if found.clip is not None and found.clip.likely is not None:
        signs.append(float(found.clip.likely.max()))
    return math.prod(signs) ** (1 / max(1, len(signs)))
