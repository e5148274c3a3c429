/**
 * A plan: several steps that run one after the other, each on what the one before it made. Pure functions.
 *
 * A step is a request without its image. It knows nothing of its results: an attempt names the step that it was made for.
 */

import { findAttempt } from "./history.js";

/** @import { Box, Size } from "./geometry.js" */
/** @import { Attempt, Form, Project } from "./history.js" */
/** @import { Job, JobEvent, Pending, Request } from "./types.js" */

/**
 * @typedef {object} Step
 * @property {string} key
 * @property {Request} request Its first picture is filled in when it runs; further ones stay.
 * @property {Form} form What the controls said.
 * @property {Size} size Of the image that its box and its mask were drawn on.
 *
 * @typedef {"open" | "waiting" | "running" | "done"} Progress
 * @typedef {{project: string, parent: string | null, from: number, place: string}} Origin
 */

const MOST_STEPS = 20; // in one job
export const PLANNED = ["edit", "move", "rotate", "camera"];

/** Put a step where the one of its key is, else at the end. @param {Step[]} plan @param {Step} step @returns {Step[]} */
export function withStep(plan, step) {
  return plan.some(({ key }) => key === step.key) ? plan.map((one) => (one.key === step.key ? step : one)) : [...plan, step];
}

/** @param {Step[]} plan @param {string} key @returns {Step[]} */
export function withoutStep(plan, key) {
  return plan.filter((one) => one.key !== key);
}

/** Bring a step one place ahead (-1) or back (1). @param {Step[]} plan @param {string} key @param {-1 | 1} by @returns {Step[]} */
export function withMoved(plan, key, by) {
  const from = plan.findIndex((one) => one.key === key);
  const to = from + by;
  if (from < 0 || !plan[to]) return plan;
  const moved = [...plan];
  [moved[from], moved[to]] = [moved[to], moved[from]];
  return moved;
}

/**
 * Return the runs of a plan's steps: the first starts from an image, each other one from what the one before it makes.
 *
 * @param {Step[]} steps
 * @param {string} picture Id of the image that the first one starts from.
 * @param {Size} size Of that image.
 * @param {Origin} origin Where the first one's results belong.
 * @param {() => string} newKey
 * @returns {Pending[]}
 */
export function runsOf(steps, picture, size, origin, newKey) {
  const isOneJob = steps.length > 1 && steps.length <= MOST_STEPS && steps.every(({ request }) => canBePartOfAJob(request));
  /** @type {string | null} */
  let before = null;
  let first = "";
  return steps.map((step, number) => {
    const key = newKey();
    first ||= key;
    const part = isOneJob ? { plan: { key: first, number } } : {};
    const pending = { key, request: step.request, jobId: null, form: step.form, ...origin, step: step.key, drawnOn: step.size, after: before, ...part };
    before = key;
    return pending.after ? pending : placed(pending, picture, size);
  });
}

/**
 * Give the runs that wait for another one what it made.
 *
 * @param {Pending[]} queue
 * @param {Pending} done
 * @param {{attempt: string, picture: string, size: Size}} made
 * @returns {Pending[]}
 */
export function handedOn(queue, done, { attempt, picture, size }) {
  return queue.map((one) => (one.after === done.key ? placed({ ...one, after: null, parent: attempt, from: 0, place: attempt }, picture, size) : one));
}

/** Leave out a run and all that wait for what it would have made. @param {Pending[]} queue @param {string} key @returns {Pending[]} */
export function withoutRun(queue, key) {
  const gone = new Set([key]);
  return queue.filter((one) => {
    if (!gone.has(one.key) && !gone.has(one.after ?? "")) return true;
    gone.add(one.key);
    return false;
  });
}

/** Tell whether a step makes one image of one: else each is a job of its own. @param {Request} request */
function canBePartOfAJob({ pictures, fields }) {
  return pictures.length === 1 && (fields.num_images ?? "1") === "1";
}

/** List the runs that are one job with a run, in order. @param {Pending[]} queue @param {Pending} pending @returns {Pending[]} */
export function runsWith(queue, pending) {
  return queue.filter((one) => one === pending || (one.plan && one.plan.key === pending.plan?.key));
}

/**
 * Return what is sent of a plan's step. How large the image of a later step will be is not known yet: its box is sent as shares
 * of it.
 *
 * @param {Pending} pending
 * @param {string | null} mask A data URL.
 * @returns {Record<string, string>}
 */
export function stepFields({ request: { kind, fields }, plan, drawnOn }, mask) {
  const { box } = fields;
  const sent = { kind, ...fields, ...(mask ? { mask } : {}) };
  if (!box || !plan?.number || !drawnOn) return sent;
  const sides = [drawnOn.width, drawnOn.height];
  return { ...sent, box: box.split(",").map((side, n) => (Number(side) / sides[n % 2]).toFixed(6)).join(",") };
}

