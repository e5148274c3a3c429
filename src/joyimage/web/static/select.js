/** Find the object at a place of an image by growing a region of similar color. Pure functions over pixels. */

const TOLERANCE = 42; // distance in RGB from the mean around the place
const AROUND = 2;
const MOST_SHARE = 0.6; // what is larger is the background
const EDGE_PLACES = 24; // of a lasso, whose colors are the background's
const LEAST_LEFT = 0.03;

/**
 * @typedef {object} Selection
 * @property {Uint8Array<ArrayBuffer>} mask 1 where the object is, row by row.
 * @property {[number, number, number, number]} box Left, top, right, bottom.
 * @property {number} share Of the image.
 */

/**
 * Select the object at a place.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGBA.
 * @param {number} x
 * @param {number} y
 * @returns {Selection | null} Null where there is only background.
 */
export function selectAt({ data, width, height }, x, y) {
  const mean = meanAround(data, width, height, x, y);
  const region = new Uint8Array(width * height);
  flood(region, width, height, [y * width + x], (place) => isNear(data, place, mean));
  if (!region[y * width + x]) return null; // a single pixel unlike all around it
  const box = /** @type {[number, number, number, number]} */ (boundsOf(region, width));
  const count = fillHoles(region, width, box);
  const share = count / (width * height);
  return share > MOST_SHARE || count < 4 ? null : { mask: region, box, share };
}

/**
 * Mark what is connected to some places.
 *
 * @param {Uint8Array} region Marked here; what is marked before is not entered.
 * @param {number} width
 * @param {number} height
 * @param {number[]} places
 * @param {(place: number) => boolean} belongs
 */
function flood(region, width, height, places, belongs) {
  const stack = new Int32Array(width * height);
  let size = 0;
  const enter = (/** @type {number} */ place) => {
    if (region[place] || !belongs(place)) return;
    region[place] = 1;
    stack[size] = place;
    size += 1;
  };
  places.forEach(enter);
  while (size) {
    size -= 1;
    const place = stack[size];
    const column = place % width;
    if (column > 0) enter(place - 1);
    if (column < width - 1) enter(place + 1);
    if (place >= width) enter(place - width);
    if (place < width * (height - 1)) enter(place + width);
  }
}

/**
 * Fill what a region encloses, such as highlights and windows.
 *
 * @param {Uint8Array} region Filled here.
 * @param {number} width Of the image.
 * @param {[number, number, number, number]} box Of the region: beyond it there is nothing to fill.
 * @returns {number} Pixels of the filled region.
 */
function fillHoles(region, width, [left, top, right, bottom]) {
  const [across, down] = [right - left, bottom - top];
  const edge = [];
  for (let column = 0; column < across; column += 1) edge.push(column, across * (down - 1) + column);
  for (let row = 0; row < down; row += 1) edge.push(row * across, row * across + across - 1);
  const toImage = (/** @type {number} */ place) => (top + Math.floor(place / across)) * width + left + (place % across);
  const outside = new Uint8Array(across * down);
  flood(outside, across, down, edge, (place) => !region[toImage(place)]);
  let count = 0;
  for (let place = 0; place < outside.length; place += 1) {
    if (outside[place]) continue;
    region[toImage(place)] = 1;
    count += 1;
  }
  return count;
}

/**
 * Return where a region is.
 *
 * @param {Uint8Array} region
 * @param {number} width Of the image.
 * @returns {[number, number, number, number] | null} Left, top, right, bottom; null where it is empty.
 */
export function boundsOf(region, width) {
  let [left, top, right, bottom] = [width, Infinity, 0, 0];
  for (let place = 0; place < region.length; place += 1) {
    if (!region[place]) continue;
    const column = place % width;
    const row = (place - column) / width;
    if (column < left) left = column;
    if (column >= right) right = column + 1;
    if (row < top) top = row;
    bottom = row + 1;
  }
  return bottom ? [left, top, right, bottom] : null;
}

/**
 * Take away from a region what looks like its edge and is connected to it: the background that a lasso has caught.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGBA.
 * @param {Uint8Array<ArrayBuffer>} region
 * @returns {Uint8Array<ArrayBuffer>} The region itself where next to nothing of it would be left.
 */
export function tightened({ data, width, height }, region) {
  const isIn = (/** @type {number} */ column, /** @type {number} */ row) =>
    column >= 0 && row >= 0 && column < width && row < height && region[row * width + column] === 1;
  const edge = [];
  let size = 0;
  for (let place = 0; place < region.length; place += 1) {
    if (!region[place]) continue;
    size += 1;
    const column = place % width;
    const row = (place - column) / width;
    if (!(isIn(column - 1, row) && isIn(column + 1, row) && isIn(column, row - 1) && isIn(column, row + 1))) edge.push(place);
  }
  const gone = new Uint8Array(region.length);
  for (let n = 0; n < EDGE_PLACES; n += 1) {
    const start = edge[Math.floor((n * edge.length) / EDGE_PLACES)];
    if (start === undefined || gone[start]) continue;
    const column = start % width;
    const mean = meanAround(data, width, height, column, (start - column) / width);
    flood(gone, width, height, [start], (place) => region[place] === 1 && isNear(data, place, mean));
  }
  const left = region.map((one, place) => (one && !gone[place] ? 1 : 0));
  return left.reduce((sum, one) => sum + one, 0) < LEAST_LEFT * size ? region : left;
}

/** @param {Uint8ClampedArray} data @param {number} place @param {number[]} mean */
function isNear(data, place, mean) {
  const [red, green, blue] = [data[4 * place] - mean[0], data[4 * place + 1] - mean[1], data[4 * place + 2] - mean[2]];
  return red * red + green * green + blue * blue < TOLERANCE * TOLERANCE;
}

/** @param {Uint8ClampedArray} data @param {number} width @param {number} height @param {number} x @param {number} y */
function meanAround(data, width, height, x, y) {
  const sum = [0, 0, 0, 0];
  for (let row = Math.max(0, y - AROUND); row <= Math.min(height - 1, y + AROUND); row += 1) {
    for (let column = Math.max(0, x - AROUND); column <= Math.min(width - 1, x + AROUND); column += 1) {
      const place = 4 * (row * width + column);
      for (let n = 0; n < 3; n += 1) sum[n] += data[place + n];
      sum[3] += 1;
    }
  }
  return sum.slice(0, 3).map((value) => value / sum[3]);
}
