"""`refdiff explain`: how a sentence is understood, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Debug, Json, guarded
from .console import plain, print_json

if TYPE_CHECKING:
    from ..expression import Expression, Noun, Part, Word

MARKS = {"root": "=", "read": "~", "where": "-", "anchor": "+", "excluded": "x", "unused": "."}
STYLES = {
    "root": "bold green",
    "read": "cyan",
    "where": "magenta",
    "anchor": "yellow",
    "excluded": "red strike",
    "unused": "dim",
}
MEANINGS = {
    "root": "looked for",
    "read": "read by CLIP",
    "where": "checked on the masks",
    "anchor": "what it stands to",
    "excluded": "not wanted",
    "unused": "not used",
}


def explain(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A sentence, as for segment.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how a sentence is understood; no model and no picture is needed.

    Underlined with = is what is looked for, with ~ what CLIP reads of it, with - the words on
    place, size and relations, which are checked on the masks, with + the things it stands to,
    with x what is not wanted, with . what is not used.
    """
    with guarded(debug):
        from ..expression import parse, told_notes

        expression = parse(text)
        if as_json:
            print_json(expression.to_dict() | {"notes": told_notes(expression)}, 2)
        else:
            _draw(expression, told_notes(expression))


def _draw(expression: Expression, notes: list[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_sentence(expression), soft_wrap=True)
    marks = _underline(expression)
    if len(marks) <= console.width:
        console.print(marks, markup=False, soft_wrap=True)
    shown = dict.fromkeys(role for role, word in _roles(expression) if word.text)
    legend = ", ".join(f"{MARKS[role]} {MEANINGS[role]}" for role in MARKS if role in shown)
    console.print(legend, style="dim", markup=False)
    console.print(_tree(expression))
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _roles(expression: Expression) -> Iterator[tuple[str, Word]]:
    """Every word that has a part, what matters most last."""
    yield from (("unused", word) for word in expression.ignored)
    targets = expression.targets()
    for one in targets:
        yield from _places(one)
    for one in targets:
        yield from (("read", word) for word in one.root.modifiers)
        yield from (("excluded", word) for said in one.excluded for word in said.words()
                    if word != one.root.word)  # fmt: skip
    yield from (("root", one.root.word) for one in targets)


def _places(one: Expression) -> Iterator[tuple[str, Word]]:
    """The words that the masks are checked for; a relation that weighs nothing is CLIP's."""
    for said in (one.part, one.size, one.order):
        yield from [("where", said.word)] if said and said.word else []
    yield from [("where", one.number_word)] if one.number_word else []
    yield from (("where", place.word) for place in one.places)
    for relation in one.relations:
        yield "read" if relation.kind == "other" else "where", relation.word
        kind = "read" if relation.kind == "other" else "anchor"
        yield from ((kind, word) for noun in relation.anchors for word in noun.words())


def _sentence(expression: Expression) -> Any:
    from rich.text import Text

    drawn = Text(_one_each(expression.text))
    for role, word in _roles(expression):
        drawn.stylize(STYLES[role], word.start, word.end)
    return drawn


def _one_each(text: str) -> str:
    """The text, each letter that would steer the terminal as one mark, so that places hold."""
    return "".join(letter if plain(letter) == letter else "\ufffd" for letter in text)


def _underline(expression: Expression) -> str:
    """A line of marks that stands under the sentence, wide letters counted double."""
    from rich.cells import cell_len

    marks = [" "] * len(expression.text)
    for role, word in _roles(expression):
        marks[word.start : word.end] = MARKS[role] * (word.end - word.start)
    text = _one_each(expression.text)
    wide = (mark * cell_len(c) for mark, c in zip(marks, text, strict=True))
    return "".join(wide).rstrip()


def _tree(expression: Expression) -> Any:
    from rich.text import Text
    from rich.tree import Tree

    first, *further = expression.targets()
    tree = Tree(Text(plain(f"looks for {_named(first.root)}")))
    _branches(tree, first)
    for one in further:
        _branches(tree.add(Text(plain(f"and for {_named(one.root)}"))), one)
    for name, said in {
        "other nouns": ", ".join(noun.name for noun in expression.others),
        "not used": ", ".join(word.text for word in expression.ignored),
        "tagged by": expression.parser,
    }.items():
        if said:
            tree.add(Text(plain(f"{name}: {said}")))
    return tree


def _branches(tree: Any, one: Expression) -> None:
    """What is said of one target, a line each."""
    from rich.text import Text

    from ..language.meaning import denied, ordered

    size = one.size
    branches = {
        "described by": ", ".join(word.text for word in one.root.modifiers),
        "how many": "" if one.number == 1 else "all of them" if one.number is None else one.number,
        "part": _region(one.part),
        "place": ", ".join(place.side for place in one.places),
        "size": f"{size.kind}{', the most so' if size.superlative else ''}" if size else "",
        "order": ordered(one.order) if one.order else "",
        **{f"relation {i}": said for i, said in enumerate(_relations(one), 1)},
        "not wanted": "; ".join(denied(said) for said in one.excluded),
    }
    for name, said in branches.items():
        if said:
            tree.add(Text(plain(f"{name}: {said}")))


def _region(part: Part | None) -> str:
    return f"{' '.join(part.sides)}, {part.share:.0%} of the thing" if part else ""


def _named(noun: Noun) -> str:
    phrase = "" if noun.phrase == noun.word.text else f' (CLIP reads "{noun.phrase}")'
    return f"{noun.name}{phrase}"


def _relations(expression: Expression) -> Iterator[str]:
    for relation in expression.relations:
        kind = relation.word.text if relation.kind == "other" else relation.kind
        names = " and ".join(_anchor(noun) for noun in relation.anchors)
        weight = " (read by CLIP alone)" if relation.kind == "other" else ""
        yield f"{kind} {names}".strip() + weight


def _anchor(noun: Noun) -> str:
    """An anchor with what is said of it."""
    own = [place.side for place in noun.places] + ([noun.size.kind] if noun.size else [])
    own += [f"{said.kind} {' and '.join(map(_anchor, said.anchors))}" for said in noun.relations]
    return f"{noun.phrase} ({', '.join(own)})" if own else noun.phrase
