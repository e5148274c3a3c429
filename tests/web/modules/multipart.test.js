import assert from "node:assert/strict";
import { test } from "node:test";
import { multipart } from "../../../src/joyimage/web/static/multipart.js";
import { often } from "./random.js";

const LETTERS = [..."ab\"\\-=%;\n\té图😀"];

test("a form is read as it was written, line breaks included", async () => {
  const forms = [];
  often((random) => {
    const text = () => Array.from({ length: random.whole(0, 12) }, () => random.one(LETTERS)).join("");
    forms.push({ fields: { prompt: text(), kind: text() }, content: Uint8Array.from({ length: random.whole(0, 40) }, () => random.whole(0, 255)), name: text().replaceAll(/["\n\\%]/g, "") || "a" });
  }, 30);
  for (const { fields, content, name } of forms) {
    const body = multipart(fields, [{ field: "image", blob: new Blob([content], { type: "image/png" }), name }], "0123456789abcdef");
    const read = await new Response(body).formData();
    assert.equal(read.get("prompt"), fields.prompt);
    assert.equal(read.get("kind"), fields.kind);
    assert.equal(read.get("image").name, name);
    assert.equal(read.get("image").type, "image/png");
    assert.deepEqual(new Uint8Array(await read.get("image").arrayBuffer()), content);
  }
});

test("a name of a file ends nothing, and a line break is one character", async () => {
  const text = await multipart({ prompt: "a\r\nb\rc" }, [{ field: "image", blob: new Blob([]), name: 'x"\r\ny' }], "0a").text();
  assert.ok(text.includes("\r\n\r\na\nb\nc\r\n--0a\r\n"));
  assert.ok(text.includes('filename="x%22%0D%0Ay"'));
});
