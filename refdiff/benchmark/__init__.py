"""How fast and how large: the figures of `refdiff bench`, all on random weights."""
