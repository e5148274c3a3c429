/** Which part of an image the model works on, by how it is framed. Pure functions. */

/** @import { Size } from "./geometry.js" */

/** @typedef {"crop" | "pad" | "exact"} Fit */

const UNSEEN = 0.001; // of the image: no frame is as exact as that

/** Return the trained size that the server takes for an image: that of the nearest aspect ratio. @param {Size} image @param {Size[]} sizes @returns {Size | null} */
export function nearestSize({ width, height }, sizes) {
  const away = (/** @type {Size} */ one) => Math.abs(one.height / one.width - height / width);
  return sizes.reduce((/** @type {Size | null} */ best, one) => (best && away(best) <= away(one) ? best : one), null);
}

/**
 * Return what the model sees, in pixels of the image. Sides outside the image are padding.
 *
 * @param {Size} image
 * @param {Fit} fit
 * @param {Size | null} target What the image is brought to; null where only its aspect ratio counts.
 */
export function frameOf({ width, height }, fit, target) {
  if (fit === "exact" || !target) return { left: 0, top: 0, width, height };
  const ratio = target.width / target.height;
  const keepsHeight = width / height > ratio === (fit === "crop");
  const frame = keepsHeight ? { width: height * ratio, height } : { width, height: width / ratio };
  return { left: (width - frame.width) / 2, top: (height - frame.height) / 2, ...frame };
}

/** Say what the model sees. @param {Size} image @param {Fit} fit @param {Size | null} target @param {boolean} isRestored Whether the result has the image's own size. @returns {string} */
export function describeFrame(image, fit, target, isRestored) {
  const frame = frameOf(image, fit, target);
  if (fit === "exact" && target && Math.abs(Math.log(target.width / target.height / (image.width / image.height))) > 0.01) {
    return `The model sees the whole picture, stretched to ${target.width} × ${target.height} pixels.`;
  }
  const share = 1 - (frame.width * frame.height) / (image.width * image.height);
  if (Math.abs(share) < UNSEEN) return "The model sees the whole picture.";
  const sides = Math.abs(frame.left) > Math.abs(frame.top) ? "left and right" : "top and bottom";
  if (share < 0) return `The model sees the whole picture. Margins at the ${sides} are added and cut off again.`;
  return `The model sees what is inside the frame. ${percent(share)} of the picture, at the ${sides}, ${isRestored ? "stays unedited" : "is cut off"}.`;
}

/** @param {number} share */
function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}
