"""What a sentence is taken to mean: the word to look for and every word that says which one.

The root is the noun the phrase refers to (the paper's root token, section 3.2): "cat" in "the red
cat on the left". Place, size, order and number words are kept apart from it, because a text
encoder knows little of them and the geometry of the masks knows them exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .words import ANYTHING, ENDS, PARTS, THINGS

OWNING = ("of", "'s", "'", "\u2019s", "\u2019")  # between a part and its whole


@dataclass(frozen=True)
class Word:
    """A stretch of the text: characters [start, end) of `Expression.text`."""

    text: str
    start: int
    end: int


def pictured(word: Word) -> bool:
    """Whether a word can be looked for in a picture: "thing" can, "one" and no word cannot."""
    return bool(word.text) and word.text.lower() not in ANYTHING - THINGS


@dataclass(frozen=True)
class Noun:
    """A noun and what is said of it.

    phrase: what CLIP reads: "red cat", "dog jumping", "guy in blue"; no article, place, size or
    number. places, size and relations are those of a noun that the root is related to ("the big
    plate" in "cup next to the big plate"); the root's own stand in its `Expression`. A text that
    names no thing ("second from left") has an empty word, and "thing" for the lemma.
    """

    word: Word
    lemma: str
    phrase: str
    modifiers: tuple[Word, ...] = ()
    plural: bool = False
    places: tuple[Place, ...] = ()
    size: Size | None = None
    relations: tuple[Relation, ...] = ()

    @property
    def anything(self) -> bool:
        """True for a noun that names no kind of thing: "one", "everything", or none at all."""
        return not self.word.text or self.lemma in ANYTHING

    @property
    def pictured(self) -> bool:
        """Whether its word can be looked for in a picture; see `pictured`."""
        return pictured(self.word)

    @property
    def name(self) -> str:
        return self.word.text or "any thing"

    def words(self) -> Iterator[Word]:
        """Every stretch of the text that belongs to the noun."""
        yield from [self.word] if self.word.text else []
        yield from self.modifiers
        yield from _said_words(self)

    def described(self) -> bool:
        return bool(self.places or self.size or self.relations)


@dataclass(frozen=True)
class Place:
    """Where in the picture: side is left, right, top, bottom or middle; a corner is two places."""

    side: str
    word: Word


@dataclass(frozen=True)
class Size:
    """kind is big, small, tall, short, wide, narrow or long; superlative also for "smaller"."""

    kind: str
    word: Word
    superlative: bool


@dataclass(frozen=True)
class Order:
    """Counting from a side: Order(2, "right") is the second from the right; rank -1 is the last.

    side is left, right, top or bottom, the kind of a size ("second biggest"), or front and back
    ("third nearest").
    """

    rank: int
    side: str = "left"
    word: Word | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Relation:
    """How the root stands to other nouns.

    kind is near, far from, left of, right of, above, below, on, in, between, in front of, behind,
    with or other. "The front dog" is in front of nothing named: no anchors. "other" weighs
    nothing on the masks: CLIP alone reads it.
    """

    kind: str
    word: Word
    anchors: tuple[Noun, ...] = ()


@dataclass(frozen=True)
class Part:
    """A region of the thing: "top half of the sandwich" is Part(("top",), 0.5, ...).

    sides: towards which it lies, two for a corner. share: of the thing's extent along each.
    """

    sides: tuple[str, ...]
    share: float
    word: Word


@dataclass(frozen=True)
class Exclusion:
    """What is not wanted.

    word: what denies ("except", "not", "without"). noun: what is not wanted; for "the dog that is
    not sleeping" the root with what is denied of it, phrase "dog sleeping". places to relations:
    what is said of it, so that "all but the left one" leaves one out. told: whether it is denied
    of the thing looked for ("not on the left") and names no thing to leave out ("the left one").
    """

    word: Word
    noun: Noun
    places: tuple[Place, ...] = ()
    size: Size | None = None
    order: Order | None = None
    number: int | None = 1
    relations: tuple[Relation, ...] = ()
    told: bool = False

    def expression(self, text: str) -> Expression:
        """What is not wanted as an expression of the same text."""
        return Expression(
            text, self.noun, places=self.places, size=self.size, order=self.order,
            number=self.number, relations=self.relations,
        )  # fmt: skip

    def words(self) -> Iterator[Word]:
        yield self.word
        yield from self.noun.words()
        yield from _said_words(self)


@dataclass(frozen=True)
class Expression:
    """What a text refers to.

    root: the noun looked for; places to relations: what is said of it. also: further nouns looked
    for ("the cat and the dog"), the answer being the union; further: what is said of each of
    those, best read through `targets()`. others: every other noun. number: 1, n, or None for all
    of them. excluded: what is not wanted. part: the region asked for. ignored: words that were
    understood and are not used; no content word is dropped silently. notes: sentences on how the
    text was taken. parser: who tagged the words.
    """

    text: str
    root: Noun
    also: tuple[Noun, ...] = ()
    others: tuple[Noun, ...] = ()
    places: tuple[Place, ...] = ()
    size: Size | None = None
    order: Order | None = None
    number: int | None = 1
    relations: tuple[Relation, ...] = ()
    ignored: tuple[Word, ...] = ()
    further: tuple[Expression, ...] = ()
    excluded: tuple[Exclusion, ...] = ()
    part: Part | None = None
    number_word: Word | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    parser: str = field(default="", compare=False)

    def targets(self) -> tuple[Expression, ...]:
        """One expression for each noun looked for, the root first, each with what is said of it.

        "The cat on the left and the dog on the right" gives a cat on the left and a dog on the
        right, all of the same text. Without `further` every noun shares what is said of the root.
        """
        own = replace(self, also=(), further=())
        return (own, *(self.further or (replace(own, root=noun) for noun in self.also)))

    def wholes(self) -> tuple[Expression, ...]:
        """What the root is a part of, as expressions of the same text: the mug of a handle."""
        if self.root.lemma not in PARTS and self.root.lemma not in ENDS:
            return ()
        return tuple(
            Expression(
                self.text, noun, places=noun.places, size=noun.size,
                number=None if noun.plural else 1, relations=noun.relations,
            )
            for relation in self.relations
            if relation.kind == "with" and relation.word.text.lower() in OWNING
            for noun in relation.anchors
        )  # fmt: skip

    @property
    def complement(self) -> bool:
        """True for "everything except the dog": what the picture shows beside the excluded."""
        kinds = {one.noun.lemma for one in self.excluded}
        own = all(one.noun.anything for one in self.excluded)
        return self.root.anything and self.number is None and bool(kinds) and not own

    def words(self) -> Iterator[Word]:
        """Every stretch of the text that some part of the expression took, the ignored excepted."""
        for noun in (self.root, *self.also, *self.others):
            yield from noun.words()
        for said in (self, *self.further):
            yield from _said_words(said)
            yield from (word for one in said.excluded for word in one.words())
            yield from [said.part.word] if said.part else []
            yield from [said.number_word] if said.number_word else []

    def summary(self) -> str:
        """One line a person can check: "Looks for: cat (modifiers: red). Place: left." """
        targets = self.targets()
        if len({one._said() for one in targets}) == 1:
            names = [" and ".join(_described(one.root) for one in targets)]
        else:
            names = [_described(one.root) for one in targets]
        parts = [
            f"{'And for' if i else 'Looks for'}: {name}. {one._said()}".strip()
            for i, (name, one) in enumerate(zip(names, targets, strict=False))
        ]
        rest = {
            "Other nouns": ", ".join(map(_described, self.others)),
            "Not used": ", ".join(word.text for word in self.ignored),
        }
        return " ".join([*parts, *(f"{name}: {value}." for name, value in rest.items() if value)])

    def _said(self) -> str:
        """What is said of the root, in a form that two targets can be compared by."""
        parts = {
            "How many": "all" if self.number is None else str(self.number),
            "Part": f"the {' '.join(self.part.sides)}" if self.part else "",
            "Place": ", ".join(place.side for place in self.places),
            "Size": self.size.kind if self.size else "",
            "Order": ordered(self.order) if self.order else "",
            "Relation": "; ".join(map(related, self.relations)),
            "Without": "; ".join(map(denied, self.excluded)),
        }
        if self.number == 1:
            del parts["How many"]
        return " ".join(f"{name}: {value}." for name, value in parts.items() if value)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists and dicts, ready for `json.dumps`."""
        return asdict(self) | {"summary": self.summary()}


def _said_words(said: Noun | Exclusion | Expression) -> Iterator[Word]:
    yield from (place.word for place in said.places)
    yield from [said.size.word] if said.size else []
    order = None if isinstance(said, Noun) else said.order
    yield from [order.word] if order and order.word else []
    for relation in said.relations:
        yield relation.word
        yield from (word for noun in relation.anchors for word in noun.words())


def _described(noun: Noun) -> str:
    said = ", ".join(word.text for word in noun.modifiers)
    own = [place.side for place in noun.places] + ([noun.size.kind] if noun.size else [])
    own += [related(relation) for relation in noun.relations]
    said = "; ".join(part for part in (f"modifiers: {said}" if said else "", *own) if part)
    return f"{noun.name} ({said})" if said else noun.name


def ordered(order: Order) -> str:
    """ "Number 2 from the left", "last from the right"."""
    rank = {-1: "last"}.get(order.rank, f"number {abs(order.rank)}")
    rank += " before the end," if order.rank < -1 else ""
    sided = order.side in ("left", "right", "top", "bottom", "front", "back")
    return (
        f"{rank} from the {order.side}" if sided else f"{rank}, counting from the most {order.side}"
    )


def related(relation: Relation) -> str:
    """ "Near tree", "in front of"."""
    anchors = " and ".join(noun.word.text for noun in relation.anchors)
    kind = relation.word.text if relation.kind == "other" else relation.kind
    return f"{kind} {anchors}".strip()


def denied(one: Exclusion) -> str:
    """ "Dog", "left one", "near tree"."""
    said = [place.side for place in one.places] + ([one.size.kind] if one.size else [])
    said += [ordered(one.order)] if one.order else []
    said += [related(relation) for relation in one.relations]
    return " ".join([one.noun.phrase, *([f"({', '.join(said)})"] if said else [])])
