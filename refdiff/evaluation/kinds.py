"""What kind of expression a sentence is, by refdiff's own reading of it.

The package's own rules tag the words, so that kinds are the same on every machine.
"""

from __future__ import annotations

from ..expression import Expression, parse
from ..language.grammar import Token

KINDS = ("plain", "colour", "size", "place", "order", "relation", "plural", "several", "unread")
"""plain: none of the others; several: more than one thing is named; unread: not understood."""


def kinds_of(text: str) -> tuple[str, ...]:
    """Every kind a sentence belongs to; ("unread",) when it cannot be understood."""
    try:
        return kinds_in(parse(text, own_rules=True))
    except ValueError:
        return ("unread",)


def kinds_in(expression: Expression) -> tuple[str, ...]:
    """Every kind an expression belongs to, by what is said of any thing it looks for."""
    targets = expression.targets()
    said = {
        "colour": any(_coloured(one) for one in targets),
        "size": any(one.size for one in targets),
        "place": any(one.places for one in targets),
        "order": any(one.order for one in targets),
        "relation": any(one.relations for one in targets),
        "plural": any(one.number != 1 for one in targets),
        "several": len(targets) > 1,
    }
    return tuple(kind for kind in KINDS if said.get(kind)) or ("plain",)


def _coloured(expression: Expression) -> bool:
    words = expression.root.modifiers
    return any(
        Token(word.text.lower(), word.start, word.end, "", "").role == "colour" for word in words
    )
