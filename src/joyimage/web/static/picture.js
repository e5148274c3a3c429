/** Pictures: read files, upright and within the server's limits; small copies; what differs between two. */

import { convertImage, ServerError } from "./api.js";
import { newId } from "./dom.js";

/** @import { Limits, Picture } from "./types.js" */

const THUMBNAIL_PX = 144;
// Larger pictures are shown by a smaller copy: no screen has more pixels, and a phone's memory not many more.
const SHOWN_PX = 4096;
const COMPARED_PX = 1536;
const SENT_TYPES = new Set(["image/png", "image/jpeg", "image/webp"]);
// A channel may differ by this much without being seen; a VAE's round trip does.
const UNSEEN = 8;

/**
 * Read a picture's file.
 *
 * @param {Blob} file
 * @param {string} name
 * @param {Limits | null} limits
 * @returns {Promise<Picture>}
 * @throws {Error} It is none, or too large; the sentence says so.
 */
export async function readPicture(file, name, limits) {
  if (limits && file.size > limits.max_image_bytes) {
    throw new Error(
      `${name} has ${inMegabytes(file.size)}; this server accepts pictures up to ${inMegabytes(limits.max_image_bytes)}.`,
    );
  }
  try {
    return await readFile(file, name, limits);
  } catch (error) {
    if (!(error instanceof UnreadableError) || !(await isForServer(file))) throw error;
  }
  // Phones save photos as HEIC, scanners as TIFF: the server reads them.
  const asPng = await convertImage(file, name).catch((error) => {
    throw error instanceof ServerError ? new Error(error.message.replace("`image`", name)) : error;
  });
  return readFile(asPng, pngName(name), limits);
}

/** Return the name of a file that was turned into PNG: what is saved under it can be opened. @param {string} name */
function pngName(name) {
  return `${name.replace(/\.\w+$/, "")}.png`;
}

/** A file that this browser can't read. */
class UnreadableError extends Error {}

/** Tell by a file's first bytes whether it is of a format that the server may read although this browser can't. @param {Blob} file */
async function isForServer(file) {
  const head = await headOf(file);
  return head.slice(4, 8) === "ftyp" || head.startsWith("II*\0") || head.startsWith("MM\0*");
}

/** Read a file that this browser can read. @param {Blob} file @param {string} name @param {Limits | null} limits @returns {Promise<Picture>} */
async function readFile(file, name, limits) {
  const kind = await findType(file);
  const url = URL.createObjectURL(file);
  try {
    const { width, height } = await measure(file, name, url);
    if (limits && width * height > limits.max_image_pixels) {
      const most = Math.round(limits.max_image_pixels / 1e6);
      throw new Error(`${name} has ${width} × ${height} pixels; this server accepts up to ${most} million.`);
    }
  } finally {
    URL.revokeObjectURL(url);
  }
  const bitmap = await decode(file, name);
  // What only the browser can read is sent as PNG.
  const isSent = kind !== null && SENT_TYPES.has(kind);
  const blob = isSent ? file : await toBlob(draw(bitmap, bitmap.width, bitmap.height), "image/png");
  return finishPicture({ id: newId(), blob, width: bitmap.width, height: bitmap.height, name: isSent ? name : pngName(name) }, bitmap);
}

/**
 * Give a picture that was kept, or has come from the server, its addresses.
 *
 * A width of 0 stands for the file's own size.
 *
 * @param {Pick<Picture, "id" | "blob" | "width" | "height" | "name">} kept
 * @returns {Promise<Picture>}
 */
export async function restorePicture(kept) {
  const bitmap = await decode(kept.blob, kept.name);
  const { width, height } = kept.width ? kept : bitmap;
  return finishPicture({ ...kept, width, height }, bitmap);
}

/** Free what a picture holds. @param {Picture} picture */
export function releasePicture(picture) {
  URL.revokeObjectURL(picture.url);
  URL.revokeObjectURL(picture.thumbnail);
}

/**
 * Bring a picture to a result's frame as the model saw it, so that the two can be laid over each other.
 *
 * @param {Picture} picture
 * @param {Picture} result
 * @param {boolean} isCropped Whether the picture's middle was cropped, not the whole of it scaled.
 * @returns {Promise<string>} An address, the picture's own where nothing is to be done.
 */
export async function alignTo(picture, result, isCropped) {
  const ratio = picture.width / picture.height / (result.width / result.height);
  if (Math.abs(Math.log(ratio)) < 1e-4) return picture.url;
  const bitmap = await decode(picture.blob, picture.name);
  const canvas = makeCanvas(result.width, result.height);
  const across = result.width / picture.width;
  const down = result.height / picture.height;
  const scale = Math.max(across, down);
  const [width, height] = isCropped
    ? [picture.width * scale, picture.height * scale]
    : [result.width, result.height];
  context(canvas).drawImage(bitmap, (result.width - width) / 2, (result.height - height) / 2, width, height);
  bitmap.close();
  return URL.createObjectURL(await toBlob(canvas, "image/png"));
}

