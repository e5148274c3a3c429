/** The object that is moved: its outline where it is, and a copy of its pixels that follows the box. */

import { make } from "./dom.js";

/** @import { Box } from "./geometry.js" */
/** @import { Picture } from "./types.js" */
/** @import { Selection } from "./select.js" */

const LONGEST_PX = 1024; // selection sees a smaller copy: fast, and noise is averaged
const OUTLINE = [74, 69, 214];

/** @type {Worker | null} */
let worker = null;

/**
 * Find the object at a place.
 *
 * @param {Picture} picture
 * @param {{x: number, y: number}} place In the picture's pixels.
 * @returns {Promise<{box: Box, ghost: HTMLCanvasElement, outline: HTMLCanvasElement} | null>} Null where there is none.
 */
export async function findObject(picture, place) {
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
  const found = await select(image, at(place.x, width), at(place.y, height));
  if (!found) return null;
  const [left, top, right, bottom] = found.box;
  const across = picture.width / width;
  const down = picture.height / height;
  return {
    box: [Math.floor(left * across), Math.floor(top * down), Math.ceil(right * across), Math.ceil(bottom * down)],
    ghost: draw(right - left, bottom - top, (x, y) => {
      const one = (y + top) * width + x + left;
      return found.mask[one] ? image.data.subarray(4 * one, 4 * one + 4) : null;
    }),
    outline: draw(width, height, (x, y) => (isEdge(found.mask, width, height, x, y) ? OUTLINE : null), found.box),
  };
}

/** @param {ImageData} image @param {number} x @param {number} y @returns {Promise<Selection | null>} */
function select(image, x, y) {
  worker ??= new Worker("/select-worker.js", { type: "module" });
  const one = worker;
  return new Promise((resolve) => {
    one.onmessage = ({ data }) => resolve(data);
    one.postMessage({ image, x, y });
  });
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
