"""Which mask is meant: the heat's score, CLIP's, place, size, order and relations."""