/**
 * Draw where two pictures differ: black where they don't, the brighter the more.
 *
 * @param {HTMLImageElement} before
 * @param {HTMLImageElement} after
 * @param {HTMLCanvasElement} canvas
 * @returns {number} The share that differs visibly, 0 to 1.
 */
export function drawDifference(before, after, canvas) {
  const scale = Math.min(1, COMPARED_PX / Math.max(after.naturalWidth, after.naturalHeight));
  canvas.width = Math.max(1, Math.round(after.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(after.naturalHeight * scale));
  const [first, second] = [before, after].map((image) => {
    const drawn = context(draw(image, canvas.width, canvas.height));
    return drawn.getImageData(0, 0, canvas.width, canvas.height);
  });
  const [a, b] = [first.data, second.data];
  let num = 0;
  for (let place = 0; place < a.length; place += 4) {
    const most = Math.max(
      Math.abs(a[place] - b[place]),
      Math.abs(a[place + 1] - b[place + 1]),
      Math.abs(a[place + 2] - b[place + 2]),
    );
    if (most > UNSEEN) num += 1;
    const shown = Math.max(0, most - UNSEEN) * 2;
    b[place] = b[place + 1] = b[place + 2] = shown;
    b[place + 3] = 255;
  }
  context(canvas).putImageData(second, 0, 0);
  return num / (a.length / 4);
}

/**
 * @param {Pick<Picture, "id" | "blob" | "width" | "height" | "name">} kept
 * @param {ImageBitmap} bitmap Closed here.
 * @returns {Promise<Picture>}
 */
async function finishPicture({ id, blob, width, height, name }, bitmap) {
  const shrink = (/** @type {number} */ longest) => {
    const scale = Math.min(1, longest / Math.max(width, height));
    const canvas = draw(bitmap, Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
    return toBlob(canvas, "image/webp");
  };
  const url = URL.createObjectURL(Math.max(width, height) > SHOWN_PX ? await shrink(SHOWN_PX) : blob);
  const thumbnail = URL.createObjectURL(await shrink(THUMBNAIL_PX));
  bitmap.close();
  return { id, blob, width, height, name, url, thumbnail };
}

/**
 * Read a picture's size off its file, before anything is decoded: that of a bomb takes all memory.
 *
 * @param {Blob} file
 * @param {string} name
 * @param {string} url
 * @returns {Promise<{width: number, height: number}>} Upright, as its EXIF says.
 */
function measure(file, name, url) {
  const image = new Image();
  return new Promise((resolve, reject) => {
    image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => reject(unreadable(file, name));
    image.src = url;
  });
}

/** Decode a file, upright and to its last byte. @param {Blob} file @param {string} name @returns {Promise<ImageBitmap>} */
async function decode(file, name) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw unreadable(file, name);
  }
}

/** @param {Blob} file @param {string} name */
function unreadable(file, name) {
  if (!file.size) return new UnreadableError(`${name} is empty; choose another file.`);
  return new UnreadableError(`${name} is not a picture that can be read. Use a PNG, JPEG, WebP, GIF, AVIF, HEIC, TIFF or BMP file.`);
}

/** Tell a file's type by its first bytes: names lie. @param {Blob} file */
async function findType(file) {
  const text = await headOf(file);
  if (text.startsWith("\x89PNG")) return "image/png";
  if (text.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (text.startsWith("RIFF") && text.endsWith("WEBP")) return "image/webp";
  return null;
}

/** @param {Blob} file @returns {Promise<string>} */
async function headOf(file) {
  return String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
}

/** @param {CanvasImageSource} image @param {number} width @param {number} height */
function draw(image, width, height) {
  const canvas = makeCanvas(width, height);
  context(canvas).drawImage(image, 0, 0, width, height);
  return canvas;
}

/** @param {number} width @param {number} height */
function makeCanvas(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

/** @param {HTMLCanvasElement} canvas @returns {CanvasRenderingContext2D} */
function context(canvas) {
  const found = canvas.getContext("2d", { willReadFrequently: true });
  if (!found) throw new Error("This browser has too little memory for a picture of this size.");
  found.imageSmoothingQuality = "high";
  return found;
}

/** @param {HTMLCanvasElement} canvas @param {string} type @returns {Promise<Blob>} */
function toBlob(canvas, type) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => {
      if (blob) resolve(blob);
      else reject(new Error("This browser has too little memory for a picture of this size."));
    }, type);
  });
}

/** @param {number} bytes */
function inMegabytes(bytes) {
  return `${(bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: bytes < 2 ** 20 ? 2 : 0 })} MB`;
}
