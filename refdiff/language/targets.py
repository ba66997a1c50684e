"""Which chunks name what a text looks for, and which speak of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .chunks import Chunk
from .grammar import TOP, Token
from .words import CLOTHES, PARTS, PEOPLE, SEPARATORS

DIRECTED = ("in front of", "behind", "above", "below", "between", "left of", "right of")
OWNERS = ("owner", "co-owner")
_OPPOSITE = ({"left", "right"}, {"top", "bottom"})


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
    at = next((i for i, chunk in enumerate(cut) if chunk is top), -1)
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
    before = cut[:at] if at > 0 else []
    whole = [Target(group[0], (*rest, *before)) for group, rest in zip(groups, rests, strict=True)]
    return [one for target in whole for one in _apart(target)]


def _apart(target: Target) -> list[Target]:
    """ "The dogs on the left and on the right" are two targets of one noun."""
    sided = [(c, w) for c in target.own for w in c.sides]
    if any(chunk.link == "from" or chunk.of_role("order") for chunk in target.own):
        return [target]
    for pair in _OPPOSITE:
        if {word.value for _, word in sided} >= pair:
            return [_only(target, side, pair) for side in _spoken_order(sided, pair)]
    return [target]


def _spoken_order(sided: list[tuple[Chunk, Token]], pair: set[str]) -> list[str]:
    found = sorted((word.start, word.value) for _, word in sided if word.value in pair)
    return list(dict.fromkeys(value for _, value in found))


def _only(target: Target, side: str, pair: set[str]) -> Target:
    """The target at one of two opposite sides."""

    def trimmed(chunk: Chunk) -> Chunk:
        other = pair - {side}
        kept = [w for w in chunk.words if not (w.role == "side" and w.value in other)]
        kept = [w for w in kept if not (w.role == "number" and w.value == "2")]
        return chunk if len(kept) == len(chunk.words) else replace(chunk, words=kept)

    own = {id(chunk) for chunk in target.own}
    rest = [trimmed(chunk) if id(chunk) in own else chunk for chunk in target.rest]
    rest = [chunk for chunk in rest if chunk.words or chunk.link == "verb"]
    return Target(trimmed(target.top), tuple(rest))


def _top(cut: Sequence[Chunk]) -> Chunk:
    """The chunk the text is about: the first with a noun that no preposition introduces.

    A text that begins with a link and names nothing else ("on the table") is about any thing.
    """
    named = [chunk for chunk in cut if chunk.head]
    free = [chunk for chunk in named if chunk.link in TOP and not (chunk.null and len(cut) > 1)]
    free = free or [chunk for chunk in named if chunk.link in TOP]
    spoken = [chunk for chunk in cut if chunk.link in TOP]
    return [*free, *spoken, Chunk("start")][0]


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


def listed(cut: list[Chunk], caption: bool) -> tuple[list[Chunk], str]:
    """Commas and dots between bare nouns read as "and", and a note on how they were read.

    caption: whether the text has words that only captions and lists of tags have. What is worn by
    or belongs to the first noun describes it: "guy, white shirt".
    """
    first = next((chunk for chunk in cut if chunk.head is not None and chunk.link in TOP), None)
    later = [c for c in cut if c.link == "," and c.head is not None and c is not first]
    later = [c for c in later if c.marks and c.marks[0].text in SEPARATORS]
    if first is None or first.head is None or not later or first.null:
        return cut, ""
    name = first.head.text
    worn = [c for c in later if c.marks[0].text == "," and _describes(first, c)]
    if worn:
        cut = [replace(c, link="with") if c in worn else c for c in cut]
    rest = [c for c in later if c not in worn and not c.null]
    same = [c for c in rest if c.head and (c.head.lemma == first.head.lemma or c.head.key == "one")]
    rest = [c for c in rest if c not in same]
    if not rest:
        return cut, ""
    if caption or worn or any(c.link == "verb" for c in cut):
        return cut, f"read as a caption, so {name!r} alone is looked for"
    cut = [replace(c, link="and") if c in rest else c for c in cut]
    return cut, "read as a list: each of its things is looked for"


def _describes(first: Chunk, chunk: Chunk) -> bool:
    """True for clothes and features named after who has them."""
    own, other = first.head, chunk.head
    if own is None or other is None or chunk.of_role("det"):
        return False
    if other.lemma in CLOTHES or other.lemma in PARTS:
        return own.lemma in PEOPLE or (bool(chunk.of_role("colour")) and own.lemma not in PARTS
                                       and own.lemma not in CLOTHES)  # fmt: skip
    return False
