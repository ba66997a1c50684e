"""Chunks put right: possessives turned round, "left side of the house" joined, idle words left out.

What is left out here is listed as ignored later, because no part of the expression takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .chunks import Chunk
from .grammar import TOP, Token
from .words import VIEWER

_SIDE_OF = {
    "left": "left of",
    "right": "right of",
    "top": "above",
    "bottom": "below",
    "middle": "in",
}
REGIONS = ("half", "part", "side", "section", "region", "end", "portion", "corner", "edge", "area",
           "quarter", "third")  # fmt: skip
_FACING = ("facing", "looking", "pointing", "heading", "turned", "turning", "going", "pointed",
           "faces", "looks", "moving", "walking", "running", "leaning", "tilted", "gazing",
           "staring")  # fmt: skip


def fold(cut: Sequence[Chunk]) -> list[Chunk]:
    """The chunks of a text as `reading` wants them; an owner stands after what it owns."""
    cut = _without_praise(list(cut))
    cut = [c for c in cut if c.link in ("'s", "verb") or c.words]
    done: list[Chunk] = []
    sharing: list[Chunk] = []  # "the cat's" of "the cat's and the dog's bowls"
    for i, chunk in enumerate(cut):
        last = done[-1] if done else None
        if chunk.link == "'s" and not chunk.words:
            shared = [c.link for c in cut[i + 1 : i + 3]] in (["and", "'s"], [",", "'s"])
            sharing += [done.pop()] if shared and done else []
        elif last is None:
            done.append(chunk)
        elif chunk.link == "'s":
            owners = [*sharing, *_owner(done)]
            done[-1:] = _turned(owners, chunk)
            sharing = []
        elif _counted_noun(last, chunk):
            done[-1:] = _split_count(last, chunk)
        elif _hollow(last) and (chunk.link == "of" or (chunk.link == "from" and last.sides)):
            done[-1:] = _join(last, chunk, any(c.head for c in done[:-1]))
        elif last.marks and last.marks[-1].key == "whose" and chunk.link == "clause" and chunk.null:
            last.words = [*chunk.words, *last.words]  # whose hair is red
        elif _directs(last, chunk):
            last.marks += [*last.words, *chunk.marks, *chunk.words]
            last.words = []
        else:
            _continue_list(done, chunk)
            done.append(chunk)
    return _owners_last([*sharing, *(_facing(chunk) for chunk in done)])


def _owner(done: list[Chunk]) -> list[Chunk]:
    """The owner that ends here; in "man in the middle's tie" it stands before its place."""
    last = done[-1]
    if last.null and last.sides and len(done) > 1 and done[-2].head is not None:
        owner = done.pop(-2)
        return [replace(owner, words=[*last.sides, *owner.words])]
    return [last]


def _counted_noun(last: Chunk, chunk: Chunk) -> bool:
    """True for "second | from the right guy"."""
    return bool(last.of_role("order") and chunk.link == "from" and chunk.sides and chunk.open
                and last.head is None)  # fmt: skip


def _split_count(last: Chunk, chunk: Chunk) -> list[Chunk]:
    ends = max(chunk.words.index(side) for side in chunk.sides) + 1
    noun = replace(last, words=[*last.words, *chunk.words[ends:]])
    return [noun, replace(chunk, words=chunk.words[:ends])]


def _directs(last: Chunk, chunk: Chunk) -> bool:
    """True for where somebody looks: "looking | at the camera", "facing | to the left"."""
    if last.link != "verb" or last.head is not None:
        return False
    viewer = any(word.key in VIEWER for word in chunk.words) and not chunk.sides
    aside = last.marks[0].key in _FACING and chunk.link in ("to", "side") and bool(chunk.sides)
    return (viewer or aside) and chunk.null and chunk.link not in TOP


def _facing(chunk: Chunk) -> Chunk:
    """ "Facing left" tells where it looks, not where it is."""
    turned = chunk.link == "verb" and chunk.marks and chunk.marks[0].key in _FACING
    if not turned or chunk.head is not None or not chunk.words:
        return chunk
    return replace(chunk, marks=[*chunk.marks, *chunk.words], words=[])


def _without_praise(cut: list[Chunk]) -> list[Chunk]:
    """Without words on the picture's quality, where something else can be looked for."""
    kept = [replace(chunk, words=_useful(chunk.words)) for chunk in cut]
    return kept if any(chunk.link in TOP and chunk.head for chunk in kept) else cut


