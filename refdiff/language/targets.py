"""Which chunks name what a text looks for, and which speak of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .chunks import Chunk
from .grammar import TOP

DIRECTED = ("in front of", "behind", "above", "below", "between", "left of", "right of")
OWNERS = ("owner", "co-owner")


@dataclass(frozen=True)
class Target:
    """A chunk whose noun is looked for, and the other chunks that speak of it."""

    top: Chunk
    rest: tuple[Chunk, ...] = ()

    @property
    def own(self) -> list[Chunk]:
        """`top` and the loose chunks, less those of other nouns: ", the dog on the right"."""
        own, stray = [self.top], False
        for chunk in self.rest:
            if not is_loose(chunk):
                stray = chunk.link in TOP
            elif not (stray and any(map(_placed, own))):
                own.append(chunk)
        return own


def is_loose(chunk: Chunk) -> bool:
    """True for words that speak of the root without naming another thing: "on the left"."""
    return chunk.null and not (chunk.link in DIRECTED and chunk.head is not None)


def targets(cut: Sequence[Chunk]) -> list[Target]:
    """What the text looks for, the root first: two for "the cat and the dog".

    What follows the last of several is said of all of them unless one before it has its own:
    "the cat and the dog on the left". What precedes the first is said of all.
    """
    top = _top(cut)
    at = next((i for i, chunk in enumerate(cut) if chunk is top), 0)
    groups = [[top]]
    listed = ""  # the relation whose anchors an "and" would continue
    for chunk, after in zip(cut[at + 1 :], [*cut[at + 2 :], None], strict=False):
        parallel = after is not None and _parallel(listed, after.link)
        if chunk.link == "and" and not is_loose(chunk) and (not listed or parallel):
            groups.append([chunk])
            listed = ""
        else:
            groups[-1].append(chunk)
            listed = _listed(chunk, listed)
    told = any(len(group) > 1 or _placed(group[0]) for group in groups[:-1])
    tail = [] if told else groups[-1][1:]
    rests = [group[1:] or tail for group in groups]
    return [Target(group[0], (*rest, *cut[:at])) for group, rest in zip(groups, rests, strict=True)]


def _top(cut: Sequence[Chunk]) -> Chunk:
    """The chunk the text is about: the first with a noun that no preposition introduces."""
    named = [chunk for chunk in cut if chunk.head]
    free = [chunk for chunk in named if chunk.link in TOP]
    return [*free, *named, *cut, Chunk("start")][0]


def _listed(chunk: Chunk, before: str) -> str:
    """The relation whose anchors an "and" after this chunk would continue; "" for none."""
    if is_loose(chunk):
        return ""
    if chunk.link in ("and", *OWNERS):
        return before
    return "" if chunk.link in (*TOP, "side") else chunk.link


def _placed(chunk: Chunk) -> bool:
    return bool(chunk.of_role("side", "size", "order"))


def _parallel(listed: str, link: str) -> bool:
    """True when "and" opens a second thing told like the first: "with a hat and a man with …"."""
    same = listed == link or (listed in DIRECTED and link in DIRECTED)
    return same and "between" not in (listed, link)
