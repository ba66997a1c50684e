"""The pictures that a node shows, as a user enlarges and clicks them, in both kinds of nodes."""

from __future__ import annotations

from collections.abc import Callable

from .browser import FrontEnd

# Where a picture is drawn on the canvas, told by the drawing itself.
DRAWN = """([node, index]) => new Promise((done, fail) => {
    const wanted = find(node).imgs[index], kind = CanvasRenderingContext2D.prototype;
    const draw = kind.drawImage;
    kind.drawImage = function (image, x, y, wide, high) {
        if (image === wanted) {
            kind.drawImage = draw;
            const at = this.getTransform(), own = this.canvas.getBoundingClientRect();
            const start = at.transformPoint({x, y});
            done([own.left + start.x, own.top + start.y, wide * at.a, high * at.d]);
        }
        return draw.apply(this, arguments);
    };
    app.canvas.setDirty(true, true);
    setTimeout(() => fail(new Error(`picture ${index} is not drawn`)), 20000);
})"""
# Where a picture stands in an element that it does not fill.
FITTED = """image => {
    const own = image.getBoundingClientRect(), {naturalWidth: w, naturalHeight: h} = image;
    const scale = Math.min(own.width / w, own.height / h);
    return [own.left + (own.width - w * scale) / 2, own.top + (own.height - h * scale) / 2,
        w * scale, h * scale];
}"""
FILE = "([node, index]) => app.nodeOutputs[find(node).id].images[index].filename"
ALONE = """([node, file]) => {
    const shown = document.querySelectorAll(`[data-node-id='${find(node).id}'] img`);
    return shown.length === 1 && shown[0].src.includes(file) && shown[0].naturalWidth > 0;
}"""
THUMB = """([node, index]) => {
    const own = find(node), [x, y, wide, high] = own.imageRects[index];
    return app.canvasPosToClientPos([own.pos[0] + x + wide / 2, own.pos[1] + y + high / 2]);
}"""


class Gallery:
    """The pictures of a node that has run; one of them is shown alone."""

    def __init__(self, front_end: FrontEnd, node: str) -> None:
        self.front_end, self.page, self.node = front_end, front_end.page, node
        own = self.page.evaluate("node => String(find(node).id)", node)
        self.element = self.page.locator(f"[data-node-id='{own}']")  # there in Nodes 2.0 alone
        self.index = 0
        front_end.fit()

    def enlarge(self, index: int) -> None:
        """Show one picture of several alone."""
        self.index = index
        if self.element.count():
            # front end 1.32 draws the picture's size over its dots
            dot = self.element.get_by_label(f"View image {index + 1} of")
            file = self.page.evaluate(FILE, [self.node, index])
            self.front_end.until(
                lambda: dot.dispatch_event("click"),
                lambda: self.page.evaluate(ALONE, [self.node, file]),
            )
            return
        self.front_end.previews(self.node)
        alone = "([node, index]) => find(node).imageIndex === index"
        self.front_end.until(
            lambda: self._press(*self.page.evaluate(THUMB, [self.node, index])),
            lambda: self.page.evaluate(alone, [self.node, index]),
        )

    def choose(self, place: tuple[float, float], seen: Callable[[], bool]) -> None:
        """Click at a place (x, y), 0..1, of the picture that is shown, until its sign shows."""
        self.front_end.until(lambda: self.click(place), seen)

    def click(self, place: tuple[float, float]) -> None:
        """Click there once, which may be for nothing."""
        self.front_end.fit()  # the node has grown since, perhaps
        if self.element.count():
            left, top, wide, high = self.element.locator("img").evaluate(FITTED)
        else:
            left, top, wide, high = self.page.evaluate(DRAWN, [self.node, self.index])
        self._press(left + place[0] * wide, top + place[1] * high)
        self.page.wait_for_timeout(300)

    def _press(self, x: float, y: float) -> None:
        """A click as long as a hand's: the canvas only sees what lasts while it is drawn."""
        self.page.mouse.click(x, y, delay=120)
