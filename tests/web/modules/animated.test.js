import assert from "node:assert/strict";
import { test } from "node:test";
import { isAnimated } from "../../../src/joyimage/web/static/animated.js";

const bytes = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

test("an animation is told from a still image of the same format by its first bytes", () => {
  const webp = (flags) => bytes(`RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0${flags}\0\0\0`);
  assert.equal(isAnimated(webp("\x02")), true);
  assert.equal(isAnimated(webp("\x10")), false); // alpha
  assert.equal(isAnimated(bytes("RIFF\0\0\0\0WEBPVP8 \0\0\0\0\x02")), false);
  assert.equal(isAnimated(bytes("\x89PNG\r\n\x1a\n IHDR acTL IDAT")), true);
  assert.equal(isAnimated(bytes("\x89PNG\r\n\x1a\n IHDR IDAT acTL")), false);
  assert.equal(isAnimated(bytes("GIF89a ... NETSCAPE2.0")), true);
  assert.equal(isAnimated(bytes("GIF89a ...")), false);
  assert.equal(isAnimated(new Uint8Array()), false);
});
