"""What made a figure: settings and their hash, versions, commit, hardware, memory."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch diffusers transformers open_clip_torch spacy numpy pillow pycocotools scipy".split()
)


def digest(plain: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that differ when any value differs; keys may come in any order."""
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Of refdiff, Python and the libraries that have a say in the figures."""
    from .. import __version__

    found = {"refdiff": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit(folder: Path | None = None) -> str | None:
    """The commit of the checkout that refdiff runs from, or was installed from; None otherwise."""
    folder = folder or Path(__file__).resolve().parents[2]
    with suppress(OSError, ValueError):
        return _of_checkout(folder)
    with suppress(Exception):
        told = metadata.distribution("refdiff").read_text("direct_url.json") or "{}"
        return json.loads(told).get("vcs_info", {}).get("commit_id")
    return None


def _of_checkout(folder: Path) -> str:
    """Read from the files of git, which need not be installed."""
    git = folder / ".git"
    if git.is_file():  # a work tree points at its own folder in the repository
        git = (folder / git.read_text().removeprefix("gitdir:").strip()).resolve()
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head
    name = head.removeprefix("ref:").strip()
    common = git
    if (git / "commondir").is_file():
        common = (git / (git / "commondir").read_text().strip()).resolve()
    for place in (git / name, common / name):
        if place.is_file():
            return place.read_text().strip()
    for line in (common / "packed-refs").read_text().splitlines():
        if line.endswith(f" {name}"):
            return line.split()[0]
    raise ValueError(f"{name} has no commit")


def hardware(device: Any = "cpu") -> dict[str, Any]:
    """The machine in words: its processor, threads, and the accelerator that is used."""
    import os

    import torch

    found: dict[str, Any] = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if torch.device(device).type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class PeakMemory:
    """Most memory in use since it was made, in MiB: the accelerator's, else the process's.

    The process's is known on Linux alone; None elsewhere.
    """

    def __init__(self, device: Any = "cpu") -> None:
        import torch

        self._device = torch.device(device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def mib(self) -> float | None:
        """The peak so far."""
        import torch

        if self._device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1)
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return round(int(line.split()[1]) / 1024, 1)
        return None
