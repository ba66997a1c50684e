"""`refdiff eval compare`: every profile, with and without CLIP and given masks, as one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .common import Clip, Debug, Device, Dtype, Model, Ready, guarded, make_ready
from .console import say
from .evaluate import Data, Limit, Split, folder_of, progress_bar, segmenter_of

if TYPE_CHECKING:
    from ..evaluation import Outcome, Scene

FIXED_THRESHOLD = 0.45
"""The best of six cuts, 0.4 to 0.7, of the plain root map on the validation split."""


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    ready: Ready
    given: bool


def compare(
    data: Data = None,
    split: Split = "validation",
    model: Model = None,
    clip: Clip = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    debug: Debug = False,
) -> None:
    """Print the results table: all profiles, halves, own proposals and given masks.

    Rows of one profile share its passes of the UNet. A sentence that cannot be understood counts
    as an empty mask. The output is markdown.
    """
    with guarded(debug):
        from ..evaluation import kinds_table, read_scenes, table

        scenes = limited(read_scenes(folder_of(data, split)), limit)
        ready = make_ready(model, clip, device, dtype, "default", None, 0)
        plain = measured(scenes, list(profile_variants(ready)))
        say(table(plain))
        say(f"\nmIoU by kind (`absent`: share of empty answers)\n\n{kinds_table(plain)}")
        by_object = kinds_table(plain, "right_object")
        say(f"\nRight object by kind\n\n{by_object}")


def measured(scenes: Sequence[Scene], variants: Sequence[Variant]) -> dict[str, dict[str, Any]]:
    """The figures of every variant by its name, scene after scene: passes may be shared."""
    from ..evaluation import Report, evaluate

    found: dict[str, list[Outcome]] = {variant.name: [] for variant in variants}
    with progress_bar() as advance:
        for number, scene in enumerate(scenes, 1):
            for variant in variants:
                segmenter = segmenter_of(variant.ready, variant.given, [])
                found[variant.name] += evaluate([scene], segmenter).outcomes
            advance(number, len(scenes))
    plain = {name: Report(name, tuple(found[name])).to_dict() for name in found}
    for entry in plain.values():
        entry["seconds_per_sentence"] = None  # sharing passes, single times mean nothing
    return plain


def limited(scenes: tuple[Scene, ...], limit: int | None) -> list[Scene]:
    """The scenes of the first `limit` sentences."""
    kept: list[Scene] = []
    left = limit
    for scene in scenes:
        if left is not None and left <= 0:
            break
        kept.append(scene if left is None else replace(scene, sentences=scene.sentences[:left]))
        left = None if left is None else left - len(scene.sentences)
    return kept


def profile_variants(ready: Ready) -> Iterator[Variant]:
    """Every row, those with the same capture settings after each other."""
    from ..evaluation.shared_capture import SharedCapture
    from ..settings import Settings

    profiles = {
        "paper": Settings.paper(),
        "official, 1x native": Settings.official().sized(1.0),
        "official, 2x native": Settings.official(),
        "default": ready.settings,
    }
    for profile, settings in profiles.items():
        shared = replace(ready, capture=SharedCapture(ready.capture, settings.capture))
        if profile == "default":
            cut = replace(settings, threshold=FIXED_THRESHOLD, edges=0.0, place_rule="none")
            yield Variant(
                f"root map cut at {FIXED_THRESHOLD}",
                without_clip(replace(shared, settings=cut)),
                False,
            )
        for given in (False, True):
            kind = "given masks" if given else "own proposals"
            yield Variant(
                f"{profile}, generative, {kind}",
                without_clip(replace(shared, settings=settings)),
                given,
            )
            if ready.models.clip is not None:
                alone = replace(shared, settings=replace(settings, alpha=0.0))
                yield Variant(f"{profile}, CLIP, {kind}", alone, given)
                both = replace(shared, settings=settings)
                yield Variant(f"{profile}, both, {kind}", both, given)


def without_clip(ready: Ready) -> Ready:
    """The same for the generative half alone."""
    return replace(ready, models=replace(ready.models, clip=None))