def _useful(words: list[Token]) -> list[Token]:
    """Words other than "best quality" and "highly detailed"."""
    praise = [word.role == "quality" for word in words]
    for i, after in enumerate(words[1:]):
        praise[i] |= after.key == "quality" and words[i].tag[:2] in ("JJ", "RB")
    return [word for word, idle in zip(words, praise, strict=True) if not idle]


def _turned(owners: list[Chunk], owned: Chunk) -> list[Chunk]:
    """ "The cat's bowl" is a bowl of the cat; several owners own it together."""
    first = owners[0]
    if owned.null and owned.sides:  # the dog's left half
        return [replace(first, part=[w for w in owned.words if w.role in ("side", "null")])]
    links = ["owner", *["co-owner"] * (len(owners) - 1)]
    turned = [Chunk(link, owned.marks, one.words) for link, one in zip(links, owners, strict=True)]
    return [*turned, Chunk(first.link, first.marks, owned.words)]


def _owners_last(done: list[Chunk]) -> list[Chunk]:
    """Owners moved behind what they own, so that they can be read as what is said of it."""
    found: list[Chunk] = []
    waiting: list[Chunk] = []
    for chunk in done:
        if chunk.link in ("owner", "co-owner"):
            waiting.append(chunk)
        else:
            found += [chunk, *waiting]
            waiting = []
    return found + waiting


def _continue_list(done: list[Chunk], chunk: Chunk) -> None:
    """In "a dog, a cat and a bird" the comma means "and"."""
    if chunk.link == "and" and not chunk.null:
        for earlier in reversed(done):
            if earlier.link != "," or earlier.null:
                break
            earlier.link = "and"


def _hollow(chunk: Chunk) -> bool:
    """True when the chunk waits for "of" and a noun: "left side", "all", "one", "pair"."""
    head = chunk.head
    return chunk.null or (head is not None and head.role in ("number", "all", "measure"))


def _join(last: Chunk, chunk: Chunk, earlier: bool) -> list[Chunk]:
    """What "`last` of `chunk`" comes to when `last` names no thing by itself."""
    if chunk.link == "from" and chunk.null:
        return [last, chunk]
    counts = bool(chunk.of_role("number", "all")) and not chunk.of_role("null")
    if chunk.null and not earlier and chunk.head and last.sides and _region_word(last):
        region = [word for word in last.words if word.role in ("side", "null", "order")]
        return [Chunk(last.link, last.marks, chunk.words, region)]
    if chunk.null and not (counts and (last.sides or last.of_role("size", "order"))):
        return [last]  # the left of the picture
    if earlier and last.sides and not chunk.null:  # the cat | to the left | of the dog
        marks = [*last.marks, *last.words, *chunk.marks]
        kinds = [_SIDE_OF[side.value] for side in last.sides]
        if kinds == ["in"] and chunk.head and chunk.head.plural:  # in the middle of the dogs
            kinds = ["between"]
        return [Chunk(kind, marks, chunk.words) for kind in kinds]
    if _is_part(last, chunk):
        region = [word for word in last.words if word.role in ("side", "null", "order")]
        return [Chunk(last.link, last.marks, chunk.words, region)]
    return [_chosen(last, chunk)]


def _region_word(chunk: Chunk) -> bool:
    return any(word.key in ("half", "part", "third", "quarter", "portion") for word in chunk.words)


def _is_part(last: Chunk, chunk: Chunk) -> bool:
    """True for "top half of the sandwich" and "top of the tree", not "left of the two dogs"."""
    region = any(word.key in REGIONS for word in last.words)
    single = chunk.head is not None and not chunk.head.plural and not chunk.of_role("number", "all")
    return bool(last.sides) and single and (region or not last.of_role("size", "order"))


def _chosen(last: Chunk, chunk: Chunk) -> Chunk:
    """ "The smaller of the two dogs" is one dog; "two of the dogs" and "all of the cats"."""
    kept = [word for word in last.words if word.role not in ("null", "depth", "det")]
    words = chunk.words
    if last.of_role("size", "order", "side"):
        one = Token("one", -1, -1, "one", "CD")
        words = [one, *(word for word in words if word.role not in ("number", "all"))]
    return Chunk(last.link, last.marks, kept + words)
