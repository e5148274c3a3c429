import assert from "node:assert/strict";
import { test } from "node:test";
import { median, summarize } from "../../../src/joyimage/web/static/frames.js";
import { encodeGif, findPalette } from "../../../src/joyimage/web/static/gif.js";
import { often } from "./random.js";

test("frames are summed up: how many per second, and how many came late", () => {
  const steady = summarize(Array(60).fill(1000 / 60));
  assert.deepEqual([steady.frames_per_second, steady.late_frames, steady.num_frames], [60, 0, 60]);
  const jerky = summarize([...Array(90).fill(10), ...Array(10).fill(110)]);
  assert.deepEqual([jerky.frames_per_second, jerky.late_frames, jerky.median_ms, jerky.slowest_5_percent_ms], [50, 10, 10, 110]);
  assert.equal(median([4, 1, 3, 2]), 2.5);
});

test("a palette has an image's own colors where these are few, and 256 at most", () => {
  often((random) => {
    const colors = Array.from({ length: random.whole(1, 12) }, (_, n) => [(n * 21) & 248, random.whole(0, 31) * 8, random.whole(0, 31) * 8]);
    const data = new Uint8ClampedArray(colors.flatMap((color) => [...color, 255, ...color, 255]));
    const found = findPalette({ width: data.length / 4, height: 1, data }).map(String).sort();
    assert.deepEqual(found, [...new Set(colors.map(String))].sort());
  }, 50);
  const data = Uint8ClampedArray.from({ length: 4 * 4096 }, (_, n) => (n % 4 === 3 ? 255 : (n * 37 + (n >> 4)) & 255));
  assert.ok(findPalette({ width: 64, height: 64, data }).length <= 256);
  const file = Buffer.from(encodeGif([{ width: 64, height: 64, data }], 250));
  assert.equal(file.subarray(0, 6).toString("latin1"), "GIF89a");
  assert.equal(file.at(-1), 0x3b);
});
