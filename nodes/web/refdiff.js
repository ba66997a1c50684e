// Shows where a word was seen, where one points at it: in the text of Ref-Diff Segment, or in what
// it says of its answer. Plain JavaScript; without it the nodes work as before.
import { app } from "../../scripts/app.js";

const NODE = "RefDiffSegment";
const seen = new Map(); // node id -> [{text, words: [{word, start, heat}]}], as the node told it
let panel = null;
let waiting = false;

function show(word, heat, x, y) {
  if (!panel) {
    panel = document.createElement("div");
    panel.id = "refdiff-heat";
    panel.style.cssText =
      "position:fixed;z-index:10000;pointer-events:none;padding:4px;border-radius:6px;" +
      "background:#12121a;color:#fafaf8;font:12px sans-serif;box-shadow:0 2px 12px #000a";
    panel.append(document.createElement("img"), document.createElement("div"));
    document.body.append(panel);
  }
  const [picture, label] = panel.children;
  if (picture.src !== heat) picture.src = heat;
  picture.style.display = "block";
  label.textContent = word;
  panel.style.display = "block";
  const box = panel.getBoundingClientRect();
  panel.style.left = `${Math.max(0, Math.min(x + 16, innerWidth - box.width - 4))}px`;
  panel.style.top = `${Math.max(0, Math.min(y + 20, innerHeight - box.height - 4))}px`;
}

function hide() {
  if (panel) panel.style.display = "none";
}

function caretAt(x, y) {
  if (document.caretPositionFromPoint) {
    const place = document.caretPositionFromPoint(x, y);
    return place && [place.offsetNode, place.offset];
  }
  const range = document.caretRangeFromPoint?.(x, y);
  return range && [range.startContainer, range.startOffset];
}

function wordAt(x, y, element) {
  const place = caretAt(x, y);
  if (!place) return null;
  const [node, offset] = place;
  const typed = element instanceof HTMLTextAreaElement || element instanceof HTMLInputElement;
  if (!typed && node.nodeType !== Node.TEXT_NODE) return null;
  const text = typed ? element.value : node.data;
  const found = [...text.matchAll(/[\p{L}\p{N}_'-]+/gu)];
  const hit = found.find((one) => one.index <= offset && offset < one.index + one[0].length + 1);
  return hit ? hit[0].toLowerCase() : null;
}

function graphs() {
  const root = app.graph?.rootGraph ?? app.graph;
  return [app.graph, root, ...(root?.subgraphs?.values?.() ?? [])].filter(Boolean);
}

function nodeOf(element) {
  const framed = element.closest?.("[data-node-id]"); // Nodes 2.0
  const wanted = framed?.dataset.nodeId;
  for (const graph of graphs()) {
    for (const node of graph.nodes ?? []) {
      if (node.comfyClass !== NODE && node.type !== NODE) continue;
      if (wanted !== undefined ? String(node.id) === wanted : holds(node, element)) return node;
    }
  }
  return null;
}

function holds(node, element) {
  return (node.widgets ?? []).some((widget) => {
    const own = widget.element ?? widget.inputEl;
    if (own) return own === element || own.contains(element);
    // what a node says of its answer is drawn by the front end and known by its words alone
    const said = typeof widget.value === "string" ? widget.value.trim() : "";
    return said.length > 12 && said.startsWith(element.textContent.trim().slice(0, 200)) &&
      element.textContent.trim().length > 12;
  });
}

function look(event) {
  const element = event.target;
  if (!(element instanceof Element) || !seen.size || element instanceof HTMLCanvasElement) {
    return hide();
  }
  const node = nodeOf(element);
  const told = node && seen.get(String(node.id));
  const word = told && wordAt(event.clientX, event.clientY, element);
  const hit = word && told.flatMap((one) => one.words).find((one) => one.word.toLowerCase() === word);
  if (hit) show(hit.word, hit.heat, event.clientX, event.clientY);
  else hide();
}

function remember(id, output) {
  const told = output?.refdiff;
  const sound = (one) => one.words.every(({ heat }) => heat.startsWith("data:image/jpeg;base64,"));
  if (Array.isArray(told) && told.every(sound)) seen.set(String(id).split(":").pop(), told);
}

app.registerExtension({
  name: "refdiff.heat",
  setup() {
    app.api?.addEventListener("executed", ({ detail }) => {
      remember(detail.display_node ?? detail.node, detail.output);
    });
    const moved = (event) => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        try {
          look(event);
        } catch (error) {
          hide();
          console.debug("refdiff: no heat shown", error);
        }
      });
    };
    document.addEventListener("pointermove", moved, true); // Nodes 2.0 keeps it from bubbling
    document.addEventListener("pointerleave", hide);
  },
});
