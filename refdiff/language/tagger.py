"""Penn tags for English words by closed classes, endings and neighbours, without any model.

The words that point at things in a picture are few and their endings speak; what stands in no
list is a noun. With spaCy installed its tagger replaces what is only guessed here; see `parser`.
"""

from __future__ import annotations

import re

from .grammar import ROLES
from .words import PEOPLE, THINGS

_CLOSED = {
    "DT": "the a an this that these those no any each every either neither another all both some "
    "such teh",
    "PRP$": "my your his her its our their whose",
    "PRP": "i we me us you he she it they them him myself himself herself itself themselves "
    "someone somebody anyone anything nothing nobody",
    "MD": "can could will would shall should may might must 'd 'll ca wo",
    "IN": "of in on at by from with without near next beside besides behind between under below "
    "above over against around inside outside into onto upon atop through across along alongside "
    "among amongst beneath underneath toward towards than like as if while because for about off "
    "out up down before after during until per via except within beyond opposite",
    "TO": "to",
    "CC": "and or but nor & plus",
    "WDT": "which",
    "WP": "who whom what",
    "WRB": "where when why how",
    "VBZ": "is 's has does",
    "VBP": "are am have do 're 've 'm",
    "VBD": "was were had did",
    "VB": "be get let please",
    "VBN": "been",
    "EX": "there",
    "RB": "not n't never very really quite too so just only also far away here together almost "
    "slightly much more most mostly up down apart aside still already currently rather now today "
    "ahead forward forwards backward backwards sideways upside well back-to-back out",
    "UH": "hey hi hello ok okay yes thanks",
    "CD": "one two three four five six seven eight nine ten eleven twelve dozen hundred",
}
_ADJECTIVES = (
    "young old new dark light bright pale tall short long round flat square full empty open closed "
    "clean dirty wet dry hot cold fresh ripe raw cooked baked fried rotten plain solid shiny fuzzy "
    "furry hairy bald blond blonde brunette adult male female wooden plastic metal leather happy "
    "sad angry sick cute ugly pretty beautiful handsome good bad nice great same other own main "
    "single double whole entire real fake soft hard rough smooth sharp blunt thin heavy deep "
    "shallow high low near fast slow quick rich poor loud quiet strong weak sleepy asleep awake "
    "alone visible upright broken lit shut striped spotted dotted checkered plaid patterned bare "
    "naked nude shirtless topless barefoot chubby plump overweight fluffy curly straight wavy "
    "messy neat blurry blurred clear transparent see-through hidden busy ripped torn stuffed "
    "grilled frozen sliced chopped half-eaten uneaten expensive cheap ancient modern antique "
    "vintage asian african american european chinese japanese indian british french german italian "
    "mexican arab muslim christian jewish black-haired sunny cloudy rainy snowy foggy sandy grassy "
    "muddy rocky dusty rusty spicy salty sweet sour bitter juicy creamy crispy foamy steamy "
    "electric electronic digital mechanical medical foreign"
)
_BASES = (  # verbs seen after a noun: "man sits", "she who holds"
    "sit stand hold wear look ride eat drink play walk run face lean lie lay jump fly swim sleep "
    "hang watch catch throw hit swing climb carry read write talk speak smile laugh cry point push "
    "pull drive cook cut bend kneel crouch squat dance sing wait work use touch kiss hug feed pet "
    "chase follow cross serve bat pitch kick go come say have get take make contain belong seem "
    "appear bark graze rest pose wave turn move lead"
)
_ING_BASES = "lying tying dying being going doing seeing eyeing skiing"
_ED_NOUNS = "bed red sled shed seed weed breed feed bleed ted moped steed hundred naked biped coed"
_PARTICIPLES = (
    "worn held seen shown taken eaten given broken driven written hidden thrown born built bent "
    "cut hung lit sat laid lying made put set shut stood told won drawn fallen frozen grown "
    "known ridden torn wound bitten"
)
_LY_NOUNS = "fly family butterfly jelly belly lily bully dolly trolley holly dragonfly assembly"
_EST_NOUNS = "forest chest vest nest rest guest west test quest crest pest request harvest priest"
_ER_ADJECTIVES = (
    "taller shorter bigger smaller larger wider thinner thicker older younger darker lighter "
    "brighter closer nearer longer higher lower fatter skinnier heavier cleaner fuller happier "
    "newer redder bluer greener whiter blacker paler better worse farther further upper"
)
_S_SINGULAR = re.compile(r"(ss|us|is|ous|news|lens|bus|gas|christmas|canvas|chess|atlas)$")
_ADJECTIVE_ENDS = re.compile(r"\w{3}(ful|ous|less|able|ible|ish|ive|ern|esque)$|\w{3}-\w+ed$")
_ISH_NOUNS = "fish dish radish jellyfish polish starfish goldfish olive archive dive hive table"
_ISH_NOUNS += " vegetable cable motive native detective locomotive adhesive lantern pattern finish"
_ISH_NOUNS += " turnstable stable timetable handful mouthful locomotive fern tavern varnish rubbish"

LEXICON = {word: tag for tag, words in _CLOSED.items() for word in words.split()}
CLOSED = frozenset(LEXICON)
LEXICON |= {word: "JJ" for word in _ADJECTIVES.split()}
LEXICON |= dict.fromkeys(_ER_ADJECTIVES.split(), "JJR")
LEXICON |= dict.fromkeys(_PARTICIPLES.split(), "VBN") | dict.fromkeys(_ING_BASES.split(), "VBG")
LEXICON |= dict.fromkeys(
    f"{_ED_NOUNS} {_LY_NOUNS} {_EST_NOUNS} {_ISH_NOUNS}".split(), "NN"
) | dict.fromkeys(sorted(THINGS), "NN")
_VERBS = frozenset(_BASES.split())
_ROLE_TAGS = {"side": "JJ", "size": "JJ", "depth": "JJ", "order": "JJ", "colour": "JJ",
              "number": "CD", "all": "DT", "null": "NN", "measure": "NN"}  # fmt: skip
