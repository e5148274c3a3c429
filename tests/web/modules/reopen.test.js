import assert from "node:assert/strict";
import { test } from "node:test";
import { writeCommands } from "../../../src/joyimage/web/static/recipe.js";
import { formOf } from "../../../src/joyimage/web/static/reopen.js";
import { often } from "./random.js";

const IDS = new Map([["seed", "seed"], ["num_inference_steps", "steps"], ["object", "object"], ["fit", "fit"], ["yaw", "yaw"], ["pitch", "pitch"], ["zoom", "zoom"], ["prompt_style", "wording"], ["num_images", "n"]]);
const FRAMING = { edit: { restore: true, preserve: false }, move: { restore: true, preserve: true }, camera: { restore: false, preserve: false } };
const now = () => ({ mode: "edit", view: "left", "prompt-edit": "old", object: "old", seed: "9", steps: "", fit: "pad", yaw: "45", pitch: "0", zoom: "in", wording: "benchmark", n: "3", box: "1,2,3,4", framing: JSON.stringify(FRAMING) });

test("controls of a job are those of its edit, and nothing of what was there before", () => {
  often((random) => {
    const edit = { object: `car ${random.whole(0, 9)}`, box: [0, 1, 2, 3].map((n) => n * random.whole(2, 90)), preserve: random.next() < 0.5 };
    const form = formOf({ kind: "move", edit }, now(), IDS);
    assert.deepEqual([form.mode, form.object, form.box], ["move", edit.object, edit.box.join(",")]);
    assert.deepEqual([form.seed, form.steps, form.fit, form.n, form.wording], ["", "", "", "1", "documented"]);
    assert.deepEqual(JSON.parse(form.framing), { ...FRAMING, move: { restore: false, preserve: edit.preserve } });
    assert.equal(form["prompt-edit"], "old"); // no field of a move
  }, 50);
});

test("a job without its edit has no controls, and a box in shares none that the page shows", () => {
  assert.equal(formOf({ kind: "edit", edit: null }, now(), IDS), null);
  assert.equal(formOf({ kind: "move", edit: { object: "a", box: [0.1, 0.1, 0.5, 0.5] } }, now(), IDS).box, undefined);
  assert.equal(formOf({ kind: "move", edit: { object: "a", box: [9, 9, 5, 5], box_form: "xywh" } }, now(), IDS).box, undefined);
  const camera = formOf({ kind: "camera", edit: { pitch: 15 } }, now(), IDS);
  assert.deepEqual([camera.yaw, camera.pitch, camera.zoom], ["0", "15", "unchanged"]);
});

test("a command has an input although the server no longer has the image", () => {
  const schemas = { edit: { properties: { prompt: { type: "string", "x-flag": null, description: "" } } } };
  const job = { kind: "edit", edit: { prompt: "Go." }, prompt: "Go.", seed: null, steps: null, guidance: null };
  const results = { job, request: { kind: "edit", fields: {}, pictures: [] }, pictures: [], selected: 0 };
  for (const language of ["shell", "python", "curl"]) assert.match(writeCommands(results, schemas, language, "http://x", false, []), /input\.png/);
});
