"""The cutting of a tagged text into chunks.

A chunk is one noun with the words before it ("the small red cat"), opened by a link: the words
that say how it hangs on what came before ("next to", "and", "wearing"). The tagger of the
language model says what an unknown word is; its tree is asked only whether a verb is one, since
on short phrases the tree of a small model is often wrong ("train on the left" becomes a command).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .grammar import (
    AFTER_NOUN,
    DENIALS,
    LEAD_PAIRS,
    LEADING,
    LONGEST,
    NOMINAL,
    PHRASES,
    PRONOUNS,
    TOP,
    Token,
)

_PLAIN = (*TOP, "side", "verb", "'s", "of", "from", "to")  # links that "not" leaves as they are


@dataclass
class Chunk:
    """A link and the words it opens: link "near", marks "next to", words "the red car".

    denied: a "not" stands before the link, or a "no" is part of it.
    """

    link: str
    marks: list[Token] = field(default_factory=list)
    words: list[Token] = field(default_factory=list)
    denied: bool = False

    def of_role(self, *roles: str) -> list[Token]:
        return [word for word in self.words if word.role in roles]

    @property
    def open(self) -> list[Token]:
        aside = any(word.key == "side" for word in self.words)
        words = [word for word in self.of_role("open") if not (aside and word.key == "hand")]
        return [word for word in words if self.link == "start" or word.tag != "PRP"]

    @property
    def head(self) -> Token | None:
        """The noun of the chunk: its last noun-like word, "one", or a colour that is a fruit."""
        if self.words and self.words[-1].role in ("null", "measure"):
            return self.words[-1]
        ones = [word for word in self.words if word.key in PRONOUNS]
        found = (
            self._nouns()
            or self._garment()
            or self.of_role("null")
            or ones
            or self._fruit()
            or self.of_role("measure")
            or self.of_role("quality")
        )
        return found[-1] if found else None

    def _nouns(self) -> list[Token]:
        nouns = [word for word in self.open if word.key not in AFTER_NOUN] or self.open
        if self.link == "clause":
            nouns = [word for word in nouns if word.tag[:2] in ("NN", "CD", "PR")]
        if self.link in (",", "verb"):
            nouns = [word for word in nouns if word.tag not in ("VBG", "VBN", "RB")]
        while len(nouns) > 1 and nouns[-1].tag == "JJ" and nouns[-2].tag[:2] == "NN":
            nouns = nouns[:-1]  # fish frozen
        return nouns

    def _garment(self) -> list[Token]:
        """ "A red top" is worn; "the top" is a place."""
        last = self.words[-1:]
        worn = self.link in ("in", "with") and self.of_role("colour")
        return last if worn and last[0].key in ("top", "bottoms") else []

    def _fruit(self) -> list[Token]:
        edible = [word for word in self.of_role("colour") if word.key in ("orange", "lime")]
        return edible if self.link not in ("in", "with", "clause") else []

    @property
    def null(self) -> bool:
        """True when the noun names no thing: "side", "picture", or there is no noun at all."""
        head = self.head
        return head is None or (head.role == "null" and not self.open)

    @property
    def sides(self) -> list[Token]:
        return [word for word in self.of_role("side") if word is not self.head]


def chunks(tokens: Sequence[Token]) -> list[Chunk]:
    """Cut a tagged text into chunks, in reading order; `folding.fold` joins some of them again."""
    done, i = [Chunk("start")], _lead(tokens)
    while i < len(tokens):
        link, used = _link(tokens, i, done)
        if link is not None:
            done.append(_opened(link, list(tokens[i : i + used]), done[-1]))
        if not used:
            done[-1].words.append(tokens[i])
        i += max(used, 1)
    return [chunk for chunk in done if chunk.words or chunk.link == "'s"]


def _opened(link: str, marks: list[Token], last: Chunk) -> Chunk:
    """A new chunk; what is "not next to the tree" or "with no hat" stands in another relation."""
    denials = [word for word in last.words[-1:] if word.key in DENIALS]
    denied = bool(denials) or any(mark.key == "no" for mark in marks)
    if not denied or link in _PLAIN:
        return Chunk(link, marks, denied=denied)
    del last.words[len(last.words) - len(denials) :]
    return Chunk("other", [*denials, *marks], denied=True)


def _lead(tokens: Sequence[Token]) -> int:
    """How many words only ask to look: "please find", "there is", "can you show me"."""
    i = 0
    while i + 1 < len(tokens):
        pair, after = f"{tokens[i].key} {tokens[i + 1].key}", (tokens[i + 1].key,)
        if pair in LEAD_PAIRS and i + 2 < len(tokens):
            i += 2
        elif tokens[i].text in LEADING and (
            after[0] in LEADING or (after not in PHRASES or after == ("that",))
        ):
            i += 1
        else:
            break
    return i


def _link(tokens: Sequence[Token], i: int, done: list[Chunk]) -> tuple[str | None, int]:
    """The link that opens at token i and how many tokens it takes; (None, 0) for none."""
    now, token = done[-1], tokens[i]
    if token.tag == "POS" and now.open:
        return "'s", 1
    for size in range(min(LONGEST, len(tokens) - i), 0, -1):
        kind = PHRASES.get(tuple(t.key for t in tokens[i : i + size]))
        if kind and not _continues(kind, tokens[i + size : i + size + 1], now, token):
            no = kind not in _PLAIN and any(t.key == "no" for t in tokens[i + size : i + size + 1])
            return kind, size + no
    if token.tag == "VBZ" and token.text == "'s":
        return "clause", 1
    if _is_verb(token, done) or _acts(tokens, i, now):
        return "verb", 1
    if token.role in ("det", "all") and _complete(now):
        return _after_verb(now), 0
    if token.role in ("side", "order", "depth", "size") and now.open and not _noun_ahead(tokens, i):
        return "side", 0
    if token.tag in ("IN", "TO", "RP") and token.role == "open":
        return "other", 1
    return None, 0


def _continues(kind: str, after: Sequence[Token], now: Chunk, token: Token) -> bool:
    """True where a linking word links nothing: "black and white cat", "that cat", "big, red"."""
    if kind == "clause":
        return token.key == "that" and not any(w.role != "det" for w in now.words)
    if kind not in ("and", ","):
        return False
    plain = all(word.adjective for word in now.open) and bool(now.words)
    described = bool(after) and (after[0].role in ("colour", "size") or after[0].tag[:2] == "JJ")
    return plain and described and not now.of_role("side", "quality")


def _is_verb(token: Token, done: list[Chunk]) -> bool:
    """True for a verb that says what the noun before it does, not what kind of noun follows."""
    if token.role != "open" or token.tag[:2] not in ("VB", "MD"):
        return False
    compound = token.tag in ("VB", "VBP") and done[-1].open and not done[-1].open[-1].plural
    if token.dep in NOMINAL or (compound and not token.action):  # "stop sign"
        return False
    now, earlier = done[-1], any(chunk.head for chunk in done[:-1])
    bare = now.link in (*TOP, "side") and not now.of_role("det", "all", "number")
    return bool(now.open) or (earlier and bare)


def _acts(tokens: Sequence[Token], i: int, now: Chunk) -> bool:
    """True for a verb taken for a noun: "fish swimming", but not "swimming fish" or "a run"."""
    subject = bool(now.open) and now.words[-1] is now.open[-1]
    tagged = tokens[i].role == "open" and tokens[i].tag[:2] == "NN"
    after = tokens[i + 1 : i + 2]
    modifies = bool(after) and after[0].role == "open" and after[0].tag[:2] in ("NN", "CD")
    return subject and tagged and tokens[i].action and not modifies


def _complete(now: Chunk) -> bool:
    """True when an article can only begin another noun."""
    return any(word.role not in ("det", "all", "number", "intensity") for word in now.words)


def _after_verb(now: Chunk) -> str:
    """The link of a noun that follows `now` directly; a lone verb was a command: "crop the dog"."""
    if now.link != "start" or not all(word.tag[:2] == "VB" for word in now.words):
        return ""
    now.words.clear()
    return "start"


def _noun_ahead(tokens: Sequence[Token], i: int) -> bool:
    """True when a place word still stands before its noun: "old left cup", not "cup left"."""
    rest = (t for t in tokens[i:] if t.role not in ("side", "order", "size", "depth", "colour"))
    after = next(rest, None)
    return (
        after is not None
        and after.role == "open"
        and (after.key,) not in PHRASES
        and after.tag[:2] in ("NN", "JJ")
    )
