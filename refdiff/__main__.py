"""`python -m refdiff`: the same as the command `refdiff`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
