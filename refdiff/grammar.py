"""How people write what they point at: word tables, and the cutting of a text into chunks.

A chunk is one noun with the words before it ("the small red cat"), opened by a link: the words
that say how it hangs on what came before ("next to", "and", "wearing"). The tagger of the
language model says what an unknown word is; its tree is asked only whether a verb is one, since
on short phrases the tree of a small model is often wrong ("train on the left" becomes a command).
Nothing here knows spaCy: any tagger that gives Penn tags will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"

# role -> value -> words. A word stands once; what stands nowhere is "open" (a noun, as a rule).
_TABLES: dict[str, dict[str, str]] = {
    "side": {
        "left": "left leftmost lefthand lefter",
        "right": "right rightmost righthand righter",
        "top": "top topmost upper uppermost higher highest",
        "bottom": "bottom bottommost lower lowermost lowest",
        "middle": "middle center centre central mid middlemost centermost centered",
    },
    "size": {
        "big": "big bigger biggest large larger largest huge giant enormous gigantic massive",
        "small": "small smaller smallest little littler littlest tiny tinier tiniest",
        "tall": "tall taller tallest",
        "short": "short shorter shortest",
        "wide": "wide wider widest broad broadest fat fatter fattest thick thicker thickest",
        "narrow": "narrow narrower narrowest thin thinner thinnest slim slimmest skinny",
        "long": "long longer longest",
    },
    "depth": {
        "in front of": "front frontmost foreground closest nearest closer",
        "behind": "back background rear backmost farthest furthest farther further",
    },
    "order": {str(rank): word for rank, word in enumerate(_ORDINALS.split(), 1)} | {"-1": "last"},
    "number": {str(n): word for n, word in enumerate(_NUMBERS.split(), 1)} | {"2": "two both"},
    "all": {"": "all every each several many some few various most everything everyone everybody"},
    "measure": {
        "all": "group bunch crowd herd flock row pile set stack lot lots number line collection",
        "2": "pair couple",
        "1": "piece slice kind type sort bit",
    },
    "colour": {
        "": "red green blue yellow purple white black orange pink brown grey gray violet cyan "
        "magenta turquoise teal beige golden silver maroon navy tan lime crimson scarlet indigo",
    },
    "null": {
        "": "picture image photo photograph pic frame scene side sides part half section region "
        "area view shot camera viewer",
        "spot": "corner edge end row column quadrant screen",
    },
    "det": {
        "": "the a an this that these those my your his her its our their any no either such",
    },
    "aside": {"": "not n't never other others another only same single own up down together away"},
    "intensity": {
        "": "very far most more extreme extremely really quite way much so too just please thanks"
    },
}
_ROLES = {
    word: (role, value)
    for role, values in _TABLES.items()
    for value, words in values.items()
    for word in words.split()
}

# kind -> links, longest first where they compete. "of", "from", "to" and "at" need their sequel.
_LINKS = {
    "near": "next to, near to, close to, closer to, closest to, nearest to, nearest the, beside, "
    "besides, near, by, nearby, alongside, adjacent to, around, against, along, at",
    "in front of": "in front of, in the front of, ahead of",
    "behind": "behind, in back of, in the back of, at the back of",
    "above": "above, over, higher than",
    "below": "below, under, underneath, beneath, lower than",
    "on": "on top of, on, upon, onto, atop, riding on, riding, standing on, sitting on",
    "in": "in, inside, inside of, within, into",
    "between": "between, in between, among, amongst",
    "with": "with, wearing, holding, carrying, having, has, have, containing, including",
    "other": "without, except, except for, than, like, for, through, across, off, out of, "
    "toward, towards, about, behind of, as",
    "of": "of",
    "from": "from, counting from, counted from, starting from",
    "to": "to",
    "and": "and, &, plus, or, as well as, and also",
    "clause": "that, which, who, whom, whose, where, is, are, was, were, be, been, being, am, "
    "does, do, did, there, when, while, because",
    ",": "(, ), -, --, ;, :, ., !, ?, /, |",
}
_PHRASES = {tuple(link.split()): k for k, links in _LINKS.items() for link in links.split(", ")}
_PHRASES[(",",)] = ","
_LONGEST = max(map(len, _PHRASES))

_COMMANDS = (
    "find select segment locate detect identify highlight choose show extract remove isolate "
    "replace erase delete get give see want need look looking searching search pick focus click"
)
_LEAD = (
    "please can could would will you i we me us 'd 'm 'll 's let like there here is are was were "
    "it what where which who whose how hey ok okay hi hello now do does try help ' : , - out"
)
_LEADING = frozenset(f"{_COMMANDS} {_LEAD}".split())
_LEAD_PAIRS = frozenset(
    "look at,look for,looking for,looking at,search for,searching for,point to,point at,click on,"
    "focus on,want to,need to,like to,pick out,cut out,this is,that is,this 's,that 's,these are,"
    "those are,get rid".split(",")
)
_AFTER_NOUN = "empty full open closed shut asleep awake alone visible upright broken lit".split()
_DENIALS = ("not", "n't", "never")
_PRONOUNS = ("one", "ones", "everything", "everyone", "everybody")
_PAIRS = "glasses sunglasses jeans pants shorts trousers scissors tongs binoculars".split()
SPOKEN = re.compile("[^\\W_]|[^\u0000-\u25ff]")  # a letter, a digit or a pictogram
_CONTENT = ("NN", "VB", "JJ", "RB", "CD", "FW")
_NOMINAL = ("amod", "compound", "nsubj", "nsubjpass", "pobj", "dobj", "nmod", "poss", "attr")
TOP = ("start", ",", "and", "", "clause")  # links whose chunk may be what the text is about


@dataclass(frozen=True)
class Token:
    """One word in lower case, at characters [start, end); hyphenated words are one token."""

    text: str
    start: int
    end: int
    lemma: str
    tag: str  # Penn treebank
    dep: str = ""

    @property
    def key(self) -> str:
        return re.sub(r"(?<=\w)-(?=\w)", "", self.text)

    @property
    def role(self) -> str:
        """The table the word stands in, else "number", "order", "mark" or "open" (a noun)."""
        if self.key in _ROLES:
            return _ROLES[self.key][0]
        if re.fullmatch(r"\d+", self.key):
            return "number"
        if re.fullmatch(r"\d+(st|nd|rd|th)", self.key):
            return "order"
        if (self.key,) in _PHRASES:
            return "mark"
        if self.tag == "RB" and self.key.endswith("ly"):
            return "aside"
        return "open" if SPOKEN.search(self.text) else "mark"

    @property
    def value(self) -> str:
        """What the table says the word means: "left" for "leftmost", "2" for "second"."""
        return _ROLES[self.key][1] if self.key in _ROLES else re.sub(r"\D", "", self.key)

    @property
    def adjective(self) -> bool:
        return self.tag[:2] in ("JJ", "RB") and self.dep not in ("ROOT", *_NOMINAL[2:])

    @property
    def plural(self) -> bool:
        """True for "cats" and "people", not for "bus", nor for one pair of "jeans"."""
        if self.key in ("people", "children", "men", "women"):
            return True
        if self.key in _PAIRS or self.tag not in ("NNS", "NNPS", "VBZ", "CD"):
            return False
        if self.key.endswith("s"):
            return bool(re.search(r"\w\w[^\Wsui]s$", self.key))
        return self.tag == "NNS" and self.lemma != self.text

    @property
    def content(self) -> bool:
        """True for a word that means something by itself, so that losing it must be told."""
        empty = self.role == "null" and not self.value
        function = self.role in ("det", "intensity", "mark") or self.key in _LEAD.split()
        return not function and not empty and self.tag[:2] in _CONTENT


@dataclass
class Chunk:
    """A link and the words it opens: link "near", marks "next to", words "the red car"."""

    link: str
    marks: list[Token] = field(default_factory=list)
    words: list[Token] = field(default_factory=list)

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
        garment = self._garment()
        nulls, ones = self.of_role("null"), [w for w in self.words if w.key in _PRONOUNS]
        if self.words and self.words[-1].role in ("null", "measure"):
            return self.words[-1]
        nouns = [word for word in self.open if word.key not in _AFTER_NOUN] or self.open
        if self.link == "clause":
            nouns = [word for word in nouns if word.tag[:2] in ("NN", "CD", "PR")]
        if self.link == ",":
            nouns = [word for word in nouns if word.tag not in ("VBG", "VBN")]
        found = nouns or garment or nulls or ones or self._fruit() or self.of_role("measure")
        return found[-1] if found else None

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
    """Cut a tagged text into chunks, in reading order; see `fold` for what is joined again."""
    done, i = [Chunk("start")], _lead(tokens)
    while i < len(tokens):
        link, used = _link(tokens, i, done)
        if link is not None:
            done.append(Chunk(link, list(tokens[i : i + used])))
        if not used:
            done[-1].words.append(tokens[i])
        i += max(used, 1)
    return _fold(chunk for chunk in done if chunk.words)


def _lead(tokens: Sequence[Token]) -> int:
    """How many words only ask to look: "please find", "there is", "can you show me"."""
    i = 0
    while i + 1 < len(tokens):
        pair, after = f"{tokens[i].key} {tokens[i + 1].key}", (tokens[i + 1].key,)
        if pair in _LEAD_PAIRS and i + 2 < len(tokens):
            i += 2
        elif tokens[i].text in _LEADING and (
            after[0] in _LEADING or (after not in _PHRASES or after == ("that",))
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
    for size in range(min(_LONGEST, len(tokens) - i), 0, -1):
        kind = _PHRASES.get(tuple(t.key for t in tokens[i : i + size]))
        after = tokens[i + size : i + size + 1]
        if kind and not _continues(kind, after, now, token):
            denied = tokens[i - 1].key in _DENIALS or any(t.key == "no" for t in after)
            return ("other" if denied and kind == "with" else kind), size
    if token.tag == "VBZ" and token.text == "'s":
        return "clause", 1
    if _is_verb(token, done):
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
    return plain and described and not now.of_role("side")


def _is_verb(token: Token, done: list[Chunk]) -> bool:
    """True for a verb that says what the noun before it does, not what kind of noun follows."""
    if token.role != "open" or token.tag[:2] not in ("VB", "MD"):
        return False
    compound = token.tag in ("VB", "VBP") and done[-1].open and not done[-1].open[-1].plural
    if token.dep in _NOMINAL or compound:  # "stop sign"
        return False
    now, earlier = done[-1], any(chunk.head for chunk in done[:-1])
    bare = now.link in (*TOP, "side") and not now.of_role("det", "all", "number")
    return bool(now.open) or (earlier and bare)


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
        and (after.key,) not in _PHRASES
        and after.tag[:2] in ("NN", "JJ")
    )


def _fold(cut: Iterable[Chunk]) -> list[Chunk]:
    """Turn possessives round, and join "left side of the house" and "all of the cats"."""
    done: list[Chunk] = []
    for chunk in cut:
        last = done[-1] if done else None
        if last is None:
            done.append(chunk)
        elif chunk.link == "'s":
            owner = Chunk("owner", chunk.marks, last.words)
            done[-1:] = [owner, Chunk(last.link, last.marks, chunk.words)]
        elif _hollow(last) and (chunk.link == "of" or (chunk.link == "from" and last.sides)):
            done[-1:] = _join(last, chunk, any(c.head for c in done[:-1]))
        else:
            _continue_list(done, chunk)
            done.append(chunk)
    return done


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


_SIDE_OF = {
    "left": "left of",
    "right": "right of",
    "top": "above",
    "bottom": "below",
    "middle": "in",
}


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
