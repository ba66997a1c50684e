"""The cutting of a tagged text into chunks.

A chunk is one noun with the words before it ("the small red cat"), opened by a link: the words
that say how it hangs on what came before ("next to", "and", "wearing").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .grammar import LONGEST, PHRASES, PRONOUNS, TOP, Token
from .words import AFTER_NOUN, CLOTHES, ING_COMPOUNDS, PARTS, PEOPLE

STAND_IN = -2  # the start of a word that stands for the root in what is denied of it
_INVERSE = {"in": "with", "on": "with", "near": "near", "above": "below", "below": "above",
            "behind": "in front of", "in front of": "behind", "with": "with"}  # fmt: skip


@dataclass
class Chunk:
    """A link and the words it opens: link "near", marks "next to", words "the red car".

    part: the words that ask for a region of the thing, "top half" in "top half of the sandwich".
    """

    link: str
    marks: list[Token] = field(default_factory=list)
    words: list[Token] = field(default_factory=list)
    part: list[Token] = field(default_factory=list)

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
        if not self.words:
            return None
        first, last = self.words[0], self.words[-1]
        if first.start == STAND_IN:
            return first
        if last.role in ("null", "measure") or (last.key in PRONOUNS and len(self.words) > 1):
            return last
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
            nouns = [w for w in nouns if w.tag[:2] not in ("VB", "RB") and w.tag != "JJ"]
        if self.link in ("in", "on", "at") and nouns and all(w.tag[:2] == "JJ" for w in nouns):
            return []  # in plaid
        while len(nouns) > 1 and nouns[-1].tag == "JJ" and nouns[-2].noun:
            nouns = nouns[:-1]  # fish frozen
        if self.of_role("null") and nouns and nouns[-1].tag[:2] in ("JJ", "VB"):
            return []
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
    done, i = [Chunk("start")], 0
    while i < len(tokens):
        link, used = _link(tokens, i, done)
        if link is not None:
            emphasis = _emphasis(done[-1]) if used and link != "verb" else []
            done.append(Chunk(link, [*emphasis, *tokens[i : i + used]]))
        if not used:
            done[-1].words.append(tokens[i])
        i += max(used, 1)
    return _with_particles(done)


def _emphasis(last: Chunk) -> list[Token]:
    """ "Right" of "right behind", taken off the words before it."""
    if last.words and last.words[-1].told is not None and last.words[-1].role == "intensity":
        return [last.words.pop()]
    return []


def _with_particles(done: list[Chunk]) -> list[Chunk]:
    """Chunks with words; a link that opens none belongs to the verb before it: "leaning over"."""
    kept: list[Chunk] = []
    for chunk in done:
        if chunk.words or chunk.link in ("'s", "verb"):
            kept.append(chunk)
        elif kept and kept[-1].link in ("clause", "") and kept[-1].head and chunk.link in _INVERSE:
            kept[-1].link, kept[-1].marks = _INVERSE[chunk.link], chunk.marks  # the box it is in
        elif kept and kept[-1].link == "verb" and not kept[-1].words and chunk.link not in TOP:
            kept[-1].marks.extend(chunk.marks)
    return kept


def _link(tokens: Sequence[Token], i: int, done: list[Chunk]) -> tuple[str | None, int]:
    """The link that opens at token i and how many tokens it takes; (None, 0) for none."""
    now, token = done[-1], tokens[i]
    if token.told is not None and token.role != "open":
        opens = token.role in ("order", "depth") and now.open and not _noun_ahead(tokens, i)
        return ("side", 0) if opens else (None, 0)
    if token.tag == "POS" and (now.open or now.sides):
        return "'s", 1
    found = _phrase(tokens, i, now)
    if found is not None:
        return found
    if token.tag == "VBZ" and token.text == "'s":
        return "clause", 1
    if _is_verb(tokens, i, done) or _acts(tokens, i, now):
        return "verb", 1
    if token.role in ("det", "all") and _complete(now):
        return _after_verb(now), 0
    if token.role in ("side", "order", "depth", "size") and now.open and not _noun_ahead(tokens, i):
        return "side", 0
    if _dressed(tokens, i, now):
        return "with", 0
    if token.tag in ("IN", "TO", "RP") and token.role == "open":
        return "other", 1
    return None, 0


def _phrase(tokens: Sequence[Token], i: int, now: Chunk) -> tuple[str | None, int] | None:
    """The longest linking phrase at token i."""
    if tokens[i].told is not None:
        return None
    for size in range(min(LONGEST, len(tokens) - i), 0, -1):
        kind = PHRASES.get(tuple(t.key for t in tokens[i : i + size]))
        if kind and not _continues(kind, tokens[i + size : i + size + 1], now, tokens[i]):
            return kind, size
    return None


def _continues(kind: str, after: Sequence[Token], now: Chunk, token: Token) -> bool:
    """True where a linking word links nothing: "black and white cat", "that cat", "big, red"."""
    if kind == "clause":
        return token.key == "that" and not any(w.role != "det" for w in now.words)
    if token.tag[:2] in ("NN", "JJ") and token.key in ("like", "nearest", "closest", "opposite"):
        return not now.words or not now.open or not after
    if kind not in ("and", ","):
        return False
    plain = all(word.adjective for word in now.open) and bool(now.words)
    described = bool(after) and (after[0].role in ("colour", "size") or after[0].tag[:2] == "JJ")
    return plain and described and not now.of_role("side", "quality")


def _is_verb(tokens: Sequence[Token], i: int, done: list[Chunk]) -> bool:
    """True for a verb that says what the noun before it does, not what kind of noun follows."""
    token, now = tokens[i], done[-1]
    if token.role != "open" or token.tag[:2] not in ("VB", "MD"):
        return False
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    follows = after is not None and after.role in ("open", "null") and after.noun
    if token.tag == "VBG":
        compound = after is not None and f"{token.key} {after.key}" in ING_COMPOUNDS
        return not compound and (_subject(now) or (not now.words and _opens(after, done)))
    if token.tag in ("VB", "VBP"):
        bare = not (now.open and now.open[-1].plural) and now.words
        told = now.words and now.words[-1].key in ("to", "and")
        return bool(_subject(now) or not now.words) and (not bare or bool(told) or token.action)
    if token.tag in ("VBN", "VBD"):
        return not follows and (_subject(now) or (not now.words and len(done) > 1))
    return _subject(now) or (not now.words and len(done) > 1)


def _subject(now: Chunk) -> bool:
    """True when the chunk has its noun already."""
    last = now.words[-1] if now.words else None
    if last is None:
        return False
    return (
        (last.role == "open" and last.tag[:2] in ("NN", "CD", "SY", "FW", "PR"))
        or (
            last.key in PRONOUNS or last.lemma in PEOPLE or last.key in ("blonde", "blond", "adult")
        )
        or (last.role in ("side", "null", "depth") and bool(now.open))
    )


def _opens(after: Token | None, done: list[Chunk]) -> bool:
    """True for a verb behind a comma or "is", and for one that opens the text before an article."""
    if len(done) == 1:
        return after is None or after.role in ("det", "mark", "colour") or after.tag in ("IN", "TO")
    return after is None or not (after.role == "open" and after.noun) or done[-1].link == "clause"


def _acts(tokens: Sequence[Token], i: int, now: Chunk) -> bool:
    """True for a verb taken for a noun: "dog run", but not "swimming fish" or "a run"."""
    subject = bool(now.open) and now.words[-1] is now.open[-1] and now.open[-1].noun
    tagged = tokens[i].role == "open" and tokens[i].noun
    after = tokens[i + 1 : i + 2]
    modifies = bool(after) and after[0].role == "open" and after[0].tag[:2] in ("NN", "CD")
    return subject and tagged and tokens[i].action and not modifies


def _dressed(tokens: Sequence[Token], i: int, now: Chunk) -> bool:
    """True where clothes follow a person: "guy white shirt", "woman striped dress"."""
    last = now.words[-1] if now.words else None
    if last is None or now.link not in TOP or last.lemma not in PEOPLE:
        return False
    for count, token in enumerate(tokens[i : i + 4]):
        if token.role == "open" and (token.lemma in CLOTHES or token.lemma in PARTS):
            ended = i + count + 1 >= len(tokens) or tokens[i + count + 1].role != "open"
            return count > 0 and ended
        if token.role != "colour" and not (token.role in ("open", "size") and token.adjective):
            return False
    return False


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
    roles = ("side", "order", "size", "depth", "colour", "number")
    rest = (t for t in tokens[i:] if t.role not in roles)
    after = next(rest, None)
    return (
        after is not None
        and (
            (after.role == "open" and (after.told is not None or (after.key,) not in PHRASES))
            or after.key in ("one", "ones")
        )
        and after.tag[:2] in ("NN", "JJ", "CD")
    )
