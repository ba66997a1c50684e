"""This pack, loaded into the tests' own process as ComfyUI loads it."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
NAME = "refdiff_pack"


def load_pack(tree: Path) -> ModuleType:
    """The pack under a name of its own, with the ComfyUI in `tree`, which computes on the CPU."""
    if NAME not in sys.modules:
        sys.path.insert(0, str(tree))  # first: ComfyUI's `nodes` is not the pack's folder
        from comfy.cli_args import args

        args.cpu = True  # before anything asks which devices there are
        spec = spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[NAME] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return sys.modules[NAME]
