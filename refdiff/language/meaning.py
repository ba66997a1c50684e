"""What a sentence is taken to mean: the word to look for and every word that says which one.

The root is the noun the phrase refers to (the paper's root token, section 3.2): "cat" in "the red
cat on the left". Place, size, order and number words are kept apart from it, because a text
encoder knows little of them and the geometry of the masks knows them exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Word:
    """A stretch of the text: characters [start, end) of `Expression.text`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Noun:
    """A noun and what is said of it; `phrase` is "red cat": no article, place, size or number."""

    word: Word
    lemma: str
    phrase: str
    modifiers: tuple[Word, ...] = ()
    plural: bool = False


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

    side is left, right, top or bottom, or the kind of a size ("second biggest").
    """

    rank: int
    side: str = "left"


@dataclass(frozen=True)
class Relation:
    """How the root stands to other nouns.

    kind is near, left of, right of, above, below, on, in, between, in front of, behind, with or
    other. "The front dog" is in front of nothing named: no anchors.
    """

    kind: str
    word: Word
    anchors: tuple[Noun, ...] = ()


@dataclass(frozen=True)
class Expression:
    """What a text refers to.

    root: the noun looked for; places to relations: what is said of it. also: further nouns looked
    for ("the cat and the dog"), the answer being the union; further: what is said of each of
    those, best read through `targets()`. others: every other noun. number: 1, n, or None for all
    of them. ignored: words that were understood and are not used; no content word is dropped
    silently.
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

    def targets(self) -> tuple[Expression, ...]:
        """One expression for each noun looked for, the root first, each with what is said of it.

        "The cat on the left and the dog on the right" gives a cat on the left and a dog on the
        right, all of the same text. Without `further` every noun shares what is said of the root.
        """
        own = replace(self, also=(), further=())
        return (own, *(self.further or (replace(own, root=noun) for noun in self.also)))

    def words(self) -> Iterator[Word]:
        """Every stretch of the text that some part of the expression took, the ignored excepted."""
        for noun in (self.root, *self.also, *self.others):
            yield from (noun.word, *noun.modifiers)
        for said in (self, *self.further):
            yield from (place.word for place in said.places)
            yield from (relation.word for relation in said.relations)
            yield from [said.size.word] if said.size else []

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
            "Place": ", ".join(place.side for place in self.places),
            "Size": self.size.kind if self.size else "",
            "Order": _ordered(self.order) if self.order else "",
            "Relation": "; ".join(map(_related, self.relations)),
        }
        if self.number == 1:
            del parts["How many"]
        return " ".join(f"{name}: {value}." for name, value in parts.items() if value)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists and dicts, ready for `json.dumps`."""
        return asdict(self) | {"summary": self.summary()}


def _described(noun: Noun) -> str:
    said = ", ".join(word.text for word in noun.modifiers)
    return f"{noun.word.text} (modifiers: {said})" if said else noun.word.text


def _ordered(order: Order) -> str:
    rank = "last" if order.rank == -1 else f"number {order.rank}"
    sided = order.side in ("left", "right", "top", "bottom")
    return (
        f"{rank} from the {order.side}" if sided else f"{rank}, counting from the most {order.side}"
    )


def _related(relation: Relation) -> str:
    anchors = " and ".join(noun.word.text for noun in relation.anchors)
    kind = relation.word.text if relation.kind == "other" else relation.kind
    return f"{kind} {anchors}".strip()
