"""Nouns, and the phrase of each that CLIP reads: "red cat", "dog jumping", "guy in blue"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from .chunks import Chunk
from .grammar import TOP, Token
from .meaning import Noun, Place, Relation, Size, Word
from .words import CLOTHES, PEOPLE

KINDS = {"of": "with", "owner": "with", "co-owner": "with", "verb": "with", "from": "other",
         "to": "other"}  # fmt: skip
_PURSUITS = frozenset(  # verbs that do not touch what they are aimed at
    "chasing following watching hitting kicking throwing catching facing pointing looking hit kick "
    "throw catch chase watch approaching passing eyeing filming photographing hits kicks throws "
    "observing feeding herding serving receiving".split()
)
_FIRST = ("near", "left of", "right of", "above", "below", "in front of", "behind", "between",
          "far from")  # fmt: skip
_SECOND = ("on", "in", "below", "above", "behind", "in front of", "with")
_READ = ("with", "other")  # relations that CLIP reads with the noun


def word_of(text: str, token: Token) -> Word:
    if token.start < 0:  # a word that stands for the root in what is denied of it
        return Word(token.text, 0, 0)
    return Word(text[token.start : token.end], token.start, token.end)


def span_of(text: str, tokens: Sequence[Token]) -> Word:
    """The stretch from the first token to the last."""
    spoken = [token for token in tokens if token.start >= 0]
    if not spoken:
        return Word("", 0, 0)
    start = min(token.start for token in spoken)
    end = max(token.end for token in spoken)
    return Word(text[start:end], start, end)


def size_of(text: str, token: Token) -> Size:
    return Size(token.value, word_of(text, token), compares(token))


def compares(token: Token) -> bool:
    """Whether a size word ranks: "biggest" and "smaller" do, "big" does not."""
    return token.key.endswith(("er", "est"))


def noun_of(text: str, chunk: Chunk, head: Token) -> Noun:
    """The noun at `head`, described by the words of its chunk."""
    said = [word for word in _describing(chunk) if word is not head]
    before = [word_of(text, w).text for w in said if w.start < head.start]
    after = [word_of(text, w).text for w in said if w.start > head.start]
    name = word_of(text, head).text
    return Noun(
        word=word_of(text, head),
        lemma=lemma_of(head),
        phrase=" ".join(
            [*(before if head.start >= 0 else []), *_plain(after), name, *_ranks(after)]
        ),
        modifiers=tuple(word_of(text, w) for w in said),
        plural=head.plural,
    )


def _plain(said: list[str]) -> list[str]:
    return [word for word in said if not word[-1:].isdigit()]


def _ranks(said: list[str]) -> list[str]:
    """Numbers that are names stay behind: "bus 42"."""
    return [word for word in said if word[-1:].isdigit()]


def _describing(chunk: Chunk) -> list[Token]:
    """The words of a chunk that say what its noun is like, a second size word included."""
    roles = ("colour",) if chunk.sides or chunk.part else ("colour", "null", "measure")
    roles = (*roles, "quality") if chunk.of_role("quality") and chunk.head else roles
    head = chunk.head
    found = [w for w in chunk.words if w in chunk.open or w.role in roles]
    if head is not None:
        found = [w for w in found if not (w.role == "measure" and w.end <= head.start)]
    return sorted([*found, *chunk.of_role("size")[1:]], key=lambda word: word.start)


def anchor_of(text: str, chunk: Chunk, head: Token) -> Noun:
    """A noun that the root is related to, with the place and size words before it."""
    sizes = chunk.of_role("size")
    return replace(
        noun_of(text, chunk, head),
        places=tuple(Place(word.value, word_of(text, word)) for word in chunk.sides),
        size=size_of(text, sizes[0]) if sizes else None,
    )


def anything(number_words: bool = False) -> Noun:
    """The noun of a text that names none."""
    return Noun(Word("", 0, 0), "thing", "things" if number_words else "thing", plural=number_words)


def described(text: str, noun: Noun, loose: Sequence[Chunk], relations: list[Relation]) -> Noun:
    """The noun with what loose chunks and relations say of its looks: "dog jumping"."""
    before: list[str] = []
    after: list[tuple[int, str]] = []
    words: list[Word] = []
    for chunk in loose:
        own = [w for w in (*chunk.of_role("colour"), *chunk.open) if w.tag != "PRP"]
        own += [w for w in chunk.of_role("aside") if chunk.link == "verb" and w.key != "only"]
        own += [w for w in chunk.of_role("null") if own and not chunk.sides]
        said = sorted([*(chunk.marks if chunk.link == "verb" else []), *own], key=_start)
        if not said:
            continue
        worn = [w for w in chunk.marks if w.tag == "VBG" and chunk.link == "with"]
        words += [word_of(text, w) for w in (*worn, *said) if w in worn or w in own or w.content]
        if chunk.link in ("clause", ",", "start", "side", "") and not _acting(said):
            before += [word_of(text, w).text for w in said]
        else:
            marks = chunk.marks if chunk.link in ("in", "with", "other") else []
            after.append((said[0].start, _joined(text, [*marks, *said])))
    after += [(r.word.start, _told(r)) for r in relations if _is_read(r)]
    tail = [words for _, words in sorted(after)]
    phrase = " ".join([*before, noun.phrase, *tail])
    return replace(noun, phrase=phrase, modifiers=(*noun.modifiers, *words))


def _start(token: Token) -> int:
    return token.start


def _acting(said: list[Token]) -> bool:
    return any(word.tag[:2] == "VB" for word in said)


def _joined(text: str, tokens: Sequence[Token]) -> str:
    return " ".join(word_of(text, token).text for token in tokens if token.role != "intensity")


def _is_read(relation: Relation) -> bool:
    spoken = relation.word.text.lower()
    owned = spoken in ("of", "'s", "'", "") or not relation.anchors
    if owned or relation.word.start > relation.anchors[0].word.start:  # the cat that he holds
        return False
    return relation.kind in _READ or spoken.endswith("ing")


def _told(relation: Relation) -> str:
    """ "With sunglasses", "swinging bat"."""
    names = " and ".join(noun.phrase for noun in relation.anchors)
    mark = "with" if relation.word.text in (",", ".", ";", "/", "|", "w/") else relation.word.text
    return f"{mark} {names}"


def relations_of(text: str, root: Noun, rest: Sequence[Chunk]) -> tuple[list[Relation], list[Noun]]:
    """The relations of a root and the nouns it stands to, or that are named beside it.

    A relation behind an anchor is the anchor's own where it reads so: "next to the man in a hat".
    """
    relations: list[Relation] = []
    nouns: list[Noun] = []
    joined = False  # whether an "and" now would continue the anchors of the last relation
    for chunk in rest:
        head = chunk.head
        if head is None or (chunk.null and not (chunk.link in _FIRST and chunk.open)):
            if not (chunk.null and chunk.link in _FIRST and head is not None and _anchors(chunk)):
                joined = joined and head is None and chunk.link == "verb"
                continue
        noun = anchor_of(text, chunk, head) if head is not None else anything()
        nouns.append(noun)
        if joined and chunk.link in ("of", "owner"):
            owner = Relation("with", _mark_of(text, chunk), (noun,))
            _describe_anchor(relations, owner)
        elif joined and chunk.link in ("and", "co-owner"):
            last = relations[-1]
            relations[-1] = replace(last, anchors=(*last.anchors, noun))
        elif joined := chunk.link not in (*TOP, "side"):
            made = Relation(_kind(chunk), _mark_of(text, chunk), (noun,))
            if relations and _low(root, relations[-1], made, chunk):
                _describe_anchor(relations, made)
            else:
                relations.append(made)
    return relations, list(dict.fromkeys(nouns))


def _anchors(chunk: Chunk) -> bool:
    """True for an anchor that is named by a null word: "left of the screen" is a place, though."""
    return chunk.link in ("in front of", "behind", "above", "below", "between")


def _describe_anchor(relations: list[Relation], own: Relation) -> None:
    """The last anchor takes a relation of its own."""
    last = relations[-1]
    *others, anchor = last.anchors
    phrase = f"{anchor.phrase} {_told(own)}" if _is_read(own) else anchor.phrase
    told = replace(anchor, relations=(*anchor.relations, own), phrase=phrase)
    relations[-1] = replace(last, anchors=(*others, told))


def _low(root: Noun, last: Relation, made: Relation, chunk: Chunk) -> bool:
    """True where a second relation is told of the first one's anchor, not of the root."""
    if len(last.anchors) != 1 or last.kind not in _FIRST or made.kind not in _SECOND:
        return False
    if made.kind == last.kind or chunk.link in ("verb", "from", "to"):
        return False
    person = root.lemma in PEOPLE and last.anchors[0].lemma not in PEOPLE
    return not (made.kind == "with" and person)


def _kind(chunk: Chunk) -> str:
    """The kind of relation a chunk's link makes; clothes are worn, not stood in."""
    head = chunk.head
    if chunk.link in ("in", "on") and head is not None and lemma_of(head) in CLOTHES:
        return "with" if chunk.link == "in" else "on"
    if chunk.link == "verb" and chunk.marks[0].key in _PURSUITS:
        return "near"
    return KINDS.get(chunk.link, chunk.link)


def _mark_of(text: str, chunk: Chunk) -> Word:
    return span_of(text, chunk.marks or chunk.words[:1])


def lemma_of(head: Token) -> str:
    bare = re.sub(r"^\d+(?=[^\W\d])", "", head.text)
    if head.plural and head.lemma in (head.text, bare):
        return re.sub(r"(?<=[sxz])es$|(?<=[cs]h)es$|s$", "", bare)
    return head.lemma if head.tag[:2] == "NN" and bare == head.text else bare


def nouns_in(relations: Sequence[Relation]) -> Iterator[Noun]:
    """The anchors of relations, and of those anchors' own."""
    for relation in relations:
        for noun in relation.anchors:
            yield noun
            yield from nouns_in(noun.relations)
