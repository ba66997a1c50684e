"""English to meaning: what a sentence refers to, from spaCy's parse.

`parser` tags the words, `grammar` knows the closed word classes, `chunks`, `folding` and
`targets` find the noun phrases and which of them is meant, `reading` puts the `meaning` together;
`plain` does without a parser. `refdiff.expression` is the door.
"""
