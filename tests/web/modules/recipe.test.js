import assert from "node:assert/strict";
import { test } from "node:test";
import { fileNames, writeCommands } from "../../../src/joyimage/web/static/recipe.js";

test("no two files of a command have the same name, and no input is written over", () => {
  const inputs = ["image.png", "Image.png", "result.png", "image.png", "noending", "noending", "region.png"];
  const found = fileNames("shell", inputs);
  assert.deepEqual(found.inputs, ["image.png", "Image-2.png", "result.png", "image-3.png", "noending", "noending-2", "region.png"]);
  assert.deepEqual([found.mask, found.output], ["region-2.png", "result-2.png"]);
  assert.equal(fileNames("curl", ["a.png"]).mask, "mask.png");
});

test("commands name the files so in every language", () => {
  const schemas = { edit: { properties: { prompt: { type: "string" }, region: { type: "string", "x-flag": "--region" } } } };
  const job = { kind: "edit", prompt: "x", edit: { prompt: "x" }, seed: null, steps: null, guidance: null, has_mask: true };
  const results = { job, request: { kind: "edit", fields: {}, pictures: ["a", "b"] }, pictures: [], selected: 0 };
  for (const [language, mask] of [["shell", "region.png"], ["python", "mask-2.png"], ["curl", "mask-2.png"]]) {
    const text = writeCommands(results, schemas, language, "http://x", false, ["result.png", "mask.png"]);
    for (const name of ["result.png", "mask.png", mask, "result-2.png"]) assert.ok(text.includes(name), `${language}: ${name}\n${text}`);
  }
});
