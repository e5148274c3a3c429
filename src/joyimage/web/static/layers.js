/** Where the images of a project lie on one another, whatever size each has. Pure functions. */

import { frameOf } from "./framing.js";

/** @import { Size } from "./geometry.js" */
/** @import { Fit } from "./framing.js" */
/** @import { Attempt } from "./history.js" */

/** @typedef {{left: number, top: number, width: number, height: number}} Place */

const LONGEST_PX = 8192; // of a canvas that is larger than any of its images

/**
 * Lay images on one canvas, so that each shows what it shows of the one that it was made of. The canvas is so large that no image
 * loses pixels.
 *
 * @param {Attempt[]} attempts The root first, each after what it was made of.
 * @param {Map<string, Size>} sizes Of the attempts' images by their ids; one without an image is left out.
 * @returns {{size: Size, places: Map<string, Place>}} In whole pixels of the canvas.
 */
export function layOut(attempts, sizes) {
  /** @type {Map<string, Place>} */
  const found = new Map();
  for (const attempt of attempts) {
    const own = sizes.get(attempt.id);
    if (own) found.set(attempt.id, placeOf(attempt, own, found.get(attempt.parent ?? ""), sizes.get(attempt.parent ?? "")));
  }
  const all = [...found];
  const [right, bottom] = [Math.max(...all.map(([, one]) => one.left + one.width)), Math.max(...all.map(([, one]) => one.top + one.height))];
  const most = Math.max(1, LONGEST_PX / Math.max(right, bottom));
  const scale = Math.min(most, Math.max(...all.map(([id, one]) => finenessOf(/** @type {Size} */ (sizes.get(id)), one))));
  const size = { width: Math.round(right * scale), height: Math.round(bottom * scale) };
  return { size, places: new Map(all.map(([id, one]) => [id, inPixels(one, scale)])) };
}

/**
 * @param {Attempt} attempt
 * @param {Size} own Of its image.
 * @param {Place | undefined} parent Where the image lies that it was made of, if there is one.
 * @param {Size | undefined} before Size of that image.
 * @returns {Place}
 */
function placeOf({ job, request }, own, parent, before) {
  if (!parent || !before) return { left: 0, top: 0, ...own };
  const fit = /** @type {Fit} */ (job?.edit?.fit ?? request?.fields.fit ?? "crop");
  // What was padded has been cut to the image again.
  const seen = own.width === before.width && own.height === before.height ? frameOf(before, "exact", null) : frameOf(before, fit === "crop" ? "crop" : "exact", own);
  const [across, down] = [parent.width / before.width, parent.height / before.height];
  return { left: parent.left + seen.left * across, top: parent.top + seen.top * down, width: seen.width * across, height: seen.height * down };
}

/** @param {Size} own @param {Place} place @returns {number} Pixels of an image per pixel of where it lies, along the side that has more. */
function finenessOf(own, place) {
  return Math.max(own.width / place.width, own.height / place.height);
}

/** @param {Place} place @param {number} scale @returns {Place} */
function inPixels({ left, top, width, height }, scale) {
  const [x, y] = [Math.round(left * scale), Math.round(top * scale)];
  return { left: x, top: y, width: Math.max(1, Math.round((left + width) * scale) - x), height: Math.max(1, Math.round((top + height) * scale) - y) };
}
