"""`refdiff explain`: how a sentence is understood, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Debug, Json, guarded, print_json

if TYPE_CHECKING:
    from ..expression import Expression, Noun, Word

MARKS = {"root": "=", "said": "~", "where": "-", "unused": "."}
STYLES = {"root": "bold green", "said": "cyan", "where": "magenta", "unused": "dim"}


def explain(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A sentence, as for segment.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how a sentence is understood; no model and no picture is needed.

    Underlined with = is what is looked for, with ~ what describes it, with - the words on place,
    size and relations, which are checked on the masks, with . what is not used.
    """
    with guarded(debug):
        from ..expression import parse

        expression = parse(text)
        print_json(expression.to_dict(), 2) if as_json else _draw(expression)


def _draw(expression: Expression) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_sentence(expression), soft_wrap=True)
    marks = _underline(expression)
    if len(marks) <= console.width:
        console.print(marks, markup=False, soft_wrap=True)
    console.print(_tree(expression))


def _roles(expression: Expression) -> Iterator[tuple[str, Word]]:
    """Every word that has a part, what matters most last."""
    yield from (("unused", word) for word in expression.ignored)
    yield from (("where", relation.word) for relation in expression.relations)
    yield from (("where", place.word) for place in expression.places)
    if expression.size:
        yield "where", expression.size.word
    for noun in (expression.root, *expression.also):
        yield from (("said", word) for word in noun.modifiers)
    for noun in (expression.root, *expression.also):
        yield "root", noun.word


def _sentence(expression: Expression) -> Any:
    from rich.text import Text

    drawn = Text(expression.text)
    for role, word in _roles(expression):
        drawn.stylize(STYLES[role], word.start, word.end)
    return drawn


def _underline(expression: Expression) -> str:
    """A line of marks that stands under the sentence, wide letters counted double."""
    from rich.cells import cell_len

    marks = [" "] * len(expression.text)
    for role, word in _roles(expression):
        marks[word.start : word.end] = MARKS[role] * (word.end - word.start)
    wide = (mark * cell_len(c) for mark, c in zip(marks, expression.text, strict=True))
    return "".join(wide).rstrip()


def _tree(expression: Expression) -> Any:
    from rich.text import Text
    from rich.tree import Tree

    number = "all of them" if expression.number is None else expression.number
    tree = Tree(Text(f"looks for {_named(expression.root)}"))
    order, size = expression.order, expression.size
    branches = {
        "described by": ", ".join(word.text for word in expression.root.modifiers),
        "and for": ", ".join(map(_named, expression.also)),
        "how many": "" if number == 1 else str(number),
        "place": ", ".join(place.side for place in expression.places),
        "size": f"{size.kind}{', the most so' if size.superlative else ''}" if size else "",
        "order": f"{'last' if order.rank < 0 else order.rank} from {order.side}" if order else "",
        **{f"relation {i}": said for i, said in enumerate(_relations(expression), 1)},
        "other nouns": ", ".join(map(_named, expression.others)),
        "not used": ", ".join(word.text for word in expression.ignored),
    }
    for name, said in branches.items():
        if said:
            tree.add(Text(f"{name}: {said}"))
    return tree


def _named(noun: Noun) -> str:
    phrase = "" if noun.phrase == noun.word.text else f' (CLIP reads "{noun.phrase}")'
    return f"{noun.word.text}{phrase}"


def _relations(expression: Expression) -> Iterator[str]:
    for relation in expression.relations:
        kind = relation.word.text if relation.kind == "other" else relation.kind
        yield f"{kind} {' and '.join(noun.word.text for noun in relation.anchors)}".strip()
