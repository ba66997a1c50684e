"""Text to expressions, and the node that shows how it was understood."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from comfy_api.latest import io

from ..refdiff.errors import WordError
from ..refdiff.expression import Expression, Word, about, parse, told_notes, with_root
from .pictures import shown
from .types import CATEGORY, EXPRESSION, found_by, output

ALL = "*"
AS_SAID = "as said"
"""Of `instances`: as many things as the sentence says, a mask for each of them."""


def understood(text: str | Expression, focus: str = "") -> tuple[Expression, list[str]]:
    """The expression, and notes on how it was come by.

    focus: look for these words of the text instead of the root. ValueError for a text without
    words, WordError when the text does not contain the focus.
    """
    if isinstance(text, Expression):
        return (with_root(text, focus) if focus.strip() else text), []
    if focus.strip() and focus.strip().lower() == text.strip().lower():
        return about(text, found_word(text, focus)), []
    expression = parse(text)
    if focus.strip():
        return with_root(expression, focus), []
    return expression, told_notes(expression)


def with_notes(words: str, notes: Sequence[str]) -> str:
    """Words and the notes on them, in one line."""
    return " ".join([words, *(f"Note: {note}." for note in notes)])


def counted(expression: Expression, instances: str) -> Expression:
    """The expression made to mean one, all or each of the things, whatever its own number."""
    if instances in ("auto", AS_SAID) or (instances == "separate" and expression.number != 1):
        return expression
    number = 1 if instances == "one" else None
    further = tuple(replace(one, number=number) for one in expression.further)
    return replace(expression, number=number, further=further)


def asked_words(expression: Expression, words: str) -> list[Word]:
    """The words whose heat is wanted: the root for "", all for "*", else those named.

    words: separated by commas or lines; a tag or a phrase counts as one.
    """
    named = [word.strip() for word in re.split(r"[,\n]", words) if word.strip()]
    if not named:
        return [expression.root.word]
    if named == [ALL]:
        spoken = re.finditer(r"[^\s,;()\[\]]*\w[^\s,;()\[\]]*", expression.text)
        return [Word(one.group(), *one.span()) for one in spoken]
    return [found_word(expression.text, word) for word in named]


def found_word(text: str, word: str) -> Word:
    """Where a word or phrase stands in the text, whatever its case; WordError when it does not."""
    found = re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE)
    if found is None:
        raise WordError(f"{text!r} has no word {word!r}; name a word that stands in it")
    return Word(found.group(), *found.span())


class ParseExpression(io.ComfyNode):
    """Text in, expression out, with the reading written on the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffParseExpression",
            display_name="Parse Expression",
            category=CATEGORY,
            description="Shows how a sentence is understood: the word looked for and what is said "
            "of it. Wire the result into any text of the other Ref-Diff nodes.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="the red cat on the left",
                    tooltip="One sentence, such as: the red cat on the left.",
                ),
                io.String.Input(
                    "focus",
                    default="",
                    tooltip="Look for this word of the text instead of the one found: a noun, a "
                    "tag, a LoRA trigger or embedding:name. Empty: the root word.",
                ),
            ],
            outputs=[
                output(EXPRESSION, "expression", "For the text input of the other nodes."),
                output(io.String, "summary", "The reading in one line."),
            ],
            hidden=[io.Hidden.unique_id],
            **found_by("parse sentence", "noun", "grammar"),
        )

    @classmethod
    def execute(cls, text: str, focus: str) -> io.NodeOutput:
        expression, notes = understood(text, focus)
        summary = with_notes(expression.summary(), notes)
        return io.NodeOutput(expression, summary, ui=shown(cls, words=summary))
