"""Masks for whole folders of pictures: what to look for, a journal of what is done, formats."""
