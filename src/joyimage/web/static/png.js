/** Write how a picture was made into its PNG, where `joyimage info` and `joyimage edit --like` read it. */

const KEYWORD = "joyimage";
const HEADER_END = 33; // signature and IHDR
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

/**
 * Return a PNG with a record in it.
 *
 * @param {Blob} file
 * @param {object} record
 * @returns {Promise<Blob>}
 *
 * Source: PNG specification, iTXt: keyword, 0, not compressed, 0, no language, 0, no translation, 0, text.
 */
export async function withRecord(file, record) {
  const text = new TextEncoder().encode(`${KEYWORD}\0\0\0\0\0${JSON.stringify(record)}`);
  const body = new Uint8Array(4 + text.length);
  body.set(new TextEncoder().encode("iTXt"));
  body.set(text, 4);
  const ends = new DataView(new ArrayBuffer(8));
  ends.setUint32(0, text.length);
  ends.setUint32(4, checksum(body));
  const parts = [file.slice(0, HEADER_END), ends.buffer.slice(0, 4), body, ends.buffer.slice(4), file.slice(HEADER_END)];
  return new Blob(parts, { type: "image/png" });
}

/** Return the CRC-32 of some bytes. @param {Uint8Array} bytes */
export function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
