/**
 * Images as an animated GIF: for the places that take no WebP. Pure functions over pixels.
 *
 * Each frame has a palette of its own, found by median cut, and is dithered by error diffusion.
 *
 * Source: GIF89a specification (image data, LZW with variable code length), Netscape 2.0 looping extension.
 */

const COLORS = 256;
const CELL_BITS = 5; // of each channel, when colors are counted
const MOST_CODES = 4096;

/** @typedef {{width: number, height: number, data: Uint8ClampedArray}} Pixels RGBA, row by row. */

/**
 * Write frames as an animation that never ends.
 *
 * @param {Pixels[]} frames All of the first one's size, opaque.
 * @param {number} frameMs
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encodeGif(frames, frameMs) {
  const [{ width, height }] = frames;
  /** @type {number[]} */
  const out = [...letters("GIF89a"), ...short(width), ...short(height), 0, 0, 0];
  out.push(0x21, 0xff, 11, ...letters("NETSCAPE2.0"), 3, 1, 0, 0, 0);
  for (const frame of frames) {
    const palette = findPalette(frame);
    out.push(0x21, 0xf9, 4, 4, ...short(Math.round(frameMs / 10)), 0, 0);
    out.push(0x2c, 0, 0, 0, 0, ...short(width), ...short(height), 0x87);
    for (let n = 0; n < COLORS; n += 1) out.push(...(palette[n] ?? [0, 0, 0]));
    out.push(8);
    const data = compress(dither(frame, palette), 8);
    for (let at = 0; at < data.length; at += 255) {
      const block = data.slice(at, at + 255);
      out.push(block.length, ...block);
    }
    out.push(0);
  }
  out.push(0x3b);
  return Uint8Array.from(out);
}

/**
 * Find the colors that stand for those of an image: the box of colors with the widest spread of many pixels is cut in two
 * until there are enough.
 *
 * @param {Pixels} frame
 * @returns {[number, number, number][]} 256 at most.
 */
export function findPalette({ data }) {
  const drop = 8 - CELL_BITS;
  /** @type {Map<number, number[]>} Number of pixels and their sum, by cell of the color cube. */
  const cells = new Map();
  for (let at = 0; at < data.length; at += 4) {
    const cell = ((data[at] >> drop) << (2 * CELL_BITS)) | ((data[at + 1] >> drop) << CELL_BITS) | (data[at + 2] >> drop);
    let sums = cells.get(cell);
    if (!sums) cells.set(cell, (sums = [0, 0, 0, 0]));
    sums[0] += 1;
    for (let channel = 0; channel < 3; channel += 1) sums[channel + 1] += data[at + channel];
  }
  let boxes = [spread([...cells.values()])];
  while (boxes.length < COLORS) {
    const widest = boxes.reduce((best, one) => (one.weight > best.weight ? one : best));
    if (widest.weight <= 0) break;
    boxes = [...boxes.filter((one) => one !== widest), ...cut(widest)];
  }
  return boxes.map(({ colors }) => {
    const [num, ...sums] = colors.reduce((all, one) => all.map((value, n) => value + one[n]), [0, 0, 0, 0]);
    return /** @type {[number, number, number]} */ (sums.map((sum) => Math.round(sum / num)));
  });
}

/** @typedef {{colors: number[][], channel: number, weight: number}} ColorBox */

