import assert from "node:assert/strict";
import { test } from "node:test";
import { newProject, ROOT, withAttempt } from "../../../src/joyimage/web/static/history.js";
import { openRaster } from "../../../src/joyimage/web/static/ora.js";
import { makeRequest } from "../../../src/joyimage/web/static/request.js";
import { around, turntable } from "../../../src/joyimage/web/static/sweep.js";
import { VIEWS } from "../../../src/joyimage/web/static/words.js";
import { often } from "./random.js";

const controls = (kind, settings = {}) => ({ kind, form: { object: "car", yaw: "30", pitch: "15", zoom: "in", wording: "documented" }, box: null, view: "left", settings, pictures: ["a"], mask: null, isMasked: false, problem: null });

test("all views and a whole orbit are asked for once each, with one seed", () => {
  const turned = around(controls("rotate"), 7).map(makeRequest);
  assert.deepEqual(turned.map(({ fields }) => fields.view), VIEWS);
  assert.deepEqual([...new Set(turned.map(({ fields }) => fields.seed))], ["7"]);
  const moved = around(controls("camera", { seed: "3" }), 7).map(makeRequest);
  assert.deepEqual(moved.map(({ fields }) => Number(fields.yaw)).sort((a, b) => a - b), [-135, -90, -45, 45, 90, 135, 180]);
  assert.ok(moved.every(({ fields }) => fields.seed === "3" && fields.pitch === "15" && fields.zoom === "unchanged"));
});

test("a turntable has the views of one image in order, whatever the order of the runs", () => {
  often((random) => {
    let project = newProject("p", "a.png", 0, "opened");
    const views = [...VIEWS].sort(() => random.next() - 0.5);
    const add = (id, parent, kind, fields) => {
      project = withAttempt(project, { id, parent, from: 0, at: 1, job: { kind, edit: fields }, request: null, pictures: [`picture of ${id}`], selected: 0, form: null });
    };
    for (const view of views) add(view, ROOT, "rotate", { view });
    add("of a result", views[0], "rotate", { view: "left" });
    add("a move", ROOT, "move", {});
    for (const yaw of [90, -90, 180]) add(`camera ${yaw}`, ROOT, "camera", { yaw });
    add("higher", ROOT, "camera", { yaw: 45, pitch: 30 });

    assert.deepEqual(turntable(project, random.one(views)).map(({ picture }) => picture), VIEWS.map((view) => `picture of ${view}`));
    assert.deepEqual(turntable(project, "camera 90").map(({ label }) => label), ["0°", "90°", "180°", "270°"]);
    for (const id of ["higher", "of a result", "a move", ROOT]) assert.deepEqual(turntable(project, id), []);
  }, 30);
});

test("OpenRaster begins with its type, and names are safe in XML", async () => {
  const data = new Uint8Array([1, 2, 3]);
  const file = openRaster({ width: 4, height: 2 }, [{ name: 'a <b> & "c"', data, left: 3, top: 1, isVisible: true }], data, data);
  const text = Buffer.from(await file.arrayBuffer()).toString("latin1");
  assert.equal(text.slice(30, 54), "mimetypeimage/openraster");
  assert.match(text, /name="a &lt;b> &amp; &quot;c&quot;" src="data\/layer0.png"/);
});
