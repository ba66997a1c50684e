"""What `refdiff tune` searches: a row for each field of the settings, tried in this order.

The maps come first: what is read of the UNet's pass, then how it is put together, then how CLIP and
the words of place weigh beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..attention.maps import Heads
from ..families import BACKGROUND, PROFILES, REFERENCES
from ..settings import Settings, Spread

FLOOR = "empty_below"
"""The presence under which the answer is "nothing found"; searched without another look."""

FLOORS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
TEMPLATES = (("{}",), ("a photo of a {}",), ("{}", "a photo of a {}"))
PLACES = 16  # pixels between the places heat is spread along, where the profile names none

Changes = Mapping[str, Any]  # as `Settings.changed` takes them


@dataclass(frozen=True)
class Choice:
    """A field, dotted for one of a nested part, and the changes to try given the settings."""

    field: str
    tried: Callable[[Settings], Iterable[Changes]]
    needs_clip: bool = False


def _each(field: str, *values: Any) -> Callable[[Settings], Iterable[Changes]]:
    """These values, whatever the present one."""
    return lambda settings: [{field: value} for value in values]


def _heads(settings: Settings) -> Iterable[Changes]:
    return [{"capture": {"heads": one}} for one in get_args(Heads)]


def _reference(settings: Settings) -> Iterable[Changes]:
    named = REFERENCES.get(settings.family)
    return [{"capture": {"reference": one}} for one in (None, named)]


def _compete(settings: Settings) -> Iterable[Changes]:
    """The background is read behind the text where words compete."""
    return [
        {"compete": True, "capture": {"background": settings.capture.background or BACKGROUND}},
        {"compete": False, "capture": {"background": ""}},
    ]


def _spread(settings: Settings) -> Iterable[Changes]:
    own = PROFILES[settings.family].get("capture", {}).get("places")
    places = settings.capture.places or own or PLACES
    return [
        {"spread": one, "capture": {"places": None if one == "off" else places}}
        for one in get_args(Spread)
    ]


def _weights(settings: Settings) -> Iterable[Changes]:
    """Around the present weights; where every layer weighs alike, around equal ones."""
    strides = settings.capture.strides or ()
    alike = tuple((stride, 1 / len(strides)) for stride in strides)
    return [{"stride_weights": one} for one in shares(settings.stride_weights or alike)]


def shares(present: Any) -> Iterable[Any]:
    """(stride, weight) pairs around the present ones.

    Each stride's weight is moved a third of the way to all and to nothing, and all alike is tried.
    """
    if not present:
        return
    now = {int(stride): float(weight) for stride, weight in present}
    keys = list(now)
    tried = [{key: 1 / len(keys) for key in keys}]
    for key in keys:
        for goal in (0.0, 1.0):
            moved = {k: w * 2 / 3 + (goal if k == key else 0.0) / 3 for k, w in now.items()}
            tried.append({k: w / sum(moved.values()) for k, w in moved.items()})
        tried.append({k: float(k == key) for k in keys})
    for one in tried:
        rounded = {key: round(weight, 3) for key, weight in one.items()}
        if sum(rounded.values()) > 0:
            yield tuple(rounded.items())


SPACE = (
    Choice("capture.heads", _heads),
    Choice("capture.reference", _reference),
    Choice("compete", _compete),
    Choice("spread", _spread),
    Choice("stride_weights", _weights),
    Choice("fusion", _each("fusion", "log", "rank", "sum"), needs_clip=True),
    Choice("alpha", _each("alpha", 0.0, 0.05, 0.1, 0.2, 0.3, 0.5), needs_clip=True),
    Choice("beta", _each("beta", 0.0, 0.15, 0.3, 0.5, 0.7, 1.0), needs_clip=True),
    Choice("clip_templates", _each("clip_templates", *TEMPLATES), needs_clip=True),
    Choice("place_weight", _each("place_weight", 0.5, 1.0, 2.0, 3.0, 4.0)),
)


def present(settings: Settings, field: str) -> Any:
    """The value at a dotted field."""
    value: Any = settings
    for name in field.split("."):
        value = getattr(value, name)
    return value


def variations(settings: Settings, choice: Choice) -> list[Settings]:
    """The settings with each of the choice's changes, without those that change nothing.

    Changes that do not go with the rest, such as no self-attention where proposals need it, are
    passed over.
    """
    found: list[Settings] = []
    for changes in choice.tried(settings):
        try:
            changed = settings.changed(changes)
        except ValueError:
            continue
        if changed != settings and changed not in found:
            found.append(changed)
    return found


def with_floor(settings: Settings, floor: float) -> Settings:
    """The settings with another floor."""
    return settings.changed({FLOOR: floor})
