/** The state of the page in one object. What is shown follows from it: effects run by themselves when it changes. */

import { findAttempt, inputOf, NO_PAST, ROOT, sourceOf } from "./history.js";
import { computed, effect, signal } from "./vendor/signals-core.js";

/** @import { Attempt, Base, Past, Project, Source } from "./history.js" */
/** @import { Step } from "./plan.js" */
/** @import { Pending } from "./types.js" */

/**
 * @typedef {object} State
 * @property {Project | null} project
 * @property {string} place Id of the attempt that is shown.
 * @property {Base} base What the next run starts from.
 * @property {Pending[]} queue Runs that have not ended; the first one is under way.
 * @property {Past} past
 * @property {string | null} pinned Id of the attempt that others are compared with.
 * @property {Step[]} plan Steps that are to be run one after the other.
 * @property {string[]} references Ids of further images, for checkpoints that take several.
 */

/** @type {State} */
export const EMPTY = { project: null, place: ROOT, base: "result", queue: [], past: NO_PAST, pinned: null, plan: [], references: [] };

export const state = signal(EMPTY);

/** Change some of the state. @param {Partial<State>} change */
export function update(change) {
  state.value = { ...state.value, ...change };
}

/** The attempt that is shown. @type {{readonly value: Attempt | null}} */
export const attempt = computed(() => findAttempt(state.value.project, state.value.place));

/** What it was made of. @type {{readonly value: Source | null}} */
export const input = computed(() => inputOf(state.value.project, state.value.place));

/** What the next run starts from. @type {{readonly value: Source | null}} */
export const source = computed(() => sourceOf(state.value.project, state.value.place, state.value.base));

export { effect };
