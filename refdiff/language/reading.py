"""Chunks to `Expression`: every word of the text finds its part, or is listed as ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from .chunks import Chunk, chunks
from .folding import fold
from .grammar import DENIALS, PHRASES, SPOKEN, TOP, Token
from .meaning import Expression, Noun, Order, Place, Relation, Size, Word
from .targets import Target, is_loose, targets

_KINDS = {"of": "with", "owner": "with", "verb": "other", "from": "other", "to": "other"}
_VIEWER = ("camera", "viewer", "us", "me")
_EXTREMES = ("closest", "nearest", "closer", "farthest", "furthest", "farther", "further")
_CLOTHES = frozenset(
    "shirt t-shirt tshirt hat cap dress coat jacket suit pants jeans shorts skirt sweater hoodie "
    "shoe boot glass sunglasses tie scarf uniform vest top helmet costume outfit glove".split()
)


def read(text: str, tokens: Sequence[Token]) -> Expression:
    """The meaning of a tagged text; ValueError when several words name no thing."""
    told = targets(fold(chunks(tokens)))
    found = [_said(text, tokens, target, len(told) == 1) for target in told]
    first, *further = found
    roots = [one.root for one in found]
    others = dict.fromkeys(noun for one in found for noun in one.others if noun not in roots)
    whole = replace(first, also=tuple(roots[1:]), others=tuple(others), further=tuple(further))
    used = {id(token) for target in told for token in _used(target)}
    for word in whole.words():
        used |= {id(t) for t in tokens if word.start <= t.start and t.end <= word.end}
    return replace(whole, ignored=tuple(_ignored(text, tokens, used)))


def _said(text: str, tokens: Sequence[Token], target: Target, alone: bool) -> Expression:
    """What a text says of one target."""
    top, own = target.top, target.own
    root = _noun(text, top, top.head or _bare(tokens, own), own[1:])
    relations, nouns = _linked(text, target)
    order, counted = _order(own)
    size = next((w for c in own for w in c.of_role("size") if w is not counted), None)
    places = [w for chunk in own for w in chunk.sides if w is not counted]
    return Expression(
        text=text,
        root=root,
        others=tuple(nouns),
        places=tuple(Place(word.value, _word(text, word)) for word in places),
        size=_size(text, size) if size else None,
        order=order,
        number=_number(top, root, alone),
        relations=(*relations, *_depth(text, own)),
    )


def _used(target: Target) -> Iterator[Token]:
    """Tokens that a target takes without keeping them as words: numbers, "on", "side"."""
    own = target.own
    counted = _order(own)[1]
    yield from [counted] if counted else []
    for chunk in own:
        yield from chunk.of_role("order", "number", "all", "measure")
        yield from (w for w in chunk.words if chunk.sides and (w.role == "null" or w.key == "hand"))
    for chunk in own[1:]:
        yield from chunk.marks if chunk.link != "verb" else []


def _ignored(text: str, tokens: Sequence[Token], used: set[int]) -> Iterator[Word]:
    """The content words that nothing used; what a "not" denies stands with it: "not red"."""
    runs: list[list[Token]] = []
    denied = False
    for token in tokens:
        if id(token) in used or PHRASES.get((token.key,)) == ",":
            denied = False
        elif denied:
            runs[-1].append(token)
        elif token.content or token.key in DENIALS:
            runs.append([token])
            denied = token.key in DENIALS
    for run in runs:
        while len(run) > 1 and not run[-1].content:
            run.pop()
        yield _span(text, run)


def _bare(tokens: Sequence[Token], own: list[Chunk]) -> Token:
    """The root of a text without a noun: "left", "second from the right", "the biggest", "sks"."""
    words = [word for chunk in own for word in chunk.words]
    for role in ("side", "size", "order", "depth", "colour", "number", "all"):
        if standing := [word for word in words if word.role == role]:
            return standing[-1]
    spoken = [token for token in tokens if SPOKEN.search(token.text)]
    if len(spoken) > 1:
        said = " ".join(token.text for token in spoken)
        raise ValueError(f'{said!r} names no thing; write a noun, such as "the red cat"')
    return spoken[0]


def _noun(text: str, chunk: Chunk, head: Token, loose: Sequence[Chunk] = ()) -> Noun:
    """The noun at `head`, described by the words of its chunk and by those of `loose` chunks."""
    roles = ("colour",) if chunk.sides else ("colour", "null")
    own = [w for w in chunk.words if w in chunk.open or w.role in roles]
    own = [w for w in own if w is not head]
    said = [w for c in loose for w in (*c.of_role("colour"), *c.open) if w is not head]
    before = [_word(text, w).text for w in own if w.start < head.start]
    return Noun(
        word=_word(text, head),
        lemma=_lemma(head),
        phrase=" ".join([*before, _word(text, head).text]),
        modifiers=tuple(_word(text, w) for w in (*own, *said)),
        plural=head.plural,
    )


def _linked(text: str, target: Target) -> tuple[list[Relation], list[Noun]]:
    """The relations of a target and the nouns it stands to, or that are named beside it.

    What belongs to an anchor is only a noun: "the lid" in "next to the lid of the pot".
    """
    relations: list[Relation] = []
    nouns: dict[Noun, None] = {}
    joined = False  # whether an "and" now would continue the anchors of the last relation
    for chunk in target.rest:
        if is_loose(chunk) or chunk.head is None:
            joined = False
            continue
        noun = _noun(text, chunk, chunk.head)
        nouns[noun] = None
        if joined and chunk.link in ("of", "owner"):
            continue
        if joined and chunk.link in ("and", "co-owner"):
            relations[-1] = replace(relations[-1], anchors=(*relations[-1].anchors, noun))
        elif joined := chunk.link not in (*TOP, "side"):
            relations.append(Relation(_kind(chunk), _span(text, chunk.marks), (noun,)))
    return relations, list(nouns)


def _kind(chunk: Chunk) -> str:
    """The kind of relation a chunk's link makes; clothes are worn, not stood in."""
    worn = chunk.link == "in" and chunk.head is not None and _lemma(chunk.head) in _CLOTHES
    return "with" if worn else _KINDS.get(chunk.link, chunk.link)


