"""ComfyUI, a client and a browser for the tests of the node pack. None of them is ever skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from . import server as comfy_server
from .browser import FrontEnd, launch
from .client import Client
from .pack import load_pack
from .server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def comfy_tree() -> Path:
    """The folder with ComfyUI's `main.py`."""
    return comfy_server.comfy_tree()


@pytest.fixture(scope="session")
def pack(comfy_tree: Path) -> ModuleType:
    """This pack in the tests' own process, beside a real ComfyUI that computes on the CPU."""
    return load_pack(comfy_tree)


@pytest.fixture(scope="session")
def server(comfy_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI with only this pack, on a free port and in a fresh base folder."""
    running = comfy_server.start(comfy_tree, tmp_path_factory.mktemp("comfyui"))
    try:
        assert not running.complaints(), running.log_tail()
        yield running
        assert not running.complaints()
    finally:
        running.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A user of the server."""
    user = Client(server.url)
    yield user
    user.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless browser for all tests."""
    with launch() as browser:
        yield browser


@pytest.fixture
def front_end(server: Server, chromium: Browser) -> Iterator[FrontEnd]:
    """The server's front end in a fresh tab, with an empty graph."""
    context = chromium.new_context(locale="en-US")
    yield FrontEnd(context.new_page(), server.url)
    context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Below a failure show the end of the server's log, and keep what the browser shows."""
    report = yield
    parts = getattr(item, "funcargs", {})
    if report.failed and "server" in parts:
        report.sections.append(("ComfyUI's log", parts["server"].log_tail()))
    if report.failed and report.when == "call" and "front_end" in parts:
        picture = parts["server"].base / f"{item.name}.png"
        parts["front_end"].page.screenshot(path=picture)
        report.sections.append(("The browser", str(picture)))
    return report
