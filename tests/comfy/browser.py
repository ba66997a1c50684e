"""Drives the real front end in headless Chromium, as a user does: open, wire, run, look."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .client import Events, Graph, Refused, Run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Only the server answers: the front end's calls home must not decide how a test goes.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
VIEW = {"width": 1600, "height": 900}
FIT = 0.75  # the share of the view which "fit view" gives to the graph
SECONDS = 60
TRIES = 5  # of a gesture that a busy page may overlook
SEARCH = re.compile("Search Nodes|Add a node")  # older and newer front ends' box
NO_BANNER = """["vueNodesBannerDismissed", "comfy.vueNodesMigration.dismissed"]
    .forEach(banner => localStorage.setItem(banner, "true"))"""
NODES = "[app.graph, ...app.graph.subgraphs.values()].flatMap(graph => graph.nodes)"
NOTICE = "[data-testid=error-overlay]"  # since front end 1.40 or so
TEXT = "widget => widget.name === '$$node-text-preview'"
RUN = "button[data-testid=queue-button], [data-testid=queue-button] button"
FIND = """() => { window.find = wanted => {
  const nodes = app.graph.nodes.filter(n => wanted === String(n.id) || wanted === n.title
    || wanted === n.type);
  if (nodes.length !== 1) throw new Error(`${nodes.length} nodes are called ${wanted}; of `
    + app.graph.nodes.map(n => n.title).join(", "));
  return nodes[0];
} }"""


def chromium() -> str:
    """The path of the browser. Raises where there is none."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    raise FileNotFoundError(
        f"No {', '.join(NAMES)} on PATH; install one (Debian: apt-get install chromium)."
    )


