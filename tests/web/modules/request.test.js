import assert from "node:assert/strict";
import { test } from "node:test";
import { findProblem, makeRequest } from "../../../src/joyimage/web/static/request.js";
import { often } from "./random.js";

const KINDS = ["edit", "move", "rotate", "camera", "generate", "describe"];
const FORM = { "prompt-edit": "Recolor it.", "prompt-generate": "A star.", object: "car", question: "What?", yaw: "45", pitch: "0", zoom: "unchanged", wording: "documented" };
const complete = (kind) => ({ kind, form: FORM, box: [1, 2, 30, 40], view: "left", settings: {}, mask: null, isMasked: false, pictures: ["a"], problem: null });

test("what is missing is said, with the control that it belongs to", () => {
  for (const kind of KINDS) assert.equal(findProblem(complete(kind)), null);
  for (const kind of KINDS) assert.equal(findProblem({ ...complete(kind), pictures: [] })?.focus ?? null, kind === "generate" ? null : "choose");
  const empty = (kind, id) => findProblem({ ...complete(kind), form: { ...FORM, [id]: "  " } })?.focus;
  assert.equal(empty("edit", "prompt-edit"), "prompt-edit");
  assert.equal(empty("generate", "prompt-generate"), "prompt-generate");
  assert.equal(empty("move", "object"), "object");
  assert.equal(empty("rotate", "object"), "object");
  assert.equal(empty("describe", "question"), undefined); // a description
});

test("a box that is half typed asks for the side that is missing", () => {
  const form = { ...FORM, "box-left": "6", "box-top": "4", "box-width": "", "box-height": "" };
  assert.equal(findProblem({ ...complete("move"), box: null, form })?.focus, "box-width");
  assert.equal(findProblem({ ...complete("move"), box: null })?.focus, "box-add");
});

test("a request has the fields of its kind and the settings, and nothing of other kinds", () => {
  often((random) => {
    const kind = random.one(KINDS);
    const settings = random.one([{}, { seed: "7" }, { seed: "7", size: "96x96" }]);
    const { fields, pictures } = makeRequest({ ...complete(kind), settings });
    const own = { edit: ["prompt"], move: ["prompt_style", "object", "box"], rotate: ["prompt_style", "object", "view"], camera: ["prompt_style", "yaw", "pitch", "zoom"], generate: ["prompt"], describe: ["question"] };
    assert.deepEqual(Object.keys(fields).sort(), [...own[kind], ...Object.keys(settings)].sort());
    assert.deepEqual(pictures, kind === "generate" ? [] : ["a"]);
  });
});
