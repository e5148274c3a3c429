/**
 * The page measures itself: `?bench` in its address runs this, shows the numbers, and leaves them as JSON in
 * `document.documentElement.dataset.bench`, where `joyimage bench --page` reads them.
 */

import { byId, choose, make } from "./dom.js";
import { median, summarize } from "./frames.js";
import { findObject } from "./ghost.js";
import { drawStrokes } from "./mask.js";
import { state } from "./store.js";

/** @import { Actions } from "./actions.js" */
/** @import { Opening } from "./opening.js" */
/** @import { RegionTool } from "./regiontool.js" */
/** @import { Spatial } from "./spatial.js" */
/** @import { Stage } from "./stage.js" */
/** @import { Picture } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

const LARGE = { width: 4000, height: 3000 };
const SELECTED = { width: 1000, height: 1000 };
const FRAMES = 180;
const CLICKS = 7;
const LASSO = /** @type {[number, number][]} */ ([[300, 280], [500, 300], [500, 500], [280, 480]]);

/**
 * @typedef {object} Parts
 * @property {Workspace} workspace
 * @property {Opening} opening
 * @property {Spatial} spatial
 * @property {Stage} stage
 * @property {RegionTool} region
 * @property {Actions} actions
 */

/** Measure, and show what was measured. @param {Parts} parts */
export async function bench(parts) {
  /** @type {string[]} */
  const problems = [];
  addEventListener("error", ({ message }) => problems.push(message));
  addEventListener("unhandledrejection", ({ reason }) => problems.push(String(reason)));
  addEventListener("securitypolicyviolation", ({ violatedDirective }) => problems.push(violatedDirective));
  const before = state.value.project?.id;
  const loading = measureLoading();
  const tried = async (/** @type {() => Promise<unknown>} */ measure) => {
    try {
      return await measure();
    } catch (error) {
      problems.push(String(error));
      return null;
    }
  };
  const first_edit_s = await tried(() => measureFirstEdit(parts));
  const drag = await tried(() => measureDrag(parts));
  const selection_ms = await tried(measureSelection);
  const lasso = await tried(() => measureLasso(parts));
  const results = { ...loading, first_edit_s, drag, selection_ms, lasso, problems };
  document.documentElement.dataset.bench = JSON.stringify(results);
  const dialog = make("dialog", { class: "wide", "aria-label": "Measured" }, make("pre", {}, JSON.stringify(results, null, 2)));
  document.body.append(dialog);
  dialog.showModal();
  if (before) await parts.workspace.openProject(before, state.value.place);
}

/** First paint, and what the page's own files weigh on the wire. */
function measureLoading() {
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  const files = /** @type {PerformanceResourceTiming[]} */ ([...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]);
  const own = files.filter(({ name }) => !/\/(v1|healthz)/.test(name));
  return { first_paint_ms: paint ? Math.round(paint.startTime) : null, page_bytes: own.reduce((sum, one) => sum + one.encodedBodySize, 0), num_files: own.length };
}

/** @param {Parts} parts @returns {Promise<number>} Seconds from the first click to an example that has been edited. */
async function measureFirstEdit(parts) {
  const started = performance.now();
  await parts.opening.openExample("shapes");
  await parts.actions.onRun();
  const id = state.value.project?.id;
  if (!parts.workspace.result) throw new Error("The example was not edited.");
  if (id) await parts.workspace.deleteProject(id);
  return Number(((performance.now() - started) / 1000).toFixed(2));
}

/** Drag an object over an image of 12 megapixels, once per frame. @param {Parts} parts */
async function measureDrag({ workspace, opening, spatial, stage }) {
  await opening.open(await paint(LARGE), "12-megapixels.jpg");
  const id = state.value.project?.id;
  choose("mode", "move");
  spatial.on.modeChanged();
  await spatial.pick({ x: LARGE.width / 2, y: LARGE.height / 2 });
  const { frame, layer } = spatial.box;
  const bounds = layer.getBoundingClientRect();
  const at = (/** @type {number} */ share) => {
    const place = { clientX: bounds.x + bounds.width * (0.5 + 0.3 * Math.sin(6.3 * share)), clientY: bounds.y + bounds.height * (0.5 + 0.3 * Math.sin(12.6 * share)) };
    return new PointerEvent("pointermove", { ...place, pointerType: "mouse", button: 0 });
  };
  const first = at(0);
  Object.defineProperty(first, "target", { value: frame });
  spatial.box.begin(first);
  const intervals = await frames((share) => spatial.box.move(at(share)));
  spatial.box.end();
  stage.viewer.zoomBy(2);
  const panned = await frames((share) => stage.viewer.panBy(8 * Math.cos(6.3 * share), 8 * Math.sin(6.3 * share)));
  if (id) await workspace.deleteProject(id);
  return { object: summarize(intervals), pan: summarize(panned) };
}

