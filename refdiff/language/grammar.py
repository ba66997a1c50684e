"""How people write what they point at: the tables of words that mean something to refdiff.

Nothing here knows spaCy: any tagger that gives Penn tags will do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
    "aside": {
        "": "not n't never neither nor other others another only same single own up down together "
        "away"
    },
    "quality": {
        "": "masterpiece quality best ultra highly highres absurdres detailed intricate realistic "
        "photorealistic hyperrealistic highquality highlydetailed ultradetailed uhd hd hdr "
        "4k 8k 16k"
    },
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
    ",": "(, ), -, --, ;, :, ., !, ?, /, |, but",
}
PHRASES = {tuple(link.split()): k for k, links in _LINKS.items() for link in links.split(", ")}
PHRASES[(",",)] = ","
LONGEST = max(map(len, PHRASES))

_COMMANDS = (
    "find select segment locate detect identify highlight choose show extract remove isolate "
    "replace erase delete get give see want need look looking searching search pick focus click"
)
_LEAD = (
    "please can could would will you i we me us 'd 'm 'll 's let like there here is are was were "
    "it what where which who whose how hey ok okay hi hello now do does try help ' : , - out"
)
LEADING = frozenset(f"{_COMMANDS} {_LEAD}".split())
LEAD_PAIRS = frozenset(
    "look at,look for,looking for,looking at,search for,searching for,point to,point at,click on,"
    "focus on,want to,need to,like to,pick out,cut out,this is,that is,this 's,that 's,these are,"
    "those are,get rid".split(",")
)
AFTER_NOUN = "empty full open closed shut asleep awake alone visible upright broken lit".split()
DENIALS = ("not", "n't", "never", "neither")
PRONOUNS = ("one", "ones", "everything", "everyone", "everybody")
_PAIRS = "glasses sunglasses jeans pants shorts trousers scissors tongs binoculars".split()
SPOKEN = re.compile("[^\\W_]|[^\u0000-\u25ff]")  # a letter, a digit or a pictogram
_CONTENT = ("NN", "VB", "JJ", "RB", "CD", "FW")
NOMINAL = ("amod", "compound", "nsubj", "nsubjpass", "pobj", "dobj", "nmod", "poss", "attr")
# Words in "-ing" that are things, and verbs that are things in a dictionary only.
_THINGS = frozenset(
    "building painting drawing carving etching engraving ceiling clothing railing crossing parking "
    "earring wedding wrapping topping filling icing frosting dressing pudding dumpling stuffing "
    "herring duckling starling sapling sibling being viking lightning lighting wiring bedding "
    "awning flooring roofing siding fencing tiling scaffolding seating marking covering lining "
    "meeting morning evening".split()
)
_ACTIONS = frozenset("run jump swim sleep eat sit crawl".split())
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
        """The text without hyphens and without the weight of a prompt: "hat" for "hat:1.2"."""
        return re.sub(r"(?<=\w)-(?=\w)|(?<=\w):[\d.]+$", "", self.text)

    @property
    def role(self) -> str:
        """The table the word stands in, else "number", "order", "mark" or "open" (a noun)."""
        if self.key in _ROLES:
            return _ROLES[self.key][0]
        if re.fullmatch(r"\d+", self.key):
            return "number"
        if re.fullmatch(r"\d+(st|nd|rd|th)", self.key):
            return "order"
        if (self.key,) in PHRASES:
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
        return self.tag[:2] in ("JJ", "RB") and self.dep not in ("ROOT", *NOMINAL[2:])

    @property
    def action(self) -> bool:
        """True for "swimming" and "run", which a tagger may call nouns; not for "building"."""
        doing = re.fullmatch(r"\w*[aeiouy]\w*ing", self.key) and self.key not in _THINGS
        return bool(doing) or self.key.removesuffix("s") in _ACTIONS

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
