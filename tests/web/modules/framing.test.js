import assert from "node:assert/strict";
import { test } from "node:test";
import { describeFrame, frameOf, nearestSize } from "../../../src/joyimage/web/static/framing.js";
import { often } from "./random.js";

const SIZES = [{ width: 96, height: 96 }, { width: 128, height: 64 }, { width: 64, height: 128 }];

test("a crop lies in the image and padding around it, both centered and of the target's shape", () => {
  often((random) => {
    const image = { width: random.whole(1, 6000), height: random.whole(1, 6000) };
    const target = random.one(SIZES);
    for (const fit of ["crop", "pad"]) {
      const { left, top, width, height } = frameOf(image, fit, target);
      const sign = fit === "crop" ? 1 : -1;
      assert.ok(sign * left >= 0 && sign * top >= 0 && Math.min(Math.abs(left), Math.abs(top)) < 1e-6);
      assert.ok(Math.abs(2 * left + width - image.width) < 1e-6 && Math.abs(2 * top + height - image.height) < 1e-6);
      assert.ok(Math.abs(width / height / (target.width / target.height) - 1) < 1e-9);
    }
    assert.deepEqual(frameOf(image, "exact", null), { left: 0, top: 0, ...image });
  });
});

test("the server's size is the nearest in shape", () => {
  assert.deepEqual(nearestSize({ width: 300, height: 100 }, SIZES), SIZES[1]);
  assert.deepEqual(nearestSize({ width: 100, height: 101 }, SIZES), SIZES[0]);
  assert.equal(nearestSize({ width: 1, height: 1 }, []), null);
});

test("what is left out of the edit is said with its share and its place", () => {
  const image = { width: 1000, height: 500 };
  assert.match(describeFrame(image, "crop", SIZES[0], true), /50% of the picture, at the left and right, stays unedited/);
  assert.match(describeFrame(image, "crop", SIZES[0], false), /is cut off/);
  assert.match(describeFrame(image, "pad", SIZES[0], true), /whole picture.*top and bottom/);
  assert.equal(describeFrame(image, "crop", SIZES[1], true), "The model sees the whole picture.");
  assert.match(describeFrame(image, "exact", SIZES[0], true), /stretched to 96 × 96/);
});
