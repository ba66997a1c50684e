"""Chunks to `Expression`: every word of the text finds its part, or is listed as ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..errors import quoted
from .chunks import STAND_IN, Chunk, chunks
from .exclusion import Denied, without_denied
from .folding import REGIONS, fold
from .grammar import PHRASES, SPOKEN, Token
from .idioms import joined
from .meaning import Exclusion, Expression, Noun, Order, Part, Place, Relation, Word
from .nouns import (
    anything,
    compares,
    described,
    noun_of,
    nouns_in,
    relations_of,
    size_of,
    span_of,
    word_of,
)
from .requests import without_request
from .targets import Target, listed, targets
from .words import CAPTION, DENIALS, VIEWER, WHOLE

_EXTREMES = ("closest", "nearest", "closer", "farthest", "furthest", "farther", "further")
_SHARES = {"quarter": 0.25, "third": 1 / 3, "edge": 0.2, "corner": 0.4}
_ONE = Token("one", STAND_IN, STAND_IN, "one", "CD")
_WITH = Token("with", STAND_IN, STAND_IN, "with", "IN")


def read(text: str, tokens: Sequence[Token]) -> Expression:
    """The meaning of a tagged text; ValueError when several words name no thing."""
    spoken = joined(tokens)
    asked, request = without_request(spoken)
    kept, denied = without_denied(asked)
    whole, used, note = _whole(text, kept, _caption(spoken), bool(denied))
    excluded = tuple(one for part in denied for one in _excluded(text, part, whole.root))
    whole = _without(_asking(text, whole, request), excluded)
    used |= {id(word) for part in denied for word in (*part.marks, *part.words)}
    notes = tuple(filter(None, (note, *(_part_note(one) for one in whole.targets()))))
    whole = replace(whole, notes=tuple(dict.fromkeys(notes)))
    return replace(whole, ignored=tuple(_ignored(text, spoken, whole, used)))


def _whole(
    text: str, tokens: Sequence[Token], caption: bool, bare: bool = False
) -> tuple[Expression, set[int], str]:
    """The expression of tokens in which nothing is denied; the tokens used; a note.

    bare: whether a text without any noun or place is allowed ("not the dog").
    """
    cut, note = listed(fold(chunks(tokens)), caption)
    told = targets(cut)
    found = [_said(text, tokens, target, len(told) == 1, bare) for target in told]
    first, *further = found
    roots = [one.root for one in found]
    others = dict.fromkeys(noun for one in found for noun in one.others if noun not in roots)
    whole = replace(first, also=tuple(roots[1:]), others=tuple(others), further=tuple(further))
    used = {id(token) for target in told for token in _used(target)}
    return whole, used, note


def _said(
    text: str, tokens: Sequence[Token], target: Target, alone: bool, bare: bool
) -> Expression:
    """What a text says of one target."""
    top, own = target.top, target.own
    loose = own[1:]
    root = noun_of(text, top, top.head) if top.head else _bare(text, tokens, target, bare)
    if top.head is not None and top.head.role in ("null", "measure") and _hidden(top):
        root = anything()
    relations, nouns = relations_of(text, root, [c for c in target.rest if not _is_own(c, own)])
    order, counted = _order(text, own)
    sizes = [w for c in own for w in c.of_role("size") if w is not counted]
    region = _region(target)
    places = [w for c in own for w in c.sides if w is not counted and w not in region]
    number, number_word = _number(text, top, root, alone)
    return Expression(
        text=text,
        root=described(text, root, [c for c in loose if not _is_region(c)], relations),
        others=tuple(nouns),
        places=tuple(Place(word.value, _extreme(text, word, own)) for word in places),
        size=size_of(text, sizes[0]) if sizes else None,
        order=order,
        number=number,
        relations=(*relations, *(r for r in _depth(text, own) if r.word != root.word)),
        part=_part(text, region),
        number_word=number_word,
    )


def _asking(text: str, whole: Expression, request: Sequence[Token]) -> Expression:
    """ "Who is wearing the red hat" looks for whoever does."""
    who = next((token for token in request if token.key in ("who", "what", "which")), None)
    if who is None or whole.root.word.text:
        return whole
    return replace(whole, root=replace(whole.root, word=word_of(text, who)))


def _extreme(text: str, side: Token, own: list[Chunk]) -> Word:
    """The word of a place with the one that makes it extreme: "furthest left"."""
    words = next(chunk.words for chunk in own if side in chunk.words)
    before = words[: words.index(side)][-1:]
    extreme = [word for word in before if word.key in _EXTREMES]
    return span_of(text, [*extreme, side])


def _is_own(chunk: Chunk, own: list[Chunk]) -> bool:
    return any(chunk is one for one in own)


def _hidden(top: Chunk) -> bool:
    """True where the head only says where: "top right corner", "left side"."""
    where = top.head is not None and top.head.key in (*REGIONS, "row", "column", "quadrant")
    return bool(top.sides or top.of_role("depth")) and not top.open and where


def _caption(tokens: Sequence[Token]) -> bool:
    quality = [t for t in tokens if t.role == "quality" or t.key in CAPTION]
    pair = tuple(t.key for t in tokens if t.role != "det")[:2]
    pictured = pair[1:] == ("of",) and pair[0] in ("photo", "photograph", "picture", "painting",
                                                  "image", "drawing", "portrait")  # fmt: skip
    parts = [i for i, t in enumerate(tokens[:-1]) if t.text == ","]
    told = len(parts) > 1 and any(tokens[i + 1].tag == "VBG" for i in parts)  # , sitting on a
    return pictured or told or (bool(quality) and len(tokens) > 1)


def _excluded(text: str, part: Denied, root: Noun) -> Iterator[Exclusion]:
    """What one denial takes out."""
    own = {"thing": [], "said": [_ONE], "with": [_ONE, _WITH]}[part.kind]
    mark = span_of(text, part.marks)
    try:
        said, _, _ = _whole(text, [*own, *part.words], False, True)
    except ValueError:
        return
    for one in said.targets():
        noun = _of_root(one.root, root) if own or one.root.anything else one.root
        relations = tuple(
            relation if relation.word.text else replace(relation, word=mark)
            for relation in one.relations
        )
        yield Exclusion(
            mark, noun, one.places, one.size, one.order, one.number, relations, bool(own)
        )


def _of_root(noun: Noun, root: Noun) -> Noun:
    """What is denied of the root itself: "not the blue one" of a car is a blue car."""
    word = noun.word if noun.word.end > noun.word.start else root.word
    bare = "thing" if root.anything else root.word.text
    phrase = re.sub(r"\b(ones?|thing)\b", bare, noun.phrase, count=1)
    return replace(noun, word=word, lemma=root.lemma, phrase=phrase, plural=root.plural)


def _without(whole: Expression, excluded: tuple[Exclusion, ...]) -> Expression:
    """The expression less what is excluded; "anything but the dog" means all of the rest."""
    if not excluded:
        return whole
    further = tuple(replace(one, excluded=excluded) for one in whole.further)
    number = whole.number
    if whole.root.anything and not any(one.noun.anything for one in excluded):
        number = None if whole.root.lemma not in ("one",) else number
    return replace(whole, excluded=excluded, further=further, number=number)


def _used(target: Target) -> Iterator[Token]:
    """Tokens that a target takes without keeping them as words: numbers, "on", "side"."""
    own = target.own
    yield from [w for c in own for w in c.sides]
    yield from [w for c in own for w in c.of_role("order")][:1]
    for chunk in own:
        yield from chunk.of_role("number", "all", "measure", "depth")
        yield from chunk.part
        yield from (w for w in chunk.words if chunk.sides and (w.role == "null" or w.key == "hand"))
    for chunk in own[1:]:
        yield from chunk.marks if chunk.link != "verb" else []


def _ignored(
    text: str, tokens: Sequence[Token], whole: Expression, used: set[int]
) -> Iterator[Word]:
    """The content words that nothing used, neighbours together."""
    covered = [word for word in _acted(whole) if word.text]
    run: list[Token] = []
    for token in tokens:
        taken = any(word.start <= token.start and token.end <= word.end for word in covered)
        idle = not taken and id(token) not in used and _telling(token)
        if run and not (idle and (token.end - token.start) and _adjacent(text, run[-1], token)):
            yield span_of(text, run)
            run = []
        if idle:
            run.append(token)
    if run:
        yield span_of(text, run)


def _adjacent(text: str, one: Token, other: Token) -> bool:
    together = other.role == "open" and one.role in ("open", "colour", "size")
    return together and not text[one.end : other.start].strip()


def _telling(token: Token) -> bool:
    """True for a word whose loss must be told."""
    links = token.role == "mark" and any(c.isalpha() for c in token.text) and token.tag != "DT"
    linking = links and PHRASES.get((token.key,)) not in ("and", "clause", "of", "to", "from")
    pictogram = token.tag == "SYM" and bool(SPOKEN.search(token.text))
    return token.content or token.key in (*DENIALS, "half", "no", "teh") or linking or pictogram


def _acted(whole: Expression) -> Iterator[Word]:
    """Words that weigh something; a noun that is only named beside the root does not."""
    for one in whole.targets():
        named = {one.root, *nouns_in(one.relations)}
        idle = replace(one, others=tuple(noun for noun in one.others if noun in named))
        yield from idle.words()


def _bare(text: str, tokens: Sequence[Token], target: Target, bare: bool) -> Noun:
    """The root of a text without a noun: "left", "second from the right", "the biggest", "sks"."""
    words = [word for chunk in target.own for word in chunk.words]
    roles = ("side", "size", "order", "depth", "colour", "number", "all")
    whole = next((word for word in words if word.role == "all" and word.key in WHOLE), None)
    if whole is not None:
        return Noun(word_of(text, whole), "thing", whole.text, plural=True)
    depth = [w for w in words if w.key in ("background", "foreground", "front", "back")]
    alone = len([w for w in words if w.role not in ("det", "intensity")]) == 1
    if (
        depth
        and alone
        and target.top.link == "start"
        and (not target.rest or depth[0].key in ("background", "foreground"))
    ):
        return Noun(word_of(text, depth[0]), depth[0].lemma, word_of(text, depth[0]).text)
    said = bare or any(word.role in roles for word in words)
    acting = any(chunk.link == "verb" and chunk.marks for chunk in target.rest)
    if said or acting or any(chunk.head for chunk in target.rest):
        noun = anything()
        colours = [w for w in target.top.words if w.role == "colour"]
        named = " ".join([*(word_of(text, w).text for w in colours), noun.phrase])
        return replace(noun, phrase=named, modifiers=tuple(word_of(text, w) for w in colours))
    spoken = [token for token in tokens if SPOKEN.search(token.text)]
    if len(spoken) != 1:
        words_said = " ".join(token.text for token in spoken)
        raise ValueError(
            f'{quoted(words_said)} names no thing; write a noun, such as "the red cat"'
        )
    return noun_of(text, Chunk("start", [], [spoken[0]]), spoken[0])


def _order(text: str, own: list[Chunk]) -> tuple[Order | None, Token | None]:
    """The order asked for, and the side or size word that it took ("from the right")."""
    ranks = [(c, w) for c in own for w in c.of_role("order") if w not in c.part]
    if not ranks:
        return None, None
    chunk, word = ranks[0]
    rank = int(word.value)
    after = chunk.words[chunk.words.index(word) + 1 :][:1]
    if after and after[0].role == "size" and compares(after[0]):
        said = span_of(text, [word, after[0]])
        return Order(rank, after[0].value, said), after[0]
    near = [w for w in chunk.of_role("depth") if w.value in ("front", "back")]
    if near:
        return Order(rank, near[0].value, span_of(text, [word, near[0]])), None
    sides = [(c, w) for c in own for w in c.sides if w.value != "middle"]
    counted = [w for c, w in sides if c.link == "from"]
    if not counted and rank > 0:
        counted = [w for c, w in sides if not (c.head and c.head.key in ("row", "column"))]
    if counted:
        return Order(rank, counted[0].value, word_of(text, word)), counted[0]
    leftwards = rank < 0 and any(w.value == "left" for _, w in sides)  # last on the left
    return Order(rank, "right" if leftwards else "left", word_of(text, word)), None


def _number(text: str, top: Chunk, root: Noun, alone: bool) -> tuple[int | None, Word | None]:
    """1, n, or None for all of them, and the word that says so.

    "Both the cat and the dog" are one cat and one dog.
    """
    tagged = re.match(r"\d+(?=[^\W\d]{2})", root.word.text)  # 2girls
    numbers = [w for w in top.of_role("number") if alone or root.plural or w.key != "both"]
    counts = [w for w in numbers if not root.word.text or w.start < root.word.start]
    if counts:
        said = word_of(text, counts[0]) if counts[0].start >= 0 else None
        return max(1, int(counts[0].value)), said
    if tagged:
        return max(1, int(tagged.group())), None
    measures = [w for w in top.of_role("measure") if w.start != root.word.start]
    if measures and measures[0].value != "all":
        return int(measures[0].value), word_of(text, measures[0])
    every = [*measures, *top.of_role("all")]
    if every:
        return None, word_of(text, every[0])
    return (None if root.plural else 1), None


def _depth(text: str, own: list[Chunk]) -> Iterator[Relation]:
    """ "The front dog", "the one closest to the camera": in front of nothing that is named."""
    ordered = any(chunk.of_role("order") for chunk in own)
    for chunk in own:
        for word in chunk.of_role("depth") if chunk.link != "with" else []:
            sided = word.key in _EXTREMES and any(c.sides for c in own)  # "furthest left"
            if not sided and word.value in ("in front of", "behind"):
                yield Relation(word.value, word_of(text, word))
        viewer = any(w.key in VIEWER for w in chunk.words)
        if chunk.link in ("near", "far from") and viewer and not chunk.sides:
            close = any(w.key.startswith(("clos", "near", "far", "furth")) for w in chunk.marks)
            if close and not ordered:
                kind = "in front of" if chunk.link == "near" else "behind"
                yield Relation(kind, span_of(text, chunk.marks))
        if chunk.link in ("in front of", "behind", "near", "far from") and chunk.null:
            if chunk.marks and any(w.key in ("others", "other", "rest") for w in chunk.words):
                yield Relation(chunk.link, span_of(text, [*chunk.marks, *chunk.words]))


def _is_region(chunk: Chunk) -> bool:
    """True for "sandwich, top half": a side of the thing, where "left side" is a place."""
    return bool(chunk.sides) and any(w.key in ("half", "part", "third") for w in chunk.words)


def _region(target: Target) -> list[Token]:
    """The words that ask for a part of the thing."""
    if target.top.part:
        return target.top.part
    named = target.top.head is not None and target.top.head.role == "open"
    loose = [chunk for chunk in target.own[1:] if _is_region(chunk) and chunk.link in ("side", ",")]
    return [w for c in loose[:1] for w in c.words if w.role in ("side", "null")] if named else []


def _part(text: str, region: list[Token]) -> Part | None:
    sides = tuple(word.value for word in region if word.role == "side")
    if not sides:
        return None
    share = next((_SHARES[word.key] for word in region if word.key in _SHARES), 0.5)
    return Part(sides, share, span_of(text, region))


def _part_note(one: Expression) -> str:
    """Says the other reading of "right side of the pizza"."""
    if one.part is None or not one.part.word.text.lower().endswith("side"):
        return ""
    side, name = " ".join(one.part.sides), one.root.name
    return (
        f"{one.part.word.text!r} is read as a part of the {name}; "
        f"for a {name} at that side write '{name} on the {side}'"
    )
