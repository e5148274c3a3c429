/** Runs that go around: all eight views of an object, or the camera's orbit in steps. Pure functions. */

import { findAttempt, inputOf } from "./history.js";
import { VIEWS } from "./words.js";

/** @import { Attempt, Project } from "./history.js" */
/** @import { Controls } from "./request.js" */

const STEP_DEGREES = 45;
const LEAST_FRAMES = 3;

/** @typedef {{turn: number, label: string, picture: string}} Frame One image of a turntable; `turn` orders them. */

/**
 * Return the controls of each run that goes around, all with one seed.
 *
 * @param {Controls} controls Of a rotation or a camera move.
 * @param {number} seed Where the controls have none.
 * @returns {Controls[]}
 */
export function around(controls, seed) {
  const settings = { seed: String(seed), ...controls.settings };
  if (controls.kind === "rotate") return VIEWS.map((view) => ({ ...controls, settings, view, form: { ...controls.form, view } }));
  const yaws = Array.from({ length: 360 / STEP_DEGREES - 1 }, (_, n) => (n + 1) * STEP_DEGREES);
  return yaws.map((yaw) => ({ ...controls, settings, form: { ...controls.form, yaw: String(yaw > 180 ? yaw - 360 : yaw), zoom: "unchanged" } }));
}

/**
 * Return the images around an object, in order: those of the same kind that were made of the same image.
 *
 * @param {Project | null} project
 * @param {string} place Id of the attempt that is shown.
 * @returns {Frame[]} Empty where there are too few.
 */
export function turntable(project, place) {
  const shown = findAttempt(project, place);
  const kind = shown?.job?.kind;
  if (!project || !shown || (kind !== "rotate" && kind !== "camera")) return [];
  /** @type {Map<number, Frame>} */
  const frames = new Map();
  const input = inputOf(project, place);
  if (kind === "camera" && input) frames.set(0, { turn: 0, label: "0°", picture: input.picture });
  for (const one of project.attempts) {
    if (one.parent !== shown.parent || one.from !== shown.from || one.job?.kind !== kind || !one.pictures.length) continue;
    const picture = one.pictures[one.selected];
    if (kind === "rotate") {
      const view = String(fieldOf(one, "view"));
      frames.set(VIEWS.indexOf(view), { turn: VIEWS.indexOf(view), label: view, picture });
    } else if (isOnOrbit(one, shown)) {
      const turn = ((Number(fieldOf(one, "yaw") ?? 0) % 360) + 360) % 360;
      frames.set(turn, { turn, label: `${turn}°`, picture });
    }
  }
  return frames.size < LEAST_FRAMES ? [] : [...frames.values()].sort((one, other) => one.turn - other.turn);
}

/** Tell whether two camera moves are on one circle. @param {Attempt} one @param {Attempt} other */
function isOnOrbit(one, other) {
  const same = (/** @type {string} */ name, /** @type {unknown} */ usual) => String(fieldOf(one, name) ?? usual) === String(fieldOf(other, name) ?? usual);
  return same("pitch", 0) && same("zoom", "unchanged");
}

/** @param {Attempt} attempt @param {string} name */
function fieldOf({ job, request }, name) {
  return job?.edit?.[name] ?? request?.fields[name];
}
