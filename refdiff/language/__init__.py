"""English to meaning: what a sentence refers to.

`words` is the table of words that mean something; `cleaning` takes the notation of prompts off,
`parser` tags the words, with spaCy or with the rules of `tagger`; `requests`, `idioms` and
`exclusion` take off or join what belongs together; `chunks`, `folding` and `targets` find the noun
phrases and which of them is meant; `nouns` and `reading` put the `meaning` together.
`refdiff.expression` is the door.
"""
