"""The words of the nodes as ComfyUI's locale files hold them.

The English file is what the schemas say. To write it again after a schema has changed:
`python -m tests.comfy.locales`, in the root of the checkout.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parents[2] / "locales"
Words = dict[str, Any]


def written(language: str) -> Words:
    """What a language's file says of each node."""
    return json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))


def english(pack: ModuleType) -> Words:
    """What the schemas of the pack's nodes say."""
    infos = [node.GET_NODE_INFO_V1() for node in pack.nodes.NODES]
    return {info["name"]: _words(info) for info in infos}


def _words(info: dict[str, Any]) -> Words:
    shown = [info["input"].get(kind, {}) for kind in ("required", "optional")]
    inputs = {
        name: {"name": name, "tooltip": options["tooltip"]}
        for kind in shown
        for name, (_, options) in kind.items()
    }
    outputs = {
        str(index): {"name": name, "tooltip": tooltip}
        for index, (name, tooltip) in enumerate(
            zip(info["output_name"], info["output_tooltips"], strict=True)
        )
    }
    words = {"display_name": info["display_name"], "description": info["description"]}
    return words | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


if __name__ == "__main__":
    from .pack import load_pack
    from .server import comfy_tree

    text = json.dumps(english(load_pack(comfy_tree())), indent=2, ensure_ascii=False)
    (FOLDER / "en" / "nodeDefs.json").write_text(text + "\n", encoding="utf-8")
