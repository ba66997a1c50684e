"""Chunks put right: possessives turned round, "left side of the house" joined, idle words left out.

What is left out here is listed as ignored later, because no part of the expression takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .chunks import Chunk
from .grammar import DENIALS, TOP, Token

_SIDE_OF = {
    "left": "left of",
    "right": "right of",
    "top": "above",
    "bottom": "below",
    "middle": "in",
}


def fold(cut: Sequence[Chunk]) -> list[Chunk]:
    """The chunks of a text as `reading` wants them; an owner stands after what it owns."""
    cut = _without_praise([_without_denied(chunk) for chunk in cut])
    cut = [c for c in cut if c.link == "'s" or (c.words and not (c.denied and c.null))]
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
            done[-1:] = _turned([*sharing, last], chunk)
            sharing = []
        elif _hollow(last) and (chunk.link == "of" or (chunk.link == "from" and last.sides)):
            done[-1:] = _join(last, chunk, any(c.head for c in done[:-1]))
        else:
            _continue_list(done, chunk)
            done.append(chunk)
    return _owners_last([*sharing, *done])


def _without_denied(chunk: Chunk) -> Chunk:
    """Without what the sentence denies: "not red cat" is a cat."""
    denials = [i for i, word in enumerate(chunk.words) if word.key in DENIALS]
    if not denials or (chunk.head is None and chunk.link == "start"):
        return chunk
    first = denials[0]
    heads = [i for i, word in enumerate(chunk.words) if word is chunk.head and i > first]
    kept = chunk.words[heads[0] :] if heads else []
    return replace(chunk, words=[*chunk.words[:first], *kept])


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
    links = ["owner", *["co-owner"] * (len(owners) - 1)]
    turned = [Chunk(link, owned.marks, one.words) for link, one in zip(links, owners, strict=True)]
    return [*turned, Chunk(first.link, first.marks, owned.words, first.denied)]


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
    if chunk.null:  # the left of the picture
        return [last]
    if earlier and last.sides:  # the cat | to the left | of the dog
        marks = [*last.marks, *last.words, *chunk.marks]
        kinds = [_SIDE_OF[side.value] for side in last.sides]
        if kinds == ["in"] and chunk.head and chunk.head.plural:  # in the middle of the dogs
            kinds = ["between"]
        return [Chunk(kind, marks, chunk.words) for kind in kinds]
    kept = [word for word in last.words if word.role not in ("null", "depth", "det")]
    words = chunk.words
    if last.of_role("size", "order"):  # "the smaller of the two dogs" is one dog
        one = Token("one", -1, -1, "one", "CD")
        words = [one, *(word for word in words if word.role not in ("number", "all"))]
    return [Chunk(last.link, last.marks, kept + words)]