/** Measure along which channel some colors differ most. @param {number[][]} colors @returns {ColorBox} */
function spread(colors) {
  const num = colors.reduce((sum, one) => sum + one[0], 0);
  let [channel, widest] = [1, 0];
  for (const one of [1, 2, 3]) {
    let [least, most] = [255, 0];
    for (const color of colors) {
      const value = color[one] / color[0];
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
    if (most - least > widest) [channel, widest] = [one, most - least];
  }
  return { colors, channel, weight: colors.length > 1 ? widest * Math.sqrt(num) : 0 };
}

/** Cut a box where half of its pixels are on either side. @param {ColorBox} box @returns {ColorBox[]} */
function cut({ colors, channel }) {
  const sorted = [...colors].sort((one, other) => one[channel] / one[0] - other[channel] / other[0]);
  const half = sorted.reduce((sum, one) => sum + one[0], 0) / 2;
  let [at, seen] = [0, 0];
  while (at < sorted.length - 1 && seen + sorted[at][0] <= half) seen += sorted[at++][0];
  at = Math.max(1, at);
  return [spread(sorted.slice(0, at)), spread(sorted.slice(at))];
}

/**
 * Choose a color of the palette for each pixel; what is missing goes to its neighbors, by Floyd and Steinberg's shares.
 *
 * @param {Pixels} frame
 * @param {[number, number, number][]} palette
 * @returns {Uint8Array} Places in the palette.
 */
function dither({ width, height, data }, palette) {
  const chosen = new Uint8Array(width * height);
  const find = finder(palette);
  let [now, next] = [new Float32Array(3 * (width + 2)), new Float32Array(3 * (width + 2))];
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = 4 * (y * width + x);
      const wanted = [0, 1, 2].map((n) => Math.min(255, Math.max(0, data[at + n] + now[3 * (x + 1) + n])));
      const place = find(wanted[0], wanted[1], wanted[2]);
      chosen[y * width + x] = place;
      for (let n = 0; n < 3; n += 1) {
        const missing = wanted[n] - palette[place][n];
        now[3 * (x + 2) + n] += (missing * 7) / 16;
        next[3 * x + n] += (missing * 3) / 16;
        next[3 * (x + 1) + n] += (missing * 5) / 16;
        next[3 * (x + 2) + n] += missing / 16;
      }
    }
    [now, next] = [next, now];
    next.fill(0);
  }
  return chosen;
}

/** Return what finds the nearest color, remembering the answers. @param {[number, number, number][]} palette */
function finder(palette) {
  const known = new Map();
  return (/** @type {number} */ red, /** @type {number} */ green, /** @type {number} */ blue) => {
    const cell = ((red >> 2) << 12) | ((green >> 2) << 6) | (blue >> 2);
    let best = known.get(cell);
    if (best !== undefined) return best;
    let least = Infinity;
    for (let n = 0; n < palette.length; n += 1) {
      const [r, g, b] = palette[n];
      const away = (red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2;
      if (away < least) [best, least] = [n, away];
    }
    known.set(cell, best);
    return best;
  };
}

/** Compress by LZW. @param {Uint8Array} values @param {number} bits Of a value. @returns {number[]} Bytes. */
function compress(values, bits) {
  const [clear, end] = [1 << bits, (1 << bits) + 1];
  /** @type {number[]} */
  const out = [];
  let [held, num] = [0, 0];
  let length = bits + 1;
  /** @type {Map<number, number>} By the code of a sequence and the value after it. */
  let table = new Map();
  let free = end + 1;
  const put = (/** @type {number} */ code) => {
    held |= code << num;
    num += length;
    for (; num >= 8; num -= 8, held >>>= 8) out.push(held & 255);
  };
  put(clear);
  let sequence = values[0];
  for (let at = 1; at < values.length; at += 1) {
    const pair = (sequence << 8) | values[at];
    const longer = table.get(pair);
    if (longer !== undefined) {
      sequence = longer;
      continue;
    }
    put(sequence);
    if (free < MOST_CODES) {
      table.set(pair, free);
      if (free === 1 << length && length < 12) length += 1;
      free += 1;
    } else {
      put(clear);
      [table, free, length] = [new Map(), end + 1, bits + 1];
    }
    sequence = values[at];
  }
  put(sequence);
  put(end);
  if (num) out.push(held & 255);
  return out;
}

/** @param {string} text */
function letters(text) {
  return [...text].map((letter) => letter.charCodeAt(0));
}

/** Two bytes, the least significant one first. @param {number} value */
function short(value) {
  return [value & 255, value >> 8];
}
