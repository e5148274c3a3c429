/**
 * A project: an image and everything that was made of it, as a tree. Each run is an attempt; another prompt or seed for
 * the same image is a sibling, an edit of a result is a child. Attempts are only ever added.
 *
 * Undo and redo step through what the page looked like: the place in the tree, and what the controls said.
 *
 * Pure functions over plain objects: nothing here changes its arguments.
 */

/** @import { Step } from "./plan.js" */
/** @import { Job, Request } from "./types.js" */

/** @typedef {Record<string, string | boolean>} Form What the controls say, by the id of each. */

/**
 * @typedef {object} Attempt
 * @property {string} id "root", or that of its job.
 * @property {string | null} parent Id of the attempt whose result it started from; null for the root.
 * @property {number} from Which of the parent's results.
 * @property {number} at When it ended, in ms.
 * @property {Job | null} job Null for the root.
 * @property {Request | null} request Null where another page asked for it.
 * @property {string[]} pictures Ids of its results; of the root: the image that was opened, if any.
 * @property {number} selected
 * @property {Form | null} form What the controls said when it was run; null where that is unknown.
 * @property {string | null} [step] Key of the step of a plan that it was made for.
 *
 * @typedef {object} Project
 * @property {string} id
 * @property {string} name
 * @property {number} at When it was last changed, in ms.
 * @property {number} [named] When somebody named it, in ms.
 * @property {Attempt[]} attempts The root first, then by time.
 * @property {Draft} [draft] What was being worked on when the project was left; missing before.
 *
 * @typedef {{at: number, place: string, base: Base, form: Form}} Draft
 *
 * @typedef {{attempt: string, number: number, picture: string}} Source An image that a run starts from.
 * @typedef {"result" | "original"} Base What the next run starts from: the result that is shown, or what it was made of.
 *
 * @typedef {{project: string | null, place: string, base: Base, plan: Step[], form: Form}} Snapshot
 * @typedef {{states: Snapshot[], at: number}} Past
 */

export const ROOT = "root";
const MOST_STATES = 200;
const NAMES = { edit: "Edit", move: "Move", rotate: "Rotate", camera: "Camera", generate: "Create", describe: "Ask" };

/**
 * Start a project.
 *
 * @param {string} id
 * @param {string} name
 * @param {number} at
 * @param {string | null} picture The image that was opened; null where the first one is to be created.
 * @returns {Project}
 */
export function newProject(id, name, at, picture) {
  const root = { id: ROOT, parent: null, from: 0, at, job: null, request: null, pictures: picture ? [picture] : [], selected: 0, form: null };
  return { id, name, at, attempts: [root] };
}

/** Add an attempt; one that is there already stays as it is. @param {Project} project @param {Attempt} attempt @returns {Project} */
export function withAttempt(project, attempt) {
  if (findAttempt(project, attempt.id)) return project;
  return { ...project, at: Math.max(project.at, attempt.at), attempts: [...project.attempts, attempt] };
}

/** Choose one of an attempt's results. @param {Project} project @param {string} id @param {number} selected @returns {Project} */
export function withSelected(project, id, selected) {
  const attempts = project.attempts.map((one) => (one.id === id && selected < one.pictures.length ? { ...one, selected } : one));
  return { ...project, attempts };
}

/** @param {Project | null} project @param {string} id @returns {Attempt | null} */
export function findAttempt(project, id) {
  return project?.attempts.find((one) => one.id === id) ?? null;
}

/**
 * Return the image that an attempt was made of.
 *
 * @param {Project | null} project
 * @param {string} id
 * @returns {Source | null} Null for the root and where nothing went in, or it is unknown.
 */
export function inputOf(project, id) {
  const attempt = findAttempt(project, id);
  const parent = attempt?.parent ? findAttempt(project, attempt.parent) : null;
  const picture = parent?.pictures[attempt?.from ?? 0];
  return attempt && parent && picture ? { attempt: parent.id, number: attempt.from, picture } : null;
}

/**
 * Return the image that the next run starts from.
 *
 * @param {Project | null} project
 * @param {string} place Id of the attempt that is shown.
 * @param {Base} base
 * @returns {Source | null}
 */
