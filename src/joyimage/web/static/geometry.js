/** Boxes and the view of an image, as numbers: no document, no state. Coordinates are pixels of the image's file. */

/** @typedef {[number, number, number, number]} Box Left, top, right, bottom. */
/** @typedef {{width: number, height: number}} Size */
/** @typedef {{x: number, y: number}} Point */
/** @typedef {{zoom: number, center: Point}} View Zoom 1 fits; the center is a share of the image. */

const LEAST_SIDE = 1;

/**
 * Return a box of whole pixels inside the image, from any two corners.
 *
 * @param {Box} corners
 * @param {Size} size
 * @returns {Box}
 */
export function fromCorners([x0, y0, x1, y1], { width, height }) {
  const [left, right] = span(x0, x1, width);
  const [top, bottom] = span(y0, y1, height);
  return [left, top, right, bottom];
}

/**
 * Return a box with its own size at the nearest place inside the image; a box larger than the image becomes the image.
 *
 * @param {Box} box
 * @param {Size} size
 * @returns {Box}
 */
export function shiftInto([left, top, right, bottom], size) {
  const width = Math.min(size.width, Math.max(LEAST_SIDE, Math.round(right - left)));
  const height = Math.min(size.height, Math.max(LEAST_SIDE, Math.round(bottom - top)));
  const x = clamp(Math.round(left), 0, size.width - width);
  const y = clamp(Math.round(top), 0, size.height - height);
  return [x, y, x + width, y + height];
}

/** Move a box inside the image. @param {Box} box @param {number} dx @param {number} dy @param {Size} size @returns {Box} */
export function moved([left, top, right, bottom], dx, dy, size) {
  return shiftInto([left + dx, top + dy, right + dx, bottom + dy], size);
}

/**
 * Pull at a side or corner of a box. The opposite side stays; a box pulled past it turns over.
 *
 * @param {Box} box
 * @param {string} side Such as "n" or "se".
 * @param {number} dx
 * @param {number} dy
 * @param {Size} size
 * @param {boolean} [keepsAspect] Whether a corner scales the box; a side never does.
 * @returns {Box}
 */
export function pulled([left, top, right, bottom], side, dx, dy, size, keepsAspect = false) {
  if (keepsAspect && side.length === 2) return scaled([left, top, right, bottom], side, dx, dy, size);
  return fromCorners(
    [
      side.includes("w") ? left + dx : left,
      side.includes("n") ? top + dy : top,
      side.includes("e") ? right + dx : right,
      side.includes("s") ? bottom + dy : bottom,
    ],
    size,
  );
}

/**
 * Scale a box at a corner; the opposite corner stays, and so does the aspect ratio, up to rounding.
 *
 * @param {Box} box
 * @param {string} side
 * @param {number} dx
 * @param {number} dy
 * @param {Size} size
 * @returns {Box}
 */
function scaled([left, top, right, bottom], side, dx, dy, size) {
  const [width, height] = [right - left, bottom - top];
  const across = side.includes("e") ? dx : -dx;
  const down = side.includes("s") ? dy : -dy;
  const room = [side.includes("e") ? size.width - left : right, side.includes("s") ? size.height - top : bottom];
  const wanted = Math.max((width + across) / width, (height + down) / height);
  const factor = clamp(wanted, Math.max(LEAST_SIDE / width, LEAST_SIDE / height), Math.min(room[0] / width, room[1] / height));
  const [w, h] = [Math.max(LEAST_SIDE, Math.round(width * factor)), Math.max(LEAST_SIDE, Math.round(height * factor))];
  return shiftInto(
    [
      side.includes("e") ? left : right - w,
      side.includes("s") ? top : bottom - h,
      side.includes("e") ? left + w : right,
      side.includes("s") ? top + h : bottom,
    ],
    size,
  );
}

/**
 * Carry a box along when the object that it was made from turns out to have other bounds.
 *
 * @param {Box} box Where the object should go.
 * @param {Box} from Where the object was thought to be.
 * @param {Box} to Where it is.
 * @param {Size} size
 * @returns {Box} Moved and scaled as far from `to` as `box` is from `from`.
 */
