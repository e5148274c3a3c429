import assert from "node:assert/strict";
import { test } from "node:test";
import { canStep, findAttempt, inOrder, inputOf, merged, nameOf, newProject, NO_PAST, picturesOf, recorded, ROOT, sourceOf, stepped, withAttempt, withoutProject, withSelected } from "../../../src/joyimage/web/static/history.js";
import { often } from "./random.js";

const attempt = (id, parent, { from = 0, at = 1, pictures = [`${id}-0`], kind = "edit" } = {}) => ({
  id, parent, from, at, pictures, selected: 0, form: null, request: { kind, fields: {}, pictures: [`input-of-${id}`] }, job: { kind, prompt: id },
});

function randomProject(random, id = "p") {
  let project = newProject(id, "a.png", 0, "opened");
  for (let n = 1; n <= random.whole(0, 12); n += 1) {
    const parent = random.one(project.attempts);
    project = withAttempt(project, attempt(`${random.whole(0, 1e6)}`, parent.id, { at: n, pictures: ["x", "y"], from: random.whole(0, parent.pictures.length - 1) }));
  }
  return project;
}

test("attempts of the same image are siblings and edits of a result are children", () => {
  let project = newProject("p", "a.png", 0, "opened");
  project = withAttempt(project, attempt("one", ROOT));
  project = withAttempt(project, attempt("two", ROOT, { pictures: ["two-0", "two-1"] }));
  project = withAttempt(project, attempt("three", "one", { kind: "move" }));

  assert.deepEqual(inOrder(project).map(({ attempt: { id }, depth }) => [id, depth]), [[ROOT, 0], ["one", 1], ["three", 2], ["two", 1]]);
  assert.deepEqual(["root", "one", "two", "three"].map((id) => nameOf(project, id)), ["Original", "Edit 1", "Edit 2", "Move 3"]);
  assert.equal(inputOf(project, "three").picture, "one-0");
  assert.equal(inputOf(project, ROOT), null);
});

test("next run starts from the result or from what that was made of", () => {
  let project = withAttempt(newProject("p", "a.png", 0, "opened"), attempt("one", ROOT, { pictures: ["one-0", "one-1"] }));
  project = withSelected(project, "one", 1);

  assert.deepEqual(sourceOf(project, "one", "result"), { attempt: "one", number: 1, picture: "one-1" });
  assert.deepEqual(sourceOf(project, "one", "original"), { attempt: ROOT, number: 0, picture: "opened" });
  assert.deepEqual(sourceOf(project, ROOT, "original"), { attempt: ROOT, number: 0, picture: "opened" });
  assert.equal(sourceOf(newProject("p", "new", 0, null), ROOT, "result"), null);
});

test("no attempt is ever lost or changed when another one is added", () => {
  often((random) => {
    const project = randomProject(random);
    const more = withAttempt(project, attempt("new", random.one(project.attempts).id, { at: 99 }));
    assert.deepEqual(more.attempts.slice(0, -1), project.attempts);
    assert.equal(withAttempt(more, attempt("new", ROOT)), more); // it is there already
    assert.equal(inOrder(more).length, more.attempts.length);
    for (const { pictures } of more.attempts) for (const id of pictures) assert.ok(picturesOf(more).includes(id));
  }, 200);
});

test("project of two tabs has the attempts of both", () => {
  often((random) => {
    const shared = randomProject(random);
    const one = withAttempt(shared, attempt("a", ROOT, { at: 50 }));
    const other = withAttempt(shared, attempt("b", ROOT, { at: 51 }));
    const [first, second] = [merged(one, other), merged(other, one)];
    assert.deepEqual(first.attempts, second.attempts);
    assert.equal(first.attempts[0].id, ROOT);
    for (const { id } of [...one.attempts, ...other.attempts]) assert.ok(findAttempt(first, id));
    assert.deepEqual(merged(first, first), first);
  }, 200);
});

test("project of two tabs has the newer name and the newer draft", () => {
  const shared = newProject("p", "a.png", 0, "opened");
  const one = { ...shared, name: "Dunes", named: 5, draft: { at: 7, place: ROOT, base: "result", form: { prompt: "one" } } };
  const other = { ...shared, draft: { at: 8, place: ROOT, base: "result", form: { prompt: "other" } } };
  for (const both of [merged(one, other), merged(other, one)]) {
    assert.equal(both.name, "Dunes");
    assert.equal(both.draft.form.prompt, "other");
  }
  assert.equal("draft" in merged(shared, shared), false);
});

test("undo skips a project that was deleted", () => {
  const made = ["p", "q", "p", "q"].map((project, n) => ({ project, place: ROOT, base: "result", form: { prompt: `${n}` } }));
  for (const [at, left] of [[3, 1], [2, 1], [1, 0], [0, 0]]) {
    assert.deepEqual(withoutProject({ states: made, at }, "q"), { states: [made[0], made[2]], at: left });
  }
  assert.deepEqual(withoutProject({ states: [made[1]], at: 0 }, "q"), NO_PAST);
});

test("undo and redo walk through every recorded state and back", () => {
  often((random) => {
    const made = Array.from({ length: random.whole(1, 20) }, (_, n) => ({ project: "p", place: ROOT, base: "result", form: { prompt: `${n}` } }));
    let past = made.reduce(recorded, NO_PAST);
    assert.equal(recorded(past, structuredClone(made.at(-1))), past); // nothing has changed
    assert.equal(recorded(past, { ...made.at(-1), form: { ...made.at(-1).form, "field-new": "" } }), past); // an empty control has come
    for (let n = made.length - 1; n > 0; n -= 1) {
      past = stepped(past, -1);
      assert.deepEqual(past.states[past.at], made[n - 1]);
    }
    assert.equal(canStep(past, -1), false);
    assert.equal(stepped(past, -1), past);
    for (let n = 1; n < made.length; n += 1) past = stepped(past, 1);
    assert.deepEqual(past.states[past.at], made.at(-1));
    const branched = recorded(stepped(past, -1), { project: "q", place: ROOT, base: "result", form: {} });
    assert.equal(canStep(branched, 1), false);
  }, 200);
});
