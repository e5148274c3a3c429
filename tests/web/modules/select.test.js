import assert from "node:assert/strict";
import { test } from "node:test";
import { boundsOf, selectAt, tightened } from "../../../src/joyimage/web/static/select.js";
import { often } from "./random.js";

function scene(random, width, height, isObject) {
  const data = new Uint8ClampedArray(4 * width * height);
  for (let place = 0; place < width * height; place += 1) {
    const color = isObject(place % width, Math.floor(place / width)) ? [180, 40, 40] : [60, 140, 190];
    for (let n = 0; n < 3; n += 1) data[4 * place + n] = color[n] + random.between(-12, 12);
    data[4 * place + 3] = 255;
  }
  return { data, width, height };
}

test("object on a noisy background is selected to the pixel, its hole included", () => {
  often((random) => {
    const [width, height] = [random.whole(60, 120), random.whole(60, 120)];
    const [x, y, radius] = [random.whole(20, width - 20), random.whole(20, height - 20), random.whole(8, 18)];
    const distance = (column, row) => Math.hypot(column - x, row - y);
    const isObject = (column, row) => distance(column, row) <= radius && !(Math.hypot(column - x - 4, row - y) < 2);
    const { mask, box } = selectAt(scene(random, width, height, isObject), x - 3, y);
    assert.deepEqual(box, [x - radius, y - radius, x + radius + 1, y + radius + 1]);
    for (let place = 0; place < mask.length; place += 1) {
      assert.equal(mask[place] === 1, distance(place % width, Math.floor(place / width)) <= radius);
    }
  }, 60);
});

test("background is no object", () => {
  often((random) => {
    const image = scene(random, 80, 60, (x, y) => Math.hypot(x - 40, y - 30) < 10);
    assert.equal(selectAt(image, 3, 3), null);
  }, 20);
});

test("a single pixel unlike all around it is no object", () => {
  const image = scene({ between: () => 0 }, 40, 40, (x, y) => x === 20 && y === 20);
  assert.equal(selectAt(image, 20, 20), null);
});

test("a lasso is tightened to the object inside it, or kept where nothing would be left", () => {
  often((random) => {
    const [width, height] = [random.whole(60, 120), random.whole(60, 120)];
    const [x, y, radius] = [random.whole(25, width - 25), random.whole(25, height - 25), random.whole(6, 14)];
    const isObject = (column, row) => Math.hypot(column - x, row - y) <= radius;
    const image = scene(random, width, height, isObject);
    const [left, top, right, bottom] = [x - radius - 4, y - radius - 3, x + radius + 5, y + radius + 6];
    const lasso = Uint8Array.from({ length: width * height }, (_, place) => {
      const [column, row] = [place % width, Math.floor(place / width)];
      return column >= left && column < right && row >= top && row < bottom ? 1 : 0;
    });
    const found = tightened(image, lasso);
    assert.deepEqual(boundsOf(found, width), [x - radius, y - radius, x + radius + 1, y + radius + 1]);
    const plain = scene(random, width, height, () => false);
    assert.deepEqual(tightened(plain, lasso), lasso);
  }, 40);
  assert.equal(boundsOf(new Uint8Array(12), 4), null);
});
