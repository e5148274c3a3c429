/** Write layers as OpenRaster, which GIMP and Krita open. */

import { zip } from "./zip.js";

/** @typedef {{name: string, data: Uint8Array<ArrayBuffer>, left: number, top: number, isVisible: boolean}} Layer PNG data, and where it lies. */

/**
 * Return an OpenRaster file.
 *
 * @param {{width: number, height: number}} size
 * @param {Layer[]} layers The lowest first.
 * @param {Uint8Array<ArrayBuffer>} merged PNG of all together.
 * @param {Uint8Array<ArrayBuffer>} thumbnail PNG, 256 pixels at most.
 * @returns {Blob}
 *
 * Source: OpenRaster baseline 0.0.6: mimetype first and stored, stack.xml with the topmost layer first.
 */
export function openRaster({ width, height }, layers, merged, thumbnail) {
  const encode = (/** @type {string} */ text) => new TextEncoder().encode(text);
  const named = layers.map((layer, n) => ({ ...layer, path: `data/layer${n}.png` }));
  const listed = named.toReversed().map(({ name, path, left, top, isVisible }) => `  <layer name="${escape(name)}" src="${path}" x="${left}" y="${top}" opacity="1.0" visibility="${isVisible ? "visible" : "hidden"}"/>`);
  const stack = `<?xml version="1.0" encoding="UTF-8"?>\n<image version="0.0.6" w="${width}" h="${height}">\n <stack>\n${listed.join("\n")}\n </stack>\n</image>\n`;
  const files = [
    { name: "mimetype", data: encode("image/openraster") },
    { name: "stack.xml", data: encode(stack) },
    ...named.map(({ path, data }) => ({ name: path, data })),
    { name: "mergedimage.png", data: merged },
    { name: "Thumbnails/thumbnail.png", data: thumbnail },
  ];
  return new Blob([zip(files)], { type: "image/openraster" });
}

/** @param {string} text */
function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
