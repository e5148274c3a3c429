import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { curlFile, pythonLiteral, quote, quotePath } from "../../../src/joyimage/web/static/quote.js";
import { often } from "./random.js";

const LETTERS = [..."ab -'\"\\$`!*?;&|<>(){}[]#~=%,:/.\né图😀\t"];

test("a quoted word is read by a shell letter by letter", () => {
  const words = [""];
  often((random) => words.push(Array.from({ length: random.whole(1, 12) }, () => random.one(LETTERS)).join("")));
  const printed = execFileSync("sh", ["-c", `printf '%s\\0' ${words.map(quote).join(" ")}`]).toString();
  assert.deepEqual(printed.split("\0").slice(0, -1), words);
});

test("no word is what zsh takes for a command", () => {
  assert.equal(quote("=ls"), "'=ls'");
  assert.equal(quote("--seed=3"), "--seed=3");
});

test("a path is never an option, and curl's form keeps the name of a file", () => {
  assert.equal(quotePath("--help"), "./--help");
  assert.equal(quotePath("my photo.png"), "'my photo.png'");
  assert.equal(curlFile("image", "a.png"), "-F 'image=@a.png'");
  assert.equal(curlFile("image", 'a;b,"c".png'), `-F 'image=@"a;b,\\"c\\".png"'`);
});

test("a value is written as Python reads it", () => {
  assert.equal(pythonLiteral([1, 2.5, true, 'say "hi"\n']), '[1, 2.5, True, "say \\"hi\\"\\n"]');
});
