import assert from "node:assert/strict";
import { test } from "node:test";
import { layOut } from "../../../src/joyimage/web/static/layers.js";
import { often } from "./random.js";

const attempt = (id, parent, fit) => ({ id, parent, job: parent && { edit: fit ? { fit } : {} }, request: null });
const place = (left, top, width, height) => ({ left, top, width, height });

test("a cropped result lies on the middle of what it was made of, a whole one on all of it", () => {
  const attempts = [attempt("root", null), attempt("part", "root", "crop"), attempt("whole", "part", "exact"), attempt("same", "root")];
  const sizes = new Map([["root", { width: 900, height: 600 }], ["part", { width: 300, height: 300 }], ["whole", { width: 320, height: 280 }], ["same", { width: 900, height: 600 }]]);
  const { size, places } = layOut(attempts, sizes);
  assert.deepEqual(size, { width: 900, height: 600 });
  assert.deepEqual(Object.fromEntries(places), { root: place(0, 0, 900, 600), part: place(150, 0, 600, 600), whole: place(150, 0, 600, 600), same: place(0, 0, 900, 600) });
});

test("no image loses pixels, and all lie on the canvas", () => {
  often((random) => {
    const any = () => ({ width: random.whole(8, 1500), height: random.whole(8, 1500) });
    const fits = ["crop", "pad", "exact", undefined];
    const attempts = [attempt("root", null), attempt("a", "root", fits[random.whole(0, 3)]), attempt("b", "a", fits[random.whole(0, 3)])];
    const sizes = new Map(attempts.map(({ id }) => [id, any()]));
    const { size, places } = layOut(attempts, sizes);
    for (const [id, one] of places) {
      assert.ok(one.left >= 0 && one.top >= 0 && one.left + one.width <= size.width && one.top + one.height <= size.height, id);
      if (Math.max(size.width, size.height) < 8192) assert.ok(one.width >= sizes.get(id).width - 1 && one.height >= sizes.get(id).height - 1, id);
    }
  });
});

test("created images stand side by side in time, each at its own size", () => {
  const { size, places } = layOut([attempt("root", null), attempt("one", "root"), attempt("two", "root")], new Map([["one", { width: 40, height: 30 }], ["two", { width: 20, height: 50 }]]));
  assert.deepEqual(size, { width: 40, height: 50 });
  assert.deepEqual(places.get("two"), place(0, 0, 20, 50));
});