IRREGULAR = dict(  # plural:singular
    pair.split(":")
    for pair in (
        "people:people men:man women:woman children:child feet:foot teeth:tooth mice:mouse "
        "geese:goose knives:knife leaves:leaf wolves:wolf shelves:shelf loaves:loaf halves:half "
        "calves:calf scarves:scarf lives:life wives:wife hooves:hoof oxen:ox thieves:thief "
        "elves:elf buses:bus lenses:lens shoes:shoe horses:horse houses:house vases:vase "
        "noses:nose roses:rose movies:movie cookies:cookie ties:tie pies:pie brownies:brownie "
        "selfies:selfie hoodies:hoodie zombies:zombie smoothies:smoothie cacti:cactus dice:die "
        "axes:axe toes:toe hoes:hoe canoes:canoe oboes:oboe cases:case purses:purse "
        "blouses:blouse nurses:nurse bases:base suitcases:suitcase bookcases:bookcase "
        "pulses:pulse sheep:sheep fish:fish deer:deer sunglasses:sunglasses glasses:glass "
        "clothes:clothes masses:mass caches:cache headaches:headache geishas:geisha "
    ).split()
)
LEXICON |= {word: "NNS" for word in IRREGULAR if word not in ("fish", "sheep", "deer")}


def tags(words: list[str]) -> list[str]:
    """A Penn tag for each word, in lower case."""
    found = [_alone(word) for word in words]
    for i, word in enumerate(words):
        before = found[i - 1] if i else ""
        after = words[i + 1] if i + 1 < len(words) else ""
        found[i] = _placed(word, found[i], words[i - 1] if i else "", before, after)
    return found


def _alone(word: str) -> str:
    """The tag of a word by its list or its ending."""
    if word in LEXICON:
        return LEXICON[word]
    if word in ROLES and ROLES[word][0] in _ROLE_TAGS:
        return _graded(word, _ROLE_TAGS[ROLES[word][0]])
    if not any(c.isalnum() for c in word):
        return "," if word in ",;:/|" else "." if word in ".!?" else "SYM"
    if word[0].isdigit():
        return (
            "CD" if word[-1].isdigit() else "JJ" if word[-2:] in ("st", "nd", "rd", "th") else "NN"
        )
    return _ending(word)


def _graded(word: str, tag: str) -> str:
    if tag != "JJ":
        return tag
    return "JJS" if word.endswith("est") else "JJR" if word.endswith("er") else "JJ"


def _ending(word: str) -> str:
    """The tag that a word's ending tells; a noun else."""
    if word.endswith("ing") and re.search(r"[aeiouy]\w*ing$", word):
        return "VBG"
    if word.endswith("ed") and len(word) > 4:
        return "VBN"
    if word.endswith("ly") and len(word) > 4:
        return "RB"
    if re.search(r"\w\w(?<!speci)men$", word):
        return "NNS"
    if word.endswith("est") and len(word) > 5:
        return "JJS"
    if _ADJECTIVE_ENDS.search(word):
        return "JJ"
    return "NNS" if word.endswith("s") and len(word) > 3 and not _S_SINGULAR.search(word) else "NN"


def _placed(word: str, tag: str, last: str, before: str, after: str) -> str:
    """The tag put right by the words around it: "man sits", "the cat's bowl", "left on"."""
    subject = before[:2] == "NN" or last in ("that", "which", "who", "they", "she", "he", "to")
    if word == "'s":
        verb = last in ("there", "it", "that", "what", "where", "who", "here", "he", "she")
        return "VBZ" if verb or before == "WP" else "POS"
    if tag == "NN" and not after and last in ("is", "are", "was", "were", "very", "n't", "looks"):
        return "JJ"
    if word == "can" and before[:2] == "NN" and not after:
        return "NN"
    if word == "'" and before == "NNS":
        return "POS"
    if (
        word == "that"
        and before[:2] in ("NN", "CD")
        and after
        and _alone(after)[:2] in ("VB", "MD")
    ):
        return "WDT"
    if _third(word) in _VERBS and subject and not (before == "NNS" and last not in PEOPLE):
        sequel = (
            _alone(after)[:2] in ("IN", "DT", "RB", "TO", "PR", "NN", "JJ", "VB") if after else True
        )
        return "VBZ" if sequel else tag
    if word in _VERBS and (last in ("to", "who", "that", "they") or before == "MD"):
        return "VB"
    return tag


def _third(word: str) -> str:
    """The verb of a third person: "sit" for "sits"; "" for what has no such ending."""
    if not word.endswith("s"):
        return ""
    bare = word[:-1]
    return bare if bare in _VERBS else word[:-2] if word.endswith("es") else ""


def lemma(word: str, tag: str) -> str:
    """The singular of a plural noun, else the word itself."""
    word = re.sub(r"^\d+(?=[^\W\d])", "", word) if tag in ("NNS", "NNPS") else word
    if word in IRREGULAR:
        return IRREGULAR[word]
    if tag in ("NNS", "NNPS") and word.endswith("men"):
        return f"{word[:-3]}man"
    if tag not in ("NNS", "NNPS") or not word.endswith("s"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if re.search(r"(ss|sh|ch|x|zz|[^aeiou]o|us)es$", word):
        return word[:-2]
    return word[:-1]
