"""One word of a text, and what the tables say it means.

Nothing here knows spaCy: any tagger that gives Penn tags will do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

from . import words as table

ROLES = {
    word: (role, value)
    for role, values in table.TABLES.items()
    for value, said in values.items()
    for word in said.split()
}
PHRASES = {
    tuple(link.split()): kind for kind, links in table.LINKS.items() for link in links.split(", ")
}
PHRASES[(",",)] = ","
LONGEST = max(map(len, PHRASES))
LEADING = frozenset(f"{table.COMMANDS} {table.LEAD}".split())
_LEAD = frozenset(table.LEAD.split())
PRONOUNS = ("one", "ones", "everything", "everyone", "everybody")
SPOKEN = re.compile("[^\\W_]|[^\u0000-\u25ff]")  # a letter, a digit or a pictogram
_CONTENT = ("NN", "VB", "JJ", "RB", "CD", "FW")
TOP = ("start", ",", "and", "", "clause")  # links whose chunk may be what the text is about


@dataclass(frozen=True)
class Token:
    """One word in lower case, at characters [start, end); hyphenated words are one token.

    told: the role and value that its neighbours give it, in the place of the table's: "right" in
    "right behind" is told ("intensity", ""). parts: the words that it was made of.
    """

    text: str
    start: int
    end: int
    lemma: str
    tag: str  # Penn treebank
    told: tuple[str, str] | None = None

    def meaning(self, role: str, value: str = "", tag: str = "") -> Token:
        """The same word in another role."""
        return replace(self, told=(role, value), tag=tag or self.tag)

    @cached_property
    def key(self) -> str:
        """The text without hyphens: "tshirt"."""
        return re.sub(r"(?<=\w)-(?=\w)", "", self.text)

    @cached_property
    def role(self) -> str:
        """The table the word stands in, else "number", "order", "mark" or "open" (a noun)."""
        if self.told:
            return self.told[0]
        if self.tag == "SYM":
            return "mark"
        if self.key in ROLES:
            return ROLES[self.key][0]
        if self.key.isdigit():
            return "number"
        if self.key[:1].isdigit() and re.fullmatch(r"\d+(st|nd|rd|th)", self.key):
            return "order"
        if (self.key,) in PHRASES:
            return "mark"
        if self.tag == "RB" and self.key.endswith("ly"):
            return "aside"
        return "open" if SPOKEN.search(self.text) else "mark"

    @cached_property
    def value(self) -> str:
        """What the table says the word means: "left" for "leftmost", "2" for "second"."""
        if self.told:
            return self.told[1]
        return ROLES[self.key][1] if self.key in ROLES else re.sub(r"\D", "", self.key)

    @property
    def adjective(self) -> bool:
        return self.tag[:2] in ("JJ", "RB") or self.tag in ("VBN", "VBG")

    @property
    def noun(self) -> bool:
        return self.tag[:2] in ("NN", "FW")

    @cached_property
    def action(self) -> bool:
        """True for "swimming" and "run", which a tagger may call nouns; not for "building"."""
        doing = re.fullmatch(r"\w*[aeiouy]\w*ing", self.key) and self.key not in table.THINGS
        return bool(doing) or self.key.removesuffix("s") in table.ACTIONS

    @cached_property
    def plural(self) -> bool:
        """True for "cats" and "people", not for "bus", nor for one pair of "jeans"."""
        if self.key in ("people", "children", "men", "women"):
            return True
        if self.key in table.PAIRS or self.tag not in ("NNS", "NNPS", "VBZ", "CD"):
            return False
        if self.key.endswith("s"):
            return bool(re.search(r"\w\w[^\Wsui]s$", self.key))
        return self.tag == "NNS" and self.lemma != self.text

    @property
    def content(self) -> bool:
        """True for a word that means something by itself, so that losing it must be told."""
        empty = self.role == "null" and not self.value and self.key != "half"
        function = self.role in ("det", "intensity", "mark") or self.key in _LEAD
        return not function and not empty and self.tag[:2] in _CONTENT


def spanning(tokens: list[Token], role: str = "", value: str = "", tag: str = "") -> Token:
    """Several neighbours as one word: "second to last", "long sleeved"."""
    text = " ".join(token.text for token in tokens)
    told = (role, value) if role else None
    return Token(text, tokens[0].start, tokens[-1].end, text, tag or tokens[-1].tag, told)
