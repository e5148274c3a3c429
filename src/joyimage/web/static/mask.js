/** Regions as pixels: shown over the image, sent to the server, saved for the command line. */

/** @import { Mask, Stroke } from "./region.js" */

/**
 * Draw what strokes mark, in one color.
 *
 * @param {CanvasRenderingContext2D} pen
 * @param {Stroke[]} strokes
 * @param {number} scale Pixels of the canvas per pixel of the image.
 */
export function drawStrokes(pen, strokes, scale) {
  const { width, height } = pen.canvas;
  pen.clearRect(0, 0, width, height);
  pen.lineCap = pen.lineJoin = "round";
  for (const { kind, erases = false, width: across = 1, points = [] } of strokes) {
    pen.globalCompositeOperation = kind === "invert" ? "xor" : erases ? "destination-out" : "source-over";
    if (kind === "invert") pen.fillRect(0, 0, width, height);
    else if (kind === "box") fillBox(pen, points, scale);
    else drawLine(pen, kind, points.map(([x, y]) => [x * scale, y * scale]), across * scale);
  }
  pen.globalCompositeOperation = "source-over";
}

/** @param {CanvasRenderingContext2D} pen @param {[number, number][]} points @param {number} scale */
function fillBox(pen, [[x0, y0], [x1, y1]], scale) {
  const [left, top, right, bottom] = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map((side) => Math.round(side * scale));
  pen.fillRect(left, top, right - left, bottom - top);
}

/** @param {CanvasRenderingContext2D} pen @param {"brush" | "lasso"} kind @param {number[][]} points @param {number} width */
function drawLine(pen, kind, points, width) {
  pen.beginPath();
  for (const [x, y] of points) pen.lineTo(x, y);
  if (kind === "lasso") return pen.fill();
  if (points.length === 1) pen.lineTo(points[0][0], points[0][1] + 0.01); // a dot
  pen.lineWidth = width;
  pen.stroke();
}

/**
 * Write a mask as the server reads it: transparent where the image may change. What is marked in part is not.
 *
 * @param {Mask} mask
 * @returns {Promise<Blob>} PNG of the image's size.
 */
export function maskFile(mask) {
  const pen = paint(mask);
  // What is drawn now is what is opaque: what stays.
  if (!mask.protects) invert(pen);
  return toPng(pen.canvas);
}

/** Return a mask as the server reads it within JSON. @param {Mask} mask @returns {Promise<string>} A data URL. */
export async function maskAddress(mask) {
  const file = await maskFile(mask);
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error("The area can't be read."));
    reader.readAsDataURL(file);
  });
}

/** Write a mask as `--region` reads it: white where the image may change. @param {Mask} mask @returns {Promise<Blob>} */
export function whiteMaskFile(mask) {
  const pen = paint(mask);
  if (!mask.protects) invert(pen);
  const pixels = pen.getImageData(0, 0, mask.width, mask.height);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) data.fill(data[at + 3] ? 0 : 255, at, at + 3);
  for (let at = 3; at < data.length; at += 4) data[at] = 255;
  pen.putImageData(pixels, 0, 0);
  return toPng(pen.canvas);
}

/** @param {Mask} mask @returns {CanvasRenderingContext2D} */
function paint({ strokes, width, height }) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  if (!pen) throw new Error("This browser has no memory left for a mask of this size.");
  drawStrokes(pen, strokes, 1);
  return pen;
}

/** @param {CanvasRenderingContext2D} pen */
function invert(pen) {
  pen.globalCompositeOperation = "xor";
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
  pen.globalCompositeOperation = "source-over";
}

/** @param {HTMLCanvasElement} canvas @returns {Promise<Blob>} */
function toPng(canvas) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("This browser has no memory left for a mask of this size."))), "image/png");
  });
}
