/** A form as it is sent. Browsers' own FormData turns every line break into two characters, which a model reads as others. */

/** @typedef {{field: string, blob: Blob, name: string}} File */

/**
 * Write a form, letter by letter as it was typed.
 *
 * @param {Record<string, string>} fields
 * @param {File[]} files
 * @param {string} boundary That none of the fields and files holds, in lower case.
 * @returns {Blob} Its type says what it is.
 *
 * Source: RFC 7578.
 */
export function multipart(fields, files, boundary) {
  /** @type {BlobPart[]} */
  const parts = [];
  const head = (/** @type {string} */ disposition, type = "") => `--${boundary}\r\nContent-Disposition: form-data; ${disposition}${type}\r\n\r\n`;
  for (const [name, text] of Object.entries(fields)) parts.push(`${head(`name="${escape(name)}"`)}${text.replaceAll(/\r\n?/g, "\n")}\r\n`);
  for (const { field, blob, name } of files) {
    const type = `\r\nContent-Type: ${blob.type || "application/octet-stream"}`;
    parts.push(head(`name="${escape(field)}"; filename="${escape(name)}"`, type), blob, "\r\n");
  }
  return new Blob([...parts, `--${boundary}--\r\n`], { type: `multipart/form-data; boundary=${boundary}` });
}

/** @param {string} name */
function escape(name) {
  return name.replaceAll('"', "%22").replaceAll("\r", "%0D").replaceAll("\n", "%0A");
}
