import assert from "node:assert/strict";
import { test } from "node:test";
import { isMarked, NOTHING, readRegion, withPoint, withStroke } from "../../../src/joyimage/web/static/region.js";
import { findProblem, makeRequest } from "../../../src/joyimage/web/static/request.js";
import { often } from "./random.js";

const box = (x0, y0, x1, y1, erases = false) => ({ kind: "box", erases, points: [[x0, y0], [x1, y1]] });

test("a slip marks nothing, and inverting twice is as before", () => {
  assert.equal(withStroke(NOTHING, box(5, 5, 5, 9)), NOTHING);
  assert.equal(withStroke(NOTHING, { kind: "lasso", points: [[0, 0], [3, 3], [9, 1]] }), NOTHING);
  const one = withStroke(NOTHING, box(1, 1, 5, 9));
  assert.deepEqual(withStroke(withStroke(one, { kind: "invert" }), { kind: "invert" }), one);
  assert.equal(isMarked(NOTHING), false);
  assert.equal(isMarked(withStroke(NOTHING, box(0, 0, 9, 9, true))), false); // erasing nothing leaves nothing
  assert.equal(isMarked(withStroke(NOTHING, { kind: "invert" })), true);
});

test("points of a stroke are apart, a box has two, and no region is changed in place", () => {
  often((random) => {
    const kind = random.one(["brush", "lasso", "box"]);
    let stroke = { kind, erases: false };
    for (let n = 0; n < 40; n += 1) stroke = withPoint(stroke, { x: random.between(0, 60), y: random.between(0, 60) }, 8);
    if (kind === "box") assert.equal(stroke.points.length, 2);
    for (let n = 1; kind !== "box" && n < stroke.points.length; n += 1) {
      const [[x0, y0], [x1, y1]] = stroke.points.slice(n - 1, n + 1);
      assert.ok(Math.hypot(x1 - x0, y1 - y0) >= 7.99);
    }
    const before = structuredClone(NOTHING);
    const region = withStroke(NOTHING, stroke);
    assert.deepEqual(NOTHING, before);
    assert.deepEqual(readRegion(JSON.stringify(region)), region);
  }, 100);
  assert.equal(readRegion(""), NOTHING);
});

test("a run keeps to what is marked, at full resolution if asked, and says what is missing", () => {
  const mask = { ...withStroke(NOTHING, box(1, 1, 5, 9)), width: 20, height: 10 };
  const controls = { kind: "edit", form: { "prompt-edit": "Go.", feather: "3", "close-up": true }, box: null, view: "left", settings: { region: "1,2,3,4" }, pictures: ["a"], mask, isMasked: true, problem: null };
  assert.equal(findProblem(controls), null);
  const request = makeRequest(controls);
  assert.deepEqual(request.fields, { prompt: "Go.", feather: "3", close_up: "true", restore: "true" });
  assert.equal(request.mask, mask);
  assert.match(findProblem({ ...controls, mask: null }).sentence, /Mark the area/);
  assert.equal(makeRequest({ ...controls, kind: "move", mask }).mask, undefined);
  assert.deepEqual(makeRequest({ ...controls, mask: null, isMasked: false }).fields, { prompt: "Go.", region: "1,2,3,4" });
});
