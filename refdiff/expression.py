"""Text to `Expression`: which word of a sentence to look for, and which one of those is meant."""

from __future__ import annotations

import re
from dataclasses import replace

from .errors import WordError
from .language.grammar import SPOKEN
from .language.meaning import Expression, Noun, Order, Place, Relation, Size, Word
from .language.parser import tokenise
from .language.reading import read

__all__ = [
    "Expression",
    "Noun",
    "Order",
    "Place",
    "Relation",
    "Size",
    "Word",
    "parse",
    "with_root",
]


def parse(text: str) -> Expression:
    """Understand `text`; ValueError when it is empty or several words name no thing.

    Raises RefDiffError when no English spaCy model is installed.
    """
    if not SPOKEN.search(text):
        raise ValueError(f'the text is {text!r}; write what to look for, such as "the red cat"')
    return read(text, tokenise(text))


def with_root(expression: Expression, word: str) -> Expression:
    """The same expression looking for `word` (a word or phrase of its text) instead of the root.

    Case does not matter, whole words do; WordError when the text has no such word. The old root
    becomes one of the other nouns, and relations to the new root are dropped. One of several
    targets ("dog" in "the cat and the dog") keeps what is said of it.
    """
    pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
    found = re.search(pattern, expression.text, re.IGNORECASE) if word.strip() else None
    if found is None:
        raise WordError(f"{expression.text!r} has no word {word!r}; name a word that stands in it")
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
