/** Write ZIP files, without compression: images are compressed already. */

import { checksum } from "./png.js";

const TIME = 0; // no time of day: the same content is the same file
const DATE = 0x0021; // 1980-01-01, the earliest that ZIP knows
const UTF8 = 0x0800;
const VERSION = 20;

/**
 * Return a ZIP with some files, in their order.
 *
 * @param {{name: string, data: Uint8Array<ArrayBuffer>}[]} files
 * @returns {Blob}
 *
 * Source: PKWARE APPNOTE 6.3: local headers with content, central directory, end of central directory.
 */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, data } of files) {
    const path = new TextEncoder().encode(name);
    const shared = [VERSION, UTF8, 0, TIME, DATE, [checksum(data)], [data.length], [data.length], path.length, 0];
    const local = pack([[0x04034b50], ...shared]);
    parts.push(local, path, data);
    directory.push(pack([[0x02014b50], VERSION, ...shared, 0, 0, 0, [0], [offset]]), path);
    offset += local.byteLength + path.length + data.length;
  }
  const length = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const end = pack([[0x06054b50], 0, 0, files.length, files.length, [length], [offset], 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Pack numbers, least significant byte first: 2 bytes each, 4 where in brackets. @param {(number | number[])[]} fields */
function pack(fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((/** @type {number} */ sum, one) => sum + (Array.isArray(one) ? 4 : 2), 0)));
  let at = 0;
  for (const one of fields) {
    if (Array.isArray(one)) view.setUint32(at, one[0], true);
    else view.setUint16(at, one, true);
    at += Array.isArray(one) ? 4 : 2;
  }
  return view.buffer;
}