/** Tell whether an event says that a step of a job has made its image. @param {JobEvent} event @param {number} number Of the step, from 0. */
export function isStepOver({ state, plan_step: at = 0, steps }, number) {
  return state === "running" && (at > number + 1 || (at === number + 1 && steps === undefined));
}

/**
 * Return a step of a plan's job as if it were a job of its own.
 *
 * @param {Job} job
 * @param {number} number Of the step, from 0.
 * @returns {Job} The whole job where the step has made no image.
 */
export function jobOfStep(job, number) {
  const step = job.plan?.[number];
  if (!step?.image) return job;
  const { image, mask, ...known } = step;
  return { ...job, ...known, id: `${job.id}-${number + 1}`, plan: null, part: { job: job.id, number }, text: null, error: null, images: [image], inputs: number ? [] : job.inputs };
}

/** List the steps of a plan's job that have made their image, each as if it were a job of its own. @param {Job} job @returns {Job[]} */
export function jobsOfSteps(job) {
  return (job.plan ?? []).map((_, number) => jobOfStep(job, number)).filter((one) => one.part);
}

/** Put the image into a run, and its box and its mask to the same place of that image. @param {Pending} pending @param {string} picture @param {Size} size @returns {Pending} */
function placed(pending, picture, size) {
  const { request, drawnOn = size } = pending;
  const [across, down] = [size.width / drawnOn.width, size.height / drawnOn.height];
  const { box } = request.fields;
  /** @type {Record<string, string>} */
  const scaled = box && (across !== 1 || down !== 1) ? { box: scaleBox(/** @type {Box} */ (box.split(",").map(Number)), across, down).join(",") } : {};
  const mask = request.mask && { ...request.mask, ...size, strokes: request.mask.strokes.map((stroke) => scaleStroke(stroke, across, down)) };
  const pictures = [picture, ...request.pictures.slice(1)];
  return { ...pending, request: { ...request, fields: { ...request.fields, ...scaled }, pictures, ...(mask ? { mask } : {}) } };
}

/** @param {Box} box @param {number} across @param {number} down @returns {Box} At least a pixel wide and high. */
function scaleBox([left, top, right, bottom], across, down) {
  const [x, y] = [Math.round(left * across), Math.round(top * down)];
  return [x, y, Math.max(x + 1, Math.round(right * across)), Math.max(y + 1, Math.round(bottom * down))];
}

/** @param {import("./region.js").Stroke} stroke @param {number} across @param {number} down */
function scaleStroke(stroke, across, down) {
  const { width, points } = stroke;
  return {
    ...stroke,
    ...(width ? { width: width * Math.sqrt(across * down) } : {}),
    ...(points ? { points: points.map(([x, y]) => /** @type {[number, number]} */ ([x * across, y * down])) } : {}),
  };
}

/** Return the newest attempt that was made for a step. @param {Project | null} project @param {Step} step @returns {Attempt | null} */
export function attemptOf(project, { key }) {
  return project?.attempts.findLast((one) => one.step === key) ?? null;
}

/** Tell how far a step is. @param {Project | null} project @param {Pending[]} queue @param {Step} step @returns {Progress} */
export function progressOf(project, queue, step) {
  const place = queue.findIndex((one) => one.step === step.key);
  if (place >= 0) return place ? "waiting" : "running";
  return attemptOf(project, step) ? "done" : "open";
}

/**
 * Return where a step starts if it is run again: from what its last attempt started from.
 *
 * @param {Project | null} project
 * @param {Step[]} plan
 * @param {string} key
 * @returns {{attempt: string, number: number, picture: string} | null} Null where nothing is known to start from.
 */
export function startOf(project, plan, key) {
  const place = plan.findIndex((one) => one.key === key);
  if (place < 0) return null;
  const own = attemptOf(project, plan[place]);
  const before = place > 0 ? attemptOf(project, plan[place - 1]) : null;
  // What the step before it made last counts: it may have been redone since.
  const [id, number] = before ? [before.id, before.selected] : [own?.parent ?? null, own?.from ?? 0];
  const source = id === null ? null : findAttempt(project, id);
  const picture = source?.pictures[number];
  return source && picture ? { attempt: source.id, number, picture } : null;
}

/** Say what a step does, in a few words. @param {Request} request */
export function nameStep({ kind, fields }) {
  if (kind === "move") return `Move ${fields.object}`;
  if (kind === "rotate") return `Rotate ${fields.object}: ${fields.view}`;
  if (kind === "camera") return `Camera ${fields.yaw ?? 0}°, ${fields.pitch ?? 0}°${fields.zoom && fields.zoom !== "unchanged" ? `, zoom ${fields.zoom}` : ""}`;
  return fields.prompt ?? fields.question ?? "Describe the picture";
}
