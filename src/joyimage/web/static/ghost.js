/** The object that is moved: its outline where it is, and a copy of its pixels that follows the box. */

import { make } from "./dom.js";
import { drawStrokes } from "./mask.js";
import { boundsOf, tightened } from "./select.js";

/** @import { Box } from "./geometry.js" */
/** @import { Stroke } from "./region.js" */
/** @import { Picture } from "./types.js" */
/** @import { Selection } from "./select.js" */

const LONGEST_PX = 1024; // selection sees a smaller copy: fast, and noise is averaged
const OUTLINE = [74, 69, 214];

const HALF = 128; // of what a pixel can be covered by a stroke

/** @type {Worker | null} */
let worker = null;
/** @type {Promise<unknown>} The worker's last answer: it has one question at a time. */
let answered = Promise.resolve();

/**
 * @typedef {object} Pick How an object was selected, in pixels of the image.
 * @property {[number, number] | null} at The place that was clicked; null where it was drawn alone.
 * @property {Stroke[]} strokes What was added to it or taken away with lasso and brush.
 *
 * @typedef {{box: Box, ghost: HTMLCanvasElement, outline: HTMLCanvasElement}} Found An object; the outline is as large as the image.
 */

/**
 * Find the object that was picked.
 *
 * @param {Picture} picture
 * @param {Pick} pick
 * @returns {Promise<Found | null>} Null where there is none.
 */
export async function findObject(picture, { at: place, strokes }) {
  const scale = Math.min(1, LONGEST_PX / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
  const bitmap = await createImageBitmap(picture.blob, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
  const canvas = make("canvas", { width: String(width), height: String(height) });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  if (!pen) return null;
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const image = pen.getImageData(0, 0, width, height);
  const at = (/** @type {number} */ value, /** @type {number} */ most) => Math.min(most - 1, Math.max(0, Math.floor(value * scale)));
  const found = place && (await select(image, at(place[0], width), at(place[1], height)));
  const mask = found?.mask ?? new Uint8Array(width * height);
  strokes.forEach((stroke, n) => mark(mask, image, stroke, scale, !found && n === 0));
  const box = strokes.length ? boundsOf(mask, width) : found?.box;
  if (!box) return null;
  const [left, top, right, bottom] = box;
  const across = picture.width / width;
  const down = picture.height / height;
  return {
    box: [Math.floor(left * across), Math.floor(top * down), Math.ceil(right * across), Math.ceil(bottom * down)],
    ghost: draw(right - left, bottom - top, (x, y) => {
      const one = (y + top) * width + x + left;
      return mask[one] ? image.data.subarray(4 * one, 4 * one + 4) : null;
    }),
    outline: draw(width, height, (x, y) => (isEdge(mask, width, height, x, y) ? OUTLINE : null), box),
  };
}

/**
 * Add a stroke to what is selected, or take it away.
 *
 * @param {Uint8Array} mask Changed here.
 * @param {ImageData} image
 * @param {Stroke} stroke
 * @param {number} scale Pixels of the mask per pixel of the stroke.
 * @param {boolean} isFirst Whether it is all that is selected: a lasso is drawn around an object, not along its edge.
 */
function mark(mask, image, stroke, scale, isFirst) {
  const { width, height } = image;
  const pen = make("canvas", { width: String(width), height: String(height) }).getContext("2d", { willReadFrequently: true });
  if (!pen) return;
  drawStrokes(pen, [{ ...stroke, erases: false }], scale);
  const { data } = pen.getImageData(0, 0, width, height);
  const drawn = Uint8Array.from(mask, (_, place) => (data[4 * place + 3] >= HALF ? 1 : 0));
  const used = isFirst && stroke.kind === "lasso" ? tightened(image, drawn) : drawn;
  for (let place = 0; place < mask.length; place += 1) if (used[place]) mask[place] = stroke.erases ? 0 : 1;
}

/** @param {ImageData} image @param {number} x @param {number} y @returns {Promise<Selection | null>} */
function select(image, x, y) {
  worker ??= new Worker("/select-worker.js", { type: "module" });
  const one = worker;
  const ask = () => new Promise((resolve) => {
    one.onmessage = ({ data }) => resolve(data);
    one.postMessage({ image, x, y });
  });
  return /** @type {Promise<Selection | null>} */ (answered = answered.then(ask));
}

/**
 * Draw pixel by pixel.
 *
 * @param {number} width
 * @param {number} height
 * @param {(x: number, y: number) => ArrayLike<number> | null} colorAt
 * @param {Box} [box] Where there is something to draw.
 */
function draw(width, height, colorAt, [left, top, right, bottom] = [0, 0, width, height]) {
  const canvas = make("canvas", { width: String(width), height: String(height), "aria-hidden": "true" });
  const pixels = new ImageData(width, height);
  for (let y = top; y < bottom; y += 1) {
    for (let x = left; x < right; x += 1) {
      const color = colorAt(x, y);
      if (!color) continue;
      const at = 4 * (y * width + x);
      for (let n = 0; n < 3; n += 1) pixels.data[at + n] = color[n];
      pixels.data[at + 3] = 255;
    }
  }
  canvas.getContext("2d")?.putImageData(pixels, 0, 0);
  return canvas;
}

/** @param {Uint8Array} mask @param {number} width @param {number} height @param {number} x @param {number} y */
function isEdge(mask, width, height, x, y) {
  const at = (/** @type {number} */ column, /** @type {number} */ row) =>
    column >= 0 && row >= 0 && column < width && row < height && mask[row * width + column] === 1;
  if (!at(x, y)) return false;
  return !(at(x - 2, y) && at(x + 2, y) && at(x, y - 2) && at(x, y + 2));
}
