/** Whether an image file has several frames. Pure functions over its first bytes. */

export const HEAD_BYTES = 4096; // each format says so at its start

const WEBP_FLAGS_AT = 20;
const WEBP_ANIMATION = 2;

/**
 * Tell whether a file is an animation, of which only the first frame is edited.
 *
 * @param {Uint8Array} head The first `HEAD_BYTES` of the file, or all of it.
 *
 * Source: WebP container specification, VP8X flags; PNG third edition, acTL before IDAT; GIF's NETSCAPE2.0 extension.
 */
export function isAnimated(head) {
  const text = String.fromCharCode(...head);
  if (text.startsWith("RIFF") && text.startsWith("WEBPVP8X", 8)) return (head[WEBP_FLAGS_AT] & WEBP_ANIMATION) !== 0;
  if (text.startsWith("\x89PNG")) return text.split("IDAT")[0].includes("acTL");
  return text.startsWith("GIF8") && text.includes("NETSCAPE2.0");
}