@contextmanager
def launch() -> Iterator[Browser]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class FrontEnd:
    """One tab with ComfyUI open in it and an empty graph.

    A node is named by its id, its title or its class, whichever is unique in the graph.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.console: list[str] = []
        self._events = Events()
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("websocket", lambda socket: socket.on("framereceived", self._events.add))
        page.set_default_timeout(1000 * SECONDS)
        page.set_viewport_size(VIEW)
        page.add_init_script(NO_BANNER)
        mask = page.locator(".p-blockui-mask")  # newer front ends' first tab may keep it for ever
        self.until(self._open, lambda: mask.count() == 0)
        page.evaluate(FIND)

    def _open(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_function("window.app?.graph && app.extensionManager?.command")
        self.page.get_by_test_id("queue-button").wait_for()

    def open_template(self, name: str) -> None:
        """Open one of the pack's workflows through Browse Templates."""
        with self._another_graph():
            dialog = self.page.get_by_role("dialog")
            box = dialog.get_by_placeholder("Search")
            self.until(self.page.locator(".templates-tab-button").click, box.is_visible)
            box.fill(name)
            dialog.get_by_test_id(f"template-workflow-{name}").click()

    def load(self, workflow: dict[str, Any]) -> None:
        """Put a workflow (UI format) into the graph."""
        with self._another_graph():
            self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)

    def drop(self, path: Path) -> None:
        """Drop a file onto the canvas: a workflow, or a picture which carries one."""
        script = """([bytes, name, type]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, {type}));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data}));
        }"""
        kind = "application/json" if path.suffix == ".json" else f"image/{path.suffix[1:]}"
        with self._another_graph():
            self.page.evaluate(script, [list(path.read_bytes()), path.name, kind])

    @contextmanager
    def _another_graph(self) -> Iterator[None]:
        """Wait until another graph has taken the place of this one."""
        self.page.evaluate("() => app.graph.nodes.forEach(node => { node.before = true })")
        yield
        self.page.wait_for_function(
            "app.graph.nodes.length && !app.graph.nodes.some(node => node.before)"
        )
        self.page.wait_for_timeout(300)

    def nodes(self) -> list[dict[str, str]]:
        """id, type and title of every node, those inside subgraphs too."""
        return self.page.evaluate(
            f"() => {NODES}.map(n => ({{id: String(n.id), type: n.type, title: n.title}}))"
        )

    def missing(self) -> list[str]:
        """Classes of nodes in the graph which the server does not have."""
        return self.page.evaluate(
            f"() => {NODES}.map(n => n.type).filter(t => !(t in LiteGraph.registered_node_types))"
        )

    def prompt(self) -> Graph:
        """The graph in API format, as the front end would send it."""
        sent = "async () => JSON.stringify((await app.graphToPrompt()).output)"
        return json.loads(self.page.evaluate(sent))

    def widget(self, node: str, name: str) -> Any:
        """The value of a widget."""
        return self.page.evaluate(
            "([node, name]) => find(node).widgets.find(w => w.name === name).value", [node, name]
        )

    def set_widget(self, node: str, name: str, value: Any) -> None:
        """Set a widget as typing into it does."""
        script = """([node, name, value]) => {
            const widget = find(node).widgets.find(w => w.name === name);
            widget.value = value;
            widget.callback?.(value, app.canvas, find(node));
        }"""
        self.page.evaluate(script, [node, name, value])

    def connect(self, source: str, output: str, target: str, input: str) -> None:
        """Draw a wire from an output to an input with the mouse."""
        script = """([node, slot, isInput]) => {
            const place = find(node);
            const slots = isInput ? place.inputs : place.outputs;
            const index = slots.findIndex(s => s.name === slot);
            if (index < 0) throw new Error(`${place.title} has no ${slot}`);
            return app.canvasPosToClientPos(place.getConnectionPos(isInput, index));
        }"""
        own = self.page.evaluate("n => String(find(n).id)", source)

        def draw() -> None:
            self.fit()
            start = self.page.evaluate(script, [source, output, False])
            end = self.page.evaluate(script, [target, input, True])
            self.page.mouse.move(*start)
            self.page.mouse.down()
            self.page.mouse.move(*end, steps=8)
            self.page.mouse.up()

        self.until(draw, lambda: self.wired_to(target, input) == own)

    def add_by_search(self, words: str, name: str) -> None:
        """Add a node as a user does on an empty canvas: double click, a few words, its name."""
        mouse, place = self.page.mouse, (900, 500)
        box = self.page.get_by_placeholder(SEARCH)
        self.until(lambda: mouse.dblclick(*place), box.is_visible)
        box.fill(words)
        self.page.get_by_role("option", name=name).click()
        self.page.wait_for_function("app.graph.nodes.length === 1")
        box.wait_for(state="hidden")
        ghost = "app.graph.nodes[0].flags.ghost"  # on newer front ends it follows the mouse
        self.until(lambda: mouse.click(*place), lambda: not self.page.evaluate(ghost))

    def until(self, gesture: Callable[[], None], seen: Callable[[], bool]) -> None:
        """Make a gesture, and make it again while the page, still drawing, overlooks it."""
        for _ in range(TRIES):
            gesture()
            deadline = time.monotonic() + SECONDS / TRIES / 2
            while time.monotonic() < deadline:
                if seen():
                    return
                self.page.wait_for_timeout(50)
        raise TimeoutError(f"the page overlooked a gesture {TRIES} times")

    def wired_to(self, node: str, input: str) -> str | None:
        """The id of the node an input gets its value from."""
        script = """([node, name]) => {
            const place = find(node);
            const origin = place.getInputNode(place.inputs.findIndex(s => s.name === name));
            return origin ? String(origin.id) : null;
        }"""
        return self.page.evaluate(script, [node, input])

    def run(self, seconds: float = 300) -> Run:
        """Press Run and wait for the end, good or bad. Raises Refused."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/prompt")) as answer:
            self.page.locator(RUN).first.click()
        if answer.value.status != 200:
            raise Refused(answer.value.json())
        prompt_id = answer.value.json()["prompt_id"]
        deadline = time.monotonic() + seconds
        while not self._events.ended(prompt_id):
            if time.monotonic() > deadline:
                raise TimeoutError("the prompt did not end in time")
            self.page.wait_for_timeout(50)
        record = self.page.request.get(f"{self.url}/history/{prompt_id}").json()
        return self._events.run(prompt_id, record[prompt_id])

    def previews(self, node: str) -> list[tuple[int, int]]:
        """(width, height) of the pictures a node shows, once they have loaded."""
        self.fit()  # a node out of view isn't drawn, and its pictures don't load
        loaded = """node => {
            app.canvas.setDirty(true, true)  // pictures are loaded when their node is drawn
            return find(node).imgs?.length && find(node).imgs.every(i => i.complete)
        }"""
        self.page.wait_for_function(loaded, arg=node)
        script = "node => find(node).imgs.map(i => [i.naturalWidth, i.naturalHeight])"
        return [(width, height) for width, height in self.page.evaluate(script, node)]

    def shown_text(self, node: str) -> str:
        """The text a node shows on itself."""
        self.page.wait_for_function(f"node => find(node).widgets?.some({TEXT})", arg=node)
        return self.page.evaluate(f"node => find(node).widgets.find({TEXT}).value", node)

    def dialog(self) -> str:
        """The words of the dialog that is open or about to open, or of newer front ends' notice.

        Of a node that failed the notice says only that; the panel it opens says the rest.
        """
        dialog = self.page.locator(f".p-dialog, {NOTICE}").first
        dialog.wait_for()
        words, details = dialog.inner_text(), dialog.get_by_role("button", name="View details")
        if not details.count():
            return words
        details.click()
        self.page.wait_for_timeout(500)
        return words + self.page.locator("body").inner_text()

    def shown_errors(self) -> list[str]:
        """What the page says is wrong: dialogs, notices, nodes framed in red."""
        words = self.page.locator(f".p-dialog, .p-toast-message, {NOTICE}").all_inner_texts()
        red = self.page.evaluate(
            """() => app.graph.nodes.filter(n => n.has_errors)
                .map(n => (n.title ?? n.type) + ' is red')"""
        )
        return [*words, *red]

    def overlaps(self) -> list[str]:
        """Nodes that lie on each other as the front end draws them now, Reroutes left out."""
        script = """() => {
            const title = LiteGraph.NODE_TITLE_HEIGHT;
            const boxes = app.graph.nodes.filter(n => n.type !== "Reroute").map(n => {
                const drawn = document.querySelector(`[data-node-id="${n.id}"]`);
                const high = drawn ? drawn.getBoundingClientRect().height / app.canvas.ds.scale : 0;
                const [x, y] = n.pos;
                const bottom = Math.max(y + n.size[1], y - title + high);
                return [n.title || n.type, x, y - title, x + n.size[0], bottom];
            });
            return boxes.flatMap((a, i) => boxes.slice(i + 1)
                .filter(b => a[1] < b[3] && b[1] < a[3] && a[2] < b[4] && b[2] < a[4])
                .map(b => a[0] + " on " + b[0]));
        }"""
        return self.page.evaluate(script)

    def command(self, name: str) -> None:
        """Run a command of the front end."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def set(self, setting: str, value: Any) -> None:
        """Change one of the user's settings."""
        script = "([name, value]) => app.extensionManager.setting.set(name, value)"
        self.page.evaluate(script, [setting, value])
        self.page.wait_for_timeout(300)

    def heat_shown(self) -> str | None:
        """The word whose heat is shown beside the mouse."""
        script = """() => {
            const panel = document.querySelector("#refdiff-heat");
            const picture = panel?.querySelector("img");
            const shown = panel && panel.style.display !== "none" && picture.naturalWidth > 0;
            return shown ? panel.innerText.trim() : null;
        }"""
        return self.page.evaluate(script)

    def point_at_words(self, kind: str) -> set[str]:
        """Move the mouse over the first line of the first element of a kind; the words shown.

        At the end the mouse rests on the empty canvas.
        """
        box = self.page.locator(kind).first.bounding_box()
        assert box is not None
        shown: set[str] = set()
        for top in (8, 14, 20):
            for left in range(4, int(min(box["width"], 220)), 6):
                self.page.mouse.move(box["x"] + left, box["y"] + top)
                self.page.wait_for_timeout(40)
                word = self.heat_shown()
                shown |= {word} if word else set()
        self.page.mouse.move(700, 860)
        self.page.wait_for_timeout(100)
        return shown

    def fit(self) -> None:
        """Bring the whole graph into view, and wait until it stands still."""
        self.page.evaluate("() => app.canvas.deselectAll()")
        self.command("Comfy.Canvas.FitView")
        script = """() => {
            const place = [app.canvas.ds.scale, ...app.canvas.ds.offset].join();
            const still = place === window.place;
            window.place = place;
            return still;
        }"""
        self.page.wait_for_timeout(100)
        self.page.wait_for_function(script, polling=200)

    def screenshot(self, path: Path, width: int = 1500, quality: int = 80) -> None:
        """The whole graph and nothing else as a JPG, `width` pixels wide or a little less."""
        self.page.wait_for_function(f"{NODES}.every(n => (n.imgs ?? []).every(i => i.complete))")
        self.command("Workspace.ToggleFocusMode")
        _, _, wide, high = self._bounds()
        view = width / FIT
        self.page.set_viewport_size({"width": round(view), "height": round(view * high / wide)})
        self.page.wait_for_timeout(200)
        self.fit()
        clip = dict(zip(("x", "y", "width", "height"), self._bounds(), strict=True))
        self.page.screenshot(path=path, type="jpeg", quality=quality, clip=clip)
        self.page.set_viewport_size(VIEW)
        self.command("Workspace.ToggleFocusMode")

    def _bounds(self) -> list[float]:
        """left, top, width, height of the graph on the page, with a margin."""
        script = """() => {
            const boxes = [...app.graph.nodes, ...app.graph.groups].map(i => i.boundingRect);
            const corner = (pick, x, y) => app.canvasPosToClientPos(
                [pick(...boxes.map(x)), pick(...boxes.map(y))]);
            const [left, top] = corner(Math.min, b => b[0] - 20, b => b[1] - 30);
            const [right, low] = corner(Math.max, b => b[0] + b[2] + 20, b => b[1] + b[3] + 20);
            return [left, top, right - left, low - top];
        }"""
        return self.page.evaluate(script)
