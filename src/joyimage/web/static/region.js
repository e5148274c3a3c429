/** The part of an image that an edit may change, as strokes: no document, no pixels. Coordinates are pixels of the image. */

/** @import { Point, Size } from "./geometry.js" */

/**
 * @typedef {object} Stroke
 * @property {"brush" | "lasso" | "box" | "invert"} kind "invert" turns over what was marked before it.
 * @property {boolean} [erases]
 * @property {number} [width] Of a brush.
 * @property {[number, number][]} [points] Of a box: two corners.
 *
 * @typedef {object} Region
 * @property {Stroke[]} strokes
 * @property {boolean} protects Whether what is marked is what stays.
 *
 * @typedef {Region & Size} Mask A region of an image of a size.
 */

/** @type {Region} */
export const NOTHING = { strokes: [], protects: false };
const LEAST_LASSO_PX = 4;

/** Tell whether a region marks anything. @param {Region} region */
export function isMarked({ strokes }) {
  return strokes.some(({ kind, erases }) => kind === "invert" || !erases);
}

/** Add a stroke; one that marks nothing is left out, and an inversion right after another undoes it. @param {Region} region @param {Stroke} stroke @returns {Region} */
export function withStroke(region, stroke) {
  const { strokes } = region;
  if (stroke.kind === "invert" && strokes.at(-1)?.kind === "invert") return { ...region, strokes: strokes.slice(0, -1) };
  if (stroke.kind !== "invert" && !isDrawn(stroke)) return region;
  return { ...region, strokes: [...strokes, stroke] };
}

/** Tell whether a stroke covers anything. @param {Stroke} stroke */
function isDrawn({ kind, points = [] }) {
  if (kind === "brush") return points.length > 0;
  const across = points.map(([x]) => x);
  const down = points.map(([, y]) => y);
  const spread = Math.min(Math.max(...across) - Math.min(...across), Math.max(...down) - Math.min(...down));
  return points.length > 1 && spread >= (kind === "lasso" ? LEAST_LASSO_PX : 1);
}

/** Add a point to a stroke unless it is as good as the last one. @param {Stroke} stroke @param {Point} place @param {number} least Pixels of the image. @returns {Stroke} */
export function withPoint(stroke, { x, y }, least) {
  const points = stroke.points ?? [];
  const point = /** @type {[number, number]} */ ([round(x), round(y)]);
  if (stroke.kind === "box") return { ...stroke, points: [points[0] ?? point, point] };
  const last = points.at(-1);
  if (last && Math.hypot(last[0] - point[0], last[1] - point[1]) < least) return stroke;
  return { ...stroke, points: [...points, point] };
}

/** Read a region that was written as JSON; nothing where there is none. @param {unknown} text @returns {Region} */
export function readRegion(text) {
  return typeof text === "string" && text ? JSON.parse(text) : NOTHING;
}

/** A tenth of a pixel is enough, and short to store. @param {number} value */
function round(value) {
  return Math.round(10 * value) / 10;
}