export function sourceOf(project, place, base) {
  const input = base === "original" ? inputOf(project, place) : null;
  if (input) return input;
  const attempt = findAttempt(project, place);
  const picture = attempt?.pictures[attempt.selected];
  return attempt && picture ? { attempt: attempt.id, number: attempt.selected, picture } : null;
}

/**
 * List the attempts so that each comes after the one it started from, its siblings by time.
 *
 * @param {Project} project
 * @returns {{attempt: Attempt, depth: number}[]}
 */
export function inOrder(project) {
  /** @type {{attempt: Attempt, depth: number}[]} */
  const listed = [];
  const add = (/** @type {string | null} */ parent, /** @type {number} */ depth) => {
    for (const attempt of project.attempts) {
      if (attempt.parent !== parent) continue;
      listed.push({ attempt, depth });
      add(attempt.id, depth + 1);
    }
  };
  add(null, 0);
  return listed;
}

/** Name an attempt by its kind and number. @param {Project} project @param {string} id */
export function nameOf(project, id) {
  const number = project.attempts.findIndex((one) => one.id === id);
  const job = project.attempts[number]?.job;
  return job ? `${NAMES[job.kind]} ${number}` : "Original";
}

/** List the ids of all images of a project. @param {Project} project @returns {string[]} */
export function picturesOf(project) {
  return [...new Set(project.attempts.flatMap((one) => [...one.pictures, ...(one.request?.pictures ?? [])]))];
}

/**
 * Bring two versions of a project together, such as those of two tabs: attempts of either are kept.
 *
 * @param {Project} stored
 * @param {Project} own Decides what is selected.
 * @returns {Project}
 */
export function merged(stored, own) {
  const known = new Set(own.attempts.map((one) => one.id));
  const others = stored.attempts.filter((one) => !known.has(one.id));
  const attempts = [...own.attempts, ...others].sort((one, other) => Number(other.id === ROOT) - Number(one.id === ROOT) || one.at - other.at);
  const draft = (stored.draft?.at ?? -1) > (own.draft?.at ?? -1) ? stored.draft : own.draft;
  const { name, named } = (stored.named ?? -1) > (own.named ?? -1) ? stored : own;
  return { ...own, name, ...(named ? { named } : {}), at: Math.max(stored.at, own.at), attempts, ...(draft ? { draft } : {}) };
}

/** @type {Past} */
export const NO_PAST = { states: [], at: -1 };

/** Record what the page looks like now; what had been undone is no longer ahead. @param {Past} past @param {Snapshot} now @returns {Past} */
export function recorded(past, now) {
  if (isSame(past.states[past.at], now)) return past;
  const states = [...past.states.slice(0, past.at + 1), now].slice(-MOST_STATES);
  return { states, at: states.length - 1 };
}

/** Step back (-1) or ahead (1). @param {Past} past @param {-1 | 1} by @returns {Past} The same one where there is no step. */
export function stepped(past, by) {
  const at = past.at + by;
  return past.states[at] ? { ...past, at } : past;
}

/** Leave out the states of a project that is gone. @param {Past} past @param {string} project @returns {Past} */
export function withoutProject({ states, at }, project) {
  const isLeft = (/** @type {Snapshot} */ one) => one.project !== project;
  return { states: states.filter(isLeft), at: states.slice(0, at + 1).filter(isLeft).length - 1 };
}

/** Tell whether there is a step back or ahead. @param {Past} past @param {-1 | 1} by */
export function canStep(past, by) {
  return past.states[past.at + by] !== undefined;
}

/** Tell whether two snapshots are of the same state. @param {Snapshot | undefined} one @param {Snapshot} other */
export function isSame(one, other) {
  return one !== undefined && one.project === other.project && one.place === other.place && one.base === other.base && one.plan === other.plan && isSameForm(one.form, other.form);
}

/** Tell whether controls say the same; one that is not there yet says nothing. @param {Form} one @param {Form} other */
export function isSameForm(one, other) {
  const names = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...names].every((name) => (one[name] ?? "") === (other[name] ?? ""));
}