def _order(own: list[Chunk]) -> tuple[Order | None, Token | None]:
    """The order asked for, and the side or size word that it took ("from the right")."""
    ranks = [(c, w) for c in own for w in c.of_role("order")]
    if not ranks:
        return None, None
    chunk, word = ranks[0]
    rank, after = int(word.value), chunk.words[chunk.words.index(word) + 1 :][:1]
    if after and after[0].role == "size" and _compares(after[0]):
        return Order(rank, after[0].value), after[0]
    sides = [(c, w) for c in own for w in c.sides if w.value != "middle"]
    counted = [w for c, w in sides if c.link == "from"]
    if not counted and rank > 0:
        counted = [w for c, w in sides if not (c.head and c.head.key in ("row", "column"))]
    if counted:
        return Order(rank, counted[0].value), counted[0]
    leftwards = rank < 0 and any(w.value == "left" for _, w in sides)  # last on the left
    return Order(rank, "right" if leftwards else "left"), None


def _size(text: str, token: Token) -> Size:
    return Size(token.value, _word(text, token), _compares(token))


def _compares(token: Token) -> bool:
    """Whether a size word ranks: "biggest" and "smaller" do, "big" does not."""
    return token.key.endswith(("er", "est"))


def _number(top: Chunk, root: Noun, alone: bool) -> int | None:
    """1, n, or None for all of them; "both the cat and the dog" are one cat and one dog."""
    tagged = re.match(r"\d+(?=[^\W\d]{2})", root.word.text)  # 2girls
    numbers = [w for w in top.of_role("number") if alone or root.plural or w.key != "both"]
    counts = [w.value for w in numbers if w.start < root.word.start]
    counts += [tagged.group()] if tagged else []
    if counts:
        return max(1, int(counts[0]))
    measures = [w.value for w in top.of_role("measure") if w.start != root.word.start]
    if measures and measures[0] != "all":
        return int(measures[0])
    return None if measures or top.of_role("all") or root.plural else 1


def _depth(text: str, own: list[Chunk]) -> Iterator[Relation]:
    """ "The front dog", "the one closest to the camera": in front of nothing that is named."""
    for chunk in own:
        for word in chunk.of_role("depth") if chunk.link != "with" else []:  # "her back to us"
            if not (word.key in _EXTREMES and any(c.sides for c in own)):  # "furthest left"
                yield Relation(word.value, _word(text, word))
        if chunk.link == "near" and any(w.key in _VIEWER for w in chunk.words):
            yield Relation("in front of", _span(text, chunk.marks))


def _lemma(head: Token) -> str:
    bare = re.sub(r"^\d+(?=[^\W\d])", "", head.text)
    if head.plural and head.lemma in (head.text, bare):
        return re.sub(r"(?<=[sxz])es$|(?<=[cs]h)es$|s$", "", bare)
    return head.lemma if head.tag[:2] == "NN" and bare == head.text else bare


def _word(text: str, token: Token) -> Word:
    return Word(text[token.start : token.end], token.start, token.end)


def _span(text: str, marks: Sequence[Token]) -> Word:
    start, end = marks[0].start, marks[-1].end
    return Word(text[start:end], start, end)
