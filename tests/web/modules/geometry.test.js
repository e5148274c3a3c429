import assert from "node:assert/strict";
import { test } from "node:test";
import { arrow, carried, clampCenter, fitScale, fromCorners, fromNumbers, isDrawn, moved, pulled, shiftInto, zoomedAt } from "../../../src/joyimage/web/static/geometry.js";
import { often } from "./random.js";

const SIDES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

function assertInside([left, top, right, bottom], { width, height }) {
  for (const value of [left, top, right, bottom]) assert.ok(Number.isInteger(value));
  assert.ok(left >= 0 && top >= 0 && right <= width && bottom <= height && left < right && top < bottom, `${[left, top, right, bottom]}`);
}

const randomSize = (random) => ({ width: random.whole(1, 6000), height: random.whole(1, 6000) });
const randomBox = (random, size) => fromCorners([0, 1, 2, 3].map((n) => random.between(0, n % 2 ? size.height : size.width)), size);

test("box from any corners or moved or pulled anywhere is inside the image", () => {
  often((random) => {
    const size = randomSize(random);
    const any = [1, 2, 3, 4].map(() => random.between(-9000, 9000));
    assertInside(fromCorners(any, size), size);
    assertInside(shiftInto(any, size), size);
    const box = randomBox(random, size);
    const [dx, dy] = [random.between(-9000, 9000), random.between(-9000, 9000)];
    assertInside(moved(box, dx, dy, size), size);
    for (const keepsAspect of [false, true]) assertInside(pulled(box, random.one(SIDES), dx, dy, size, keepsAspect), size);
  });
});

test("box that is moved keeps its size", () => {
  often((random) => {
    const size = randomSize(random);
    const box = randomBox(random, size);
    const after = moved(box, random.between(-9000, 9000), random.between(-9000, 9000), size);
    assert.deepEqual([after[2] - after[0], after[3] - after[1]], [box[2] - box[0], box[3] - box[1]]);
  });
});

test("box that is pulled at a side leaves the others", () => {
  const size = { width: 1000, height: 800 };
  assert.deepEqual(pulled([100, 100, 300, 200], "e", 50, 70, size), [100, 100, 350, 200]);
  assert.deepEqual(pulled([100, 100, 300, 200], "nw", -20, -30, size), [80, 70, 300, 200]);
  assert.deepEqual(pulled([100, 100, 300, 200], "e", -250, 0, size), [50, 100, 100, 200]); // turned over
});

test("box that is scaled keeps its opposite corner and its aspect", () => {
  often((random) => {
    const size = { width: 3000, height: 3000 };
    const box = [1000, 1200, 1000 + random.whole(100, 500), 1200 + random.whole(100, 500)];
    const after = pulled(box, "se", random.between(-80, 900), random.between(-80, 900), size, true);
    assert.deepEqual(after.slice(0, 2), box.slice(0, 2));
    const [w, h] = [after[2] - after[0], after[3] - after[1]];
    const expected = (box[3] - box[1]) / (box[2] - box[0]);
    assert.ok(Math.abs(h - w * expected) <= 0.5 + 0.5 * expected + 1e-9, `${w} x ${h} against ${expected}`);
  });
});

test("typed numbers are a box once all are there and is shifted, not cut", () => {
  const size = { width: 768, height: 768 };
  assert.equal(fromNumbers(["60", "", "", ""], size), null);
  assert.equal(fromNumbers(["60", "1", "0", "9"], size), null);
  assert.equal(fromNumbers(["60", "x", "3", "9"], size), null);
  assert.deepEqual(fromNumbers(["600", "10", "300", "20"], size), [468, 10, 768, 30]);
  assert.deepEqual(fromNumbers(["5", "5", "2000", "20"], size), [0, 5, 768, 25]);
});

test("a drag of a few pixels or a thin line draws no box", () => {
  assert.equal(isDrawn([0, 0, 7, 3], 1, 16), false);
  assert.equal(isDrawn([0, 0, 1, 378], 1, 16), false);
  assert.equal(isDrawn([0, 0, 7, 5], 4, 16), true);
});

test("image that fits leaves a margin and zooming keeps the place under the pointer", () => {
  assert.equal(fitScale({ width: 100, height: 100 }, { width: 232, height: 1000 }, 16, 12), 2);
  often((random) => {
    const size = randomSize(random);
    const pane = { width: random.whole(100, 3000), height: random.whole(100, 3000) };
    const scale = fitScale(size, pane, 16, 12);
    const view = { zoom: random.between(1, 5), center: { x: random.next(), y: random.next() } };
    const away = { x: random.between(-50, 50), y: random.between(-50, 50) };
    const zoom = random.between(1, 9);
    const shown = (one) => ({ width: size.width * scale * one, height: size.height * scale * one });
    const after = zoomedAt(view, zoom, away, shown(view.zoom));
    const place = (one) => [one.center.x + away.x / shown(one.zoom).width, one.center.y + away.y / shown(one.zoom).height];
    place(view).forEach((value, n) => assert.ok(Math.abs(value - place(after)[n]) < 1e-9));
  });
});

test("image leaves its pane by no more than the margin", () => {
  often((random) => {
    const [length, pane, margin] = [random.between(10, 9000), random.between(100, 2000), random.one([0, 48])];
    const center = clampCenter(random.between(-3, 4), length, pane, margin);
    const [start, end] = [pane / 2 - center * length, pane / 2 + (1 - center) * length];
    if (length + 2 * margin <= pane + 1) assert.equal(center, 0.5);
    else assert.ok(start <= margin + 1e-6 && end >= pane - margin - 1e-6, `${start} to ${end} in ${pane}`);
  });
});

test("a box is carried as the object's bounds change, and its arrow leads from one middle to the other", () => {
  often((random) => {
    const size = randomSize(random);
    const [from, box, to] = [1, 2, 3].map(() => randomBox(random, size));
    assert.deepEqual(carried(box, from, from, size), box);
    assert.deepEqual(carried(from, from, to, size), to);
    assertInside(carried(box, from, to, size), size);
    const way = arrow(from, box);
    const [dx, dy] = [0, 1].map((n) => (box[n] + box[n + 2] - from[n] - from[n + 2]) / 2);
    if (!way) return assert.ok(Math.hypot(dx, dy) < 1);
    assert.ok(Math.hypot(way.length * Math.cos(way.angle) - dx, way.length * Math.sin(way.angle) - dy) < 1e-6 * way.length);
  });
  assert.equal(arrow([1, 2, 3, 4], [1, 2, 3, 4]), null);
});