/** Do something in each of many frames. @param {(share: number) => void} act @returns {Promise<number[]>} Ms between frames. */
function frames(act) {
  return new Promise((resolve) => {
    /** @type {number[]} */
    const times = [];
    const next = (/** @type {number} */ now) => {
      times.push(now);
      if (times.length > FRAMES) return resolve(times.slice(1).map((time, n) => time - times[n]));
      act(times.length / FRAMES);
      requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
  });
}

/** @returns {Promise<number>} Ms from a click to the outline of an object on an image of one megapixel, the median. */
async function measureSelection() {
  const blob = await paint(SELECTED);
  const picture = /** @type {Picture} */ ({ blob, ...SELECTED });
  const times = [];
  for (let n = 0; n <= CLICKS; n += 1) {
    const started = performance.now();
    const found = await findObject(picture, { at: [SELECTED.width / 2, SELECTED.height / 2], strokes: [] });
    if (!found) throw new Error("No object was found on the image that was painted for it.");
    times.push(performance.now() - started);
  }
  return Math.round(median(times.slice(1))); // the first click starts the worker
}

/** Edit inside a lasso, and count what has changed outside of it. @param {Parts} parts */
async function measureLasso(parts) {
  const { workspace, opening, region } = parts;
  await opening.openExample("shapes");
  const id = state.value.project?.id;
  region.set(JSON.stringify({ strokes: [{ kind: "lasso", points: LASSO }], protects: false }), "inside");
  byId("prompt-edit", HTMLTextAreaElement).value = "Recolor the circle green.";
  const started = performance.now();
  await parts.actions.onRun();
  const seconds = (performance.now() - started) / 1000;
  const { result, input } = workspace;
  if (!result || !input) return null;
  const [one, other] = await Promise.all([result, input].map(async ({ blob }) => (await draw(blob)).getImageData(0, 0, input.width, input.height).data));
  const pen = makePen(input);
  drawStrokes(pen, [{ kind: "lasso", points: LASSO }], 1);
  const mask = pen.getImageData(0, 0, input.width, input.height).data;
  let [outside, inside] = [0, 0];
  for (let place = 0; place < mask.length; place += 4) {
    const differs = [0, 1, 2].some((n) => one[place + n] !== other[place + n]);
    if (differs && mask[place + 3] === 0) outside += 1;
    if (differs && mask[place + 3] !== 0) inside += 1;
  }
  if (id) await workspace.deleteProject(id);
  return { changed_outside: outside, changed_inside: inside, seconds: Number(seconds.toFixed(2)) };
}

/** Paint a disc on a ground that is nowhere the same, as a camera's file is. @param {{width: number, height: number}} size @returns {Promise<Blob>} */
function paint({ width, height }) {
  const pen = makePen({ width, height });
  const sky = pen.createLinearGradient(0, 0, width, height);
  for (const [n, color] of ["#8fb4d8", "#dfe8ee", "#b9a98a"].entries()) sky.addColorStop(n / 2, color);
  pen.fillStyle = sky;
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = "#7a1f2b";
  pen.beginPath();
  pen.arc(width / 2, height / 2, height / 7, 0, 2 * Math.PI);
  pen.fill();
  return new Promise((resolve, reject) => pen.canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("No memory for the image."))), "image/jpeg", 0.92));
}

/** @param {Blob} blob */
async function draw(blob) {
  const bitmap = await createImageBitmap(blob);
  const pen = makePen(bitmap);
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return pen;
}

/** @param {{width: number, height: number}} size @returns {CanvasRenderingContext2D} */
function makePen({ width, height }) {
  const canvas = make("canvas", { width: String(width), height: String(height) });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  if (!pen) throw new Error("No memory for the image.");
  return pen;
}
