"""refdiff as a ComfyUI node pack: clone this folder into `ComfyUI/custom_nodes`.

The library is the package `refdiff` inside; it needs nothing of ComfyUI, and outside ComfyUI
this file loads nothing.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("comfy_api") is not None:
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./nodes/web"

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
