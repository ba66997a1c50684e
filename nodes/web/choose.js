// A click on a candidate chooses it: in the picture of Ref-Diff Segment with show_candidates it sets
// the node's choice, in Show Candidates with scores the rank of Choose Mask with the same masks and
// scores. Plain JavaScript; without it the numbers are typed, as before.
import { app } from "../../scripts/app.js";

const SEGMENT = "RefDiffSegment";
const SHOW = "RefDiffShowCandidates";
const CHOOSE = "RefDiffChooseMask";
const PICTURE = "$$canvas-image-preview"; // the widget that draws a node's pictures on the canvas
const STILL = 5; // pixels that a mouse may move in a click
const MOST = 64; // candidates
let pressed = null;

// [left, top, width, height] of a picture that fits into a box and stands in its middle
function fitted([left, top, width, height], image, most) {
  const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight, most);
  const [wide, high] = [image.naturalWidth * scale, image.naturalHeight * scale];
  return [left + (width - wide) / 2, top + (height - high) / 2, wide, high];
}

// the place in a picture, 0..1, or null beside it
function within([left, top, width, height], x, y) {
  const place = [(x - left) / width, (y - top) / height];
  return place.every((share) => share >= 0 && share < 1) ? place : null;
}

// on the canvas: the node, the one picture it shows enlarged, and the place in that
function drawnAt(event) {
  const [x, y] = app.clientPosToCanvasPos([event.clientX, event.clientY]);
  const node = app.canvas.graph.getNodeOnPos(x, y, app.canvas.visible_nodes);
  const image = node?.imgs?.length === 1 ? node.imgs[0] : node?.imgs?.[node.imageIndex];
  const widget = image && node.widgets?.find((one) => one.name === PICTURE);
  if (!widget || node.flags?.collapsed || !image.naturalWidth) return null;
  const [left, top, width] = [x - node.pos[0], y - node.pos[1], node.size[0]];
  const sized = app.extensionManager?.setting?.get("Comfy.Node.AllowImageSizeDraw");
  const height = widget.computedHeight - (sized ? 15 : 0); // a line with the size stands below
  // the buttons "2/3" and "x" lie on the picture, where there are several
  const button = [widget.y + height - 40, widget.y + 10].some((at) => at <= top && top <= at + 30);
  if (node.imgs.length > 1 && button && width - 40 <= left && left <= width - 10) return null;
  const place = within(fitted([0, widget.y, width, height], image, 1), left, top);
  return place && { node, image, place };
}

// in Nodes 2.0: the same of a picture that is an element of the page
function elementAt(event) {
  const frame = event.target.closest("[data-node-id]");
  const node = app.canvas.graph.nodes.find((one) => String(one.id) === frame?.dataset.nodeId);
  if (!node || event.target.closest("button")) return null;
  const images = [...frame.querySelectorAll("img")].filter(fileOf);
  if (images.length !== 1 || !images[0].naturalWidth) return null;
  const { left, top, width, height } = images[0].getBoundingClientRect();
  const drawn = fitted([left, top, width, height], images[0], Infinity);
  const place = within(drawn, event.clientX, event.clientY);
  return place && { node, image: images[0], place };
}

function fileOf(image) {
  return new URL(image.src, location.href).searchParams.get("filename");
}

// the map of a picture, known by its file, as the node told it
function labelsOf(image) {
  const file = fileOf(image);
  const told = Object.values(app.nodeOutputs ?? {}).flatMap((one) => one?.refdiff_candidates ?? []);
  const labels = file && told.find((one) => one.filename === file)?.labels;
  const sound = typeof labels === "string" && labels.startsWith("data:image/png;base64,");
  return sound ? labels : null;
}

async function numberAt(labels, [x, y]) {
  const map = new Image();
  map.src = labels;
  await map.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [1, 1];
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(map, -Math.floor(x * map.naturalWidth), -Math.floor(y * map.naturalHeight));
  return pen.getImageData(0, 0, 1, 1).data[0];
}

// the output an input gets its value from, through Reroutes
function source(node, name) {
  let link = node.getInputLink(node.inputs.findIndex((input) => input.name === name));
  for (let step = 0; link && step < 100; step++) {
    const from = node.graph.getNodeById(link.origin_id);
    if (from?.type !== "Reroute") return `${link.origin_id}/${link.origin_slot}`;
    link = from.getInputLink(0);
  }
  return null;
}

function set(node, name, value) {
  const widget = node.widgets?.find((one) => one.name === name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
}

function choose(node, number) {
  if (node.type === SEGMENT) return set(node, "choice", number);
  const [masks, scores] = [source(node, "masks"), source(node, "scores")];
  if (!masks || !scores) return;
  const same = (one) => source(one, "masks") === masks && source(one, "scores") === scores;
  for (const one of node.graph.nodes.filter((one) => one.type === CHOOSE && same(one))) {
    set(one, "mode", "rank");
    set(one, "rank", number);
  }
}

async function clicked(event) {
  if (!(event.target instanceof Element) || app.canvas?.read_only) return;
  const hit = event.target === app.canvas?.canvas ? drawnAt(event) : elementAt(event);
  if (!hit || ![SEGMENT, SHOW].includes(hit.node.type)) return;
  const labels = labelsOf(hit.image);
  const number = labels && (await numberAt(labels, hit.place));
  if (!number || number > MOST) return;
  choose(hit.node, number);
  app.canvas.setDirty(true, true);
  const changes = app.extensionManager?.workflow?.activeWorkflow?.changeTracker; // for undo
  if (changes?.captureCanvasState) changes.captureCanvasState();
  else changes?.checkState?.(); // its name in older front ends
}

app.registerExtension({
  name: "refdiff.choose",
  setup() {
    // in the capture phase, since canvas and nodes keep these events from bubbling
    document.addEventListener("pointerdown", (event) => {
      const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
      pressed = plain ? [event.clientX, event.clientY] : null;
    }, true);
    document.addEventListener("pointerup", (event) => {
      const moved = pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]);
      const click = pressed && event.button === 0 && moved <= STILL;
      pressed = null;
      if (click) clicked(event).catch((error) => console.debug("refdiff: not chosen", error));
    }, true);
  },
});