export function carried(box, from, to, size) {
  const [across, down] = [(box[2] - box[0]) / (from[2] - from[0]), (box[3] - box[1]) / (from[3] - from[1])];
  const [left, top] = [box[0] + across * (to[0] - from[0]), box[1] + down * (to[1] - from[1])];
  return shiftInto([left, top, left + across * (to[2] - to[0]), top + down * (to[3] - to[1])], size);
}

/**
 * Return the arrow from the middle of one box to that of another.
 *
 * @param {Box} from
 * @param {Box} to
 * @returns {{start: Point, length: number, angle: number} | null} The angle in radians, clockwise from the right; null
 *   where it would point nowhere.
 */
export function arrow(from, to) {
  const start = { x: (from[0] + from[2]) / 2, y: (from[1] + from[3]) / 2 };
  const [dx, dy] = [(to[0] + to[2]) / 2 - start.x, (to[1] + to[3]) / 2 - start.y];
  const length = Math.hypot(dx, dy);
  return length < 1 ? null : { start, length, angle: Math.atan2(dy, dx) };
}

/**
 * Return the box of four typed numbers, or null while one is missing or is not a number.
 *
 * @param {string[]} texts Left, top, width, height.
 * @param {Size} size
 * @returns {Box | null}
 */
export function fromNumbers(texts, size) {
  if (texts.some((text) => text.trim() === "" || !Number.isFinite(Number(text)))) return null;
  const [left, top, width, height] = texts.map(Number);
  if (width < LEAST_SIDE || height < LEAST_SIDE) return null;
  return shiftInto([left, top, left + width, top + height], size);
}

/**
 * Tell whether a drag was meant to draw a box: both of its sides are long enough on the screen.
 *
 * @param {Box} box
 * @param {number} scale Screen pixels per pixel of the image.
 * @param {number} leastPx Screen pixels.
 */
export function isDrawn([left, top, right, bottom], scale, leastPx) {
  return (right - left) * scale >= leastPx && (bottom - top) * scale >= leastPx;
}

/**
 * Return the scale at which an image fits a pane.
 *
 * @param {Size} image
 * @param {Size} pane
 * @param {number} marginPx Left free at each side, where there is room for it.
 * @param {number} most Largest scale.
 */
export function fitScale(image, pane, marginPx, most) {
  const width = Math.max(pane.width / 2, pane.width - 2 * marginPx);
  const height = Math.max(pane.height / 2, pane.height - 2 * marginPx);
  return Math.max(Math.min(width / image.width, height / image.height, most), 1e-6);
}

/**
 * Keep the center of a view where the image can be seen: it may leave its pane by the margin, and a smaller image is
 * centered.
 *
 * @param {number} center
 * @param {number} lengthPx Of the image on the screen.
 * @param {number} panePx
 * @param {number} marginPx
 */
export function clampCenter(center, lengthPx, panePx, marginPx) {
  if (lengthPx + 2 * marginPx <= panePx + 1) return 0.5;
  const reach = (panePx / 2 - marginPx) / lengthPx;
  return reach >= 0.5 ? 0.5 : clamp(center, reach, 1 - reach);
}

/**
 * Zoom so that a place of the screen keeps showing the same place of the image.
 *
 * @param {View} view
 * @param {number} zoom The new one.
 * @param {Point} away From the pane's middle, in screen pixels.
 * @param {Size} shown The image on the screen at the old zoom, in screen pixels.
 * @returns {View}
 */
export function zoomedAt({ zoom: old, center }, zoom, away, shown) {
  const gain = 1 - old / zoom;
  return { zoom, center: { x: center.x + (away.x * gain) / shown.width, y: center.y + (away.y * gain) / shown.height } };
}

/** @param {number} a @param {number} b @param {number} most @returns {[number, number]} In order, whole, 1 apart at least. */
function span(a, b, most) {
  let [low, high] = [a, b].map((value) => clamp(Math.round(value), 0, most)).sort((one, other) => one - other);
  if (low === high) low < most ? (high += 1) : (low -= 1);
  return [low, high];
}

/** @param {number} value @param {number} least @param {number} most */
export function clamp(value, least, most) {
  return Math.min(most, Math.max(least, value));
}
