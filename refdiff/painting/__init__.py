"""Painting into what a sentence refers to, with the same weights that find it."""
