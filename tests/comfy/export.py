"""Writes what follows from `workflows/NAME.json`: its API format and its thumbnail.

A graph is edited in ComfyUI and saved there; then, from the root of the repository:

    python -m tests.comfy.export [NAME ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .browser import FrontEnd, launch
from .client import Client, Refused
from .server import ROOT, comfy_tree, start

FOLDER = ROOT / "workflows"
WIDTH = 1200  # of a thumbnail, in pixels


def main(names: Sequence[str]) -> None:
    """Export the graphs whose names begin with one of these; all for none."""
    chosen = [p for p in sorted(FOLDER.glob("*.json")) if p.stem.startswith(tuple(names) or "")]
    with TemporaryDirectory() as base:
        server = start(comfy_tree(), Path(base) / "comfyui")
        client = Client(server.url)
        try:
            with launch() as browser:
                front_end = FrontEnd(browser.new_context(locale="en-US").new_page(), server.url)
                for path in chosen:
                    client.free()  # a result from the cache shows no pictures on its node
                    print(path.stem, flush=True)
                    export(front_end, path.stem)
        finally:
            client.close()
            server.stop()


def export(front_end: FrontEnd, name: str) -> None:
    """Open a graph as a user does, write down what the front end sends, run it, take a picture.

    A graph that needs files which are not here is pictured before its run.
    """
    front_end.open_template(name)
    graph = json.dumps(front_end.prompt(), indent=1, ensure_ascii=False)
    (FOLDER / "api" / f"{name}.json").write_text(graph + "\n")
    with suppress(Refused):
        front_end.run(seconds=600).checked()
    front_end.page.keyboard.press("Escape")
    front_end.screenshot(FOLDER / f"{name}.jpg", WIDTH)


if __name__ == "__main__":
    main(sys.argv[1:])
