"""The commands of `refdiff`, a file for each."""
