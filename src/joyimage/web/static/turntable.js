/** Several images as one file: a contact sheet, or an animation that turns, as WebP or GIF. */

import { encodeGif } from "./gif.js";

/** @import { Picture } from "./types.js" */

const COLUMNS = 4;
const SHEET_PX = 512; // of a cell's longer side
const TURN_PX = 1024;
const GIF_PX = 512; // GIF is large
const LABEL_PX = 36;
const FRAME_MS = 250;
const QUALITY = 0.92;

/** @typedef {{label: string, picture: Picture}} Labeled */

/** Draw images side by side, each with its name. @param {Labeled[]} frames @returns {Promise<Blob>} PNG. */
export async function contactSheet(frames) {
  const cell = shrunk(frames[0].picture, SHEET_PX);
  const columns = Math.min(COLUMNS, frames.length);
  const pen = makePen(columns * cell.width, Math.ceil(frames.length / columns) * (cell.height + LABEL_PX));
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
  pen.fillStyle = "#1a1b1f";
  pen.font = "18px system-ui, sans-serif";
  pen.textAlign = "center";
  for (const [n, { label, picture }] of frames.entries()) {
    const [left, top] = [(n % columns) * cell.width, Math.floor(n / columns) * (cell.height + LABEL_PX)];
    await draw(pen, picture, left, top, cell);
    pen.fillText(label, left + cell.width / 2, top + cell.height + LABEL_PX - 12);
  }
  return toBlob(pen.canvas, "image/png");
}

/**
 * Write images as an animation that never ends.
 *
 * @param {Labeled[]} frames
 * @returns {Promise<Blob>} WebP.
 *
 * Source: WebP container specification: VP8X, ANIM, and an ANMF chunk around the bitstream of each frame.
 */
export async function animation(frames) {
  const size = shrunk(frames[0].picture, TURN_PX);
  const shape = [...bytes(size.width - 1, 3), ...bytes(size.height - 1, 3)];
  const HAS_ANIMATION = 2;
  const parts = [chunk("VP8X", [HAS_ANIMATION, 0, 0, 0, ...shape]), chunk("ANIM", [255, 255, 255, 255, 0, 0])];
  for (const { picture } of frames) {
    const pen = makePen(size.width, size.height);
    await draw(pen, picture, 0, 0, size);
    const file = new Uint8Array(await (await toBlob(pen.canvas, "image/webp", QUALITY)).arrayBuffer());
    const REPLACES = 2; // a frame isn't blended with the one before it
    parts.push(chunk("ANMF", [...bytes(0, 6), ...shape, ...bytes(FRAME_MS, 3), REPLACES, ...bitstream(file)]));
  }
  const length = parts.reduce((sum, part) => sum + part.length, 4);
  return new Blob([text("RIFF"), Uint8Array.from(bytes(length, 4)), text("WEBP"), ...parts], { type: "image/webp" });
}

/** Write images as a GIF that never ends. @param {Labeled[]} frames @returns {Promise<Blob>} */
export async function gif(frames) {
  const size = shrunk(frames[0].picture, GIF_PX);
  const drawn = [];
  for (const { picture } of frames) {
    const pen = makePen(size.width, size.height);
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, size.width, size.height);
    await draw(pen, picture, 0, 0, size);
    drawn.push(pen.getImageData(0, 0, size.width, size.height));
  }
  return new Blob([encodeGif(drawn, FRAME_MS)], { type: "image/gif" });
}

/** Return the chunk with the pixels of a WebP file that holds one image. @param {Uint8Array} file */
function bitstream(file) {
  const view = new DataView(file.buffer);
  for (let at = 12; at < file.length; ) {
    const name = String.fromCharCode(...file.subarray(at, at + 4));
    const end = at + 8 + view.getUint32(at + 4, true);
    if (name === "VP8 " || name === "VP8L") return file.subarray(at, end + (end % 2));
    at = end + (end % 2);
  }
  throw new Error("This browser can't write WebP.");
}

/** @param {string} name @param {number[]} content */
function chunk(name, content) {
  return Uint8Array.from([...text(name), ...bytes(content.length, 4), ...content, ...(content.length % 2 ? [0] : [])]);
}

/** @param {string} name */
function text(name) {
  return new TextEncoder().encode(name);
}

/** Least significant byte first. @param {number} value @param {number} count */
function bytes(value, count) {
  return Array.from({ length: count }, (_, n) => Math.floor(value / 256 ** n) % 256);
}

/** @param {{width: number, height: number}} size @param {number} longest */
function shrunk({ width, height }, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  return { width: Math.round(width * scale), height: Math.round(height * scale) };
}

/** @param {CanvasRenderingContext2D} pen @param {Picture} picture @param {number} left @param {number} top @param {{width: number, height: number}} size */
async function draw(pen, { blob }, left, top, { width, height }) {
  const bitmap = await createImageBitmap(blob);
  pen.drawImage(bitmap, left, top, width, height);
  bitmap.close();
}

/** @param {number} width @param {number} height @returns {CanvasRenderingContext2D} */
function makePen(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  if (!pen) throw new Error("This browser has no memory left for an image of this size.");
  pen.imageSmoothingQuality = "high";
  return pen;
}

/** @param {HTMLCanvasElement} canvas @param {string} type @param {number} [quality] @returns {Promise<Blob>} */
function toBlob(canvas, type, quality) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("This browser has no memory left for an image of this size."))), type, quality);
  });
}
