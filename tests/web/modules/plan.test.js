import assert from "node:assert/strict";
import { test } from "node:test";
import { newProject, ROOT, withAttempt } from "../../../src/joyimage/web/static/history.js";
import { handedOn, isStepOver, jobOfStep, jobsOfSteps, progressOf, runsOf, runsWith, startOf, stepFields, withMoved, withoutRun, withoutStep, withStep } from "../../../src/joyimage/web/static/plan.js";
import { often } from "./random.js";

const SIZE = { width: 400, height: 300 };
const origin = { project: "p", parent: ROOT, from: 0, place: ROOT };
const step = (key, fields = {}, mask) => ({ key, request: { kind: "move", fields: { object: key, ...fields }, pictures: [""], ...(mask ? { mask } : {}) }, form: {}, size: SIZE });
const keys = () => {
  let n = 0;
  return () => `run ${(n += 1)}`;
};

test("each step starts from what the one before it makes, at the same place of whatever size that has", () => {
  const mask = { strokes: [{ kind: "brush", width: 10, points: [[100, 150]] }], protects: false, ...SIZE };
  const runs = runsOf([step("a"), step("b", { box: "100,60,200,160" }, mask), step("c")], "opened", SIZE, origin, keys());
  assert.deepEqual(runs.map(({ after }) => after), [null, "run 1", "run 2"]);
  assert.deepEqual(runs[0].request.pictures, ["opened"]);

  const [, second, third] = handedOn(runs, runs[0], { attempt: "job", picture: "made", size: { width: 200, height: 150 } });
  assert.deepEqual([second.after, second.parent, second.place, second.request.pictures], [null, "job", "job", ["made"]]);
  assert.equal(second.request.fields.box, "50,30,100,80");
  assert.deepEqual(second.request.mask.strokes, [{ kind: "brush", width: 5, points: [[50, 75]] }]);
  assert.deepEqual([second.request.mask.width, second.request.mask.height], [200, 150]);
  assert.equal(third.after, "run 2");
  assert.equal(runs[1].request.fields.box, "100,60,200,160", "the plan itself stays as it was drawn");
});

test("a run that fails takes those with it that wait for it, and no other", () => {
  often((random) => {
    const count = random.whole(1, 6);
    const runs = runsOf(Array.from({ length: count }, (_, n) => step(`s${n}`)), "opened", SIZE, origin, keys());
    const other = { ...runs[0], key: "other", step: null, after: null };
    const failed = random.whole(0, count - 1);
    const left = withoutRun([...runs, other], runs[failed].key);
    assert.deepEqual(left, [...runs.slice(0, failed), other]);
  }, 50);
});

test("a box stays a box, however small the image becomes", () => {
  often((random) => {
    const [left, top] = [random.whole(0, 300), random.whole(0, 200)];
    const box = [left, top, left + random.whole(1, 99), top + random.whole(1, 99)];
    const size = { width: random.whole(2, 900), height: random.whole(2, 900) };
    const [run] = runsOf([step("a", { box: box.join(",") })], "opened", size, origin, keys());
    const [x0, y0, x1, y1] = run.request.fields.box.split(",").map(Number);
    assert.ok(x0 >= 0 && y0 >= 0 && x1 > x0 && y1 > y0 && x1 <= size.width + 1 && y1 <= size.height + 1);
  });
});

test("a step is redone from what the step before it made last", () => {
  const plan = [step("a"), step("b")];
  let project = newProject("p", "a.png", 0, "opened");
  assert.equal(startOf(project, plan, "a"), null);
  const made = (id, parent, key) => ({ id, parent, from: 0, at: 1, job: null, request: null, pictures: [`picture of ${id}`], selected: 0, form: null, step: key });
  project = withAttempt(withAttempt(project, made("first", ROOT, "a")), made("second", "first", "b"));
  assert.equal(startOf(project, plan, "a").picture, "opened");
  assert.equal(startOf(project, plan, "b").attempt, "first");
  project = withAttempt(project, made("again", ROOT, "a"));
  assert.equal(startOf(project, plan, "b").attempt, "again");
  assert.equal(startOf(newProject("q", "b.png", 0, "another"), plan, "b"), null);
  assert.deepEqual(plan.map((one) => progressOf(project, [], one)), ["done", "done"]);
  assert.deepEqual(plan.map((one) => progressOf(project, [{ step: "x" }, { step: "b" }], one)), ["done", "waiting"]);
});

test("steps are added, changed in their place, ordered and removed", () => {
  let plan = ["a", "b", "c"].reduce((all, key) => withStep(all, step(key)), []);
  plan = withStep(plan, step("b", { object: "changed" }));
  assert.deepEqual(plan.map(({ request }) => request.fields.object), ["a", "changed", "c"]);
  assert.deepEqual(withMoved(plan, "c", -1).map(({ key }) => key), ["a", "c", "b"]);
  assert.equal(withMoved(plan, "a", -1), plan);
  assert.deepEqual(withoutStep(plan, "a").map(({ key }) => key), ["b", "c"]);
});

test("steps that make one image of one are one job; its later boxes are shares of what they get", () => {
  const runs = runsOf([step("a", { box: "100,60,200,160" }), step("b", { box: "100,60,200,150" })], "opened", SIZE, origin, keys());
  assert.deepEqual(runs.map(({ plan }) => plan), [{ key: "run 1", number: 0 }, { key: "run 1", number: 1 }]);
  assert.deepEqual(runsWith([...runs, { key: "other" }], runs[0]), runs);
  assert.deepEqual(stepFields(runs[0], null), { kind: "move", object: "a", box: "100,60,200,160" });
  assert.deepEqual(stepFields(runs[1], "data:,x"), { kind: "move", object: "b", box: "0.250000,0.200000,0.500000,0.500000", mask: "data:,x" });

  const planOf = (...steps) => runsOf(steps, "opened", SIZE, origin, keys()).map(({ plan }) => plan);
  assert.deepEqual(planOf(step("a")), [undefined]);
  assert.deepEqual(planOf(step("a"), step("b", { num_images: "4" })), [undefined, undefined]);
  const several = step("c");
  several.request = { ...several.request, pictures: ["", "further"] };
  assert.deepEqual(planOf(step("a"), several), [undefined, undefined]);
  assert.deepEqual(new Set(planOf(...Array.from({ length: 21 }, (_, n) => step(`s${n}`)))), new Set([undefined]));
});

test("a step of a plan is over as soon as its image is there, and then stands for a job of its own", () => {
  assert.equal(isStepOver({ state: "running", plan_step: 2, steps: 9, step: 3 }, 1), false);
  assert.equal(isStepOver({ state: "running", plan_step: 2 }, 1), true);
  assert.equal(isStepOver({ state: "running", plan_step: 3, steps: 9, step: 7 }, 1), true);
  assert.equal(isStepOver({ state: "running" }, 1), false);

  const made = (kind, image) => ({ kind, state: image ? "succeeded" : "failed", image, mask: null, seed: 7 });
  const job = { id: "j", kind: "plan", state: "failed", seed: null, images: ["0"], inputs: ["i"], error: { message: "no" }, plan: [made("move", "0"), made("edit", null)] };
  const first = jobOfStep(job, 0);
  assert.deepEqual([first.id, first.kind, first.state, first.seed, first.images, first.inputs, first.error], ["j-1", "move", "succeeded", 7, ["0"], ["i"], null]);
  assert.deepEqual(first.part, { job: "j", number: 0 });
  assert.equal(jobOfStep(job, 1), job);
  assert.deepEqual(jobsOfSteps(job), [first]);
});
