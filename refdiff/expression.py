"""Text to `Expression`: which word of a sentence to look for, and which one of those is meant."""

from __future__ import annotations

import re
from dataclasses import replace

from .errors import WordError, quoted
from .language.cleaning import clean, notation
from .language.foreign import foreign_note
from .language.grammar import SPOKEN
from .language.meaning import (
    Exclusion,
    Expression,
    Noun,
    Order,
    Part,
    Place,
    Relation,
    Size,
    Word,
    pictured,
)
from .language.parser import parser_name, tagger_model, tokenise
from .language.reading import read
from .language.spelling import clip_words, suggestion

__all__ = [
    "Exclusion",
    "Expression",
    "Noun",
    "Order",
    "Part",
    "Place",
    "Relation",
    "Size",
    "Word",
    "about",
    "parse",
    "pictured",
    "told_notes",
    "with_root",
]


MOST_LETTERS = 1_000
MOST_TARGETS = 16


def parse(text: str, own_rules: bool = False) -> Expression:
    """Understand `text`; ValueError when it is empty or several words name no thing.

    An English spaCy model tags the words where one is installed, else the own rules do; the
    expression says who did. own_rules: the rules alone, so that the reading is the same wherever it
    is made, and light. A text has 1,000 letters and 16 things to look for at most; ValueError
    beyond.
    """
    if not isinstance(text, str):
        raise ValueError(f"the text is a {type(text).__name__}; write what to look for in words")
    if len(text) > MOST_LETTERS:
        raise ValueError(
            f"the text has {len(text):,} letters, beyond {MOST_LETTERS:,}; say it in one sentence"
        )
    if not SPOKEN.search(clean(text)):
        raise ValueError(
            f'the text is {quoted(text)}; write what to look for, such as "the red cat"'
        )
    model = None if own_rules else tagger_model()
    found = read(text, tokenise(text, model))
    if (count := len(found.targets())) > MOST_TARGETS:
        raise ValueError(
            f"the text names {count} things to look for, beyond {MOST_TARGETS}; ask for fewer"
        )
    notes = (*found.notes, *filter(None, [foreign_note(text)]))
    marks = tuple(Word(text[start:end], start, end) for start, end in notation(text))
    ignored = tuple(sorted((*found.ignored, *marks), key=lambda word: word.start))
    return replace(found, ignored=ignored, notes=notes, parser=parser_name(model))


def told_notes(expression: Expression) -> list[str]:
    """The notes of an expression, and suggestions for words that CLIP's vocabulary lacks."""
    nouns = [noun.word.text for noun in (expression.root, *expression.also, *expression.others)]
    spelt = [suggestion(name, clip_words()) for name in nouns]
    return list(dict.fromkeys([*expression.notes, *filter(None, spelt)]))


def about(text: str, word: Word) -> Expression:
    """An expression that looks for one word of the text and says nothing else of it."""
    return Expression(text, Noun(word, word.text.lower(), word.text))


def with_root(expression: Expression, word: str) -> Expression:
    """The same expression looking for `word` (a word or phrase of its text) instead of the root.

    Case does not matter, whole words do; WordError when the text has no such word. The old root
    becomes one of the other nouns, and relations to the new root are dropped. One of several
    targets ("dog" in "the cat and the dog") keeps what is said of it.
    """
    pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
    found = re.search(pattern, expression.text, re.IGNORECASE) if word.strip() else None
    if found is None:
        raise WordError(
            f"{quoted(expression.text)} has no word {quoted(word)}; name a word that stands in it"
        )
    exact = Word(found.group(), *found.span())
    known = (expression.root, *expression.also, *expression.others)
    targets = {target.root.word: target for target in expression.targets()}
    own = targets.get(exact, expression)
    new = Noun(exact, exact.text.lower(), exact.text)
    root = next((noun for noun in known if noun.word == exact), new)
    return replace(
        own,
        root=root,
        also=(),
        further=(),
        others=tuple(n for n in known if n.word.end <= exact.start or exact.end <= n.word.start),
        number=own.number if root == own.root else None if root.plural else 1,
        relations=tuple(r for r in own.relations if root not in r.anchors),
        ignored=tuple(w for w in expression.ignored if w != exact),
    )
