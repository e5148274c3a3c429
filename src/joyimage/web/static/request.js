/** From what the controls say to a request, or to a sentence about what is missing. Pure functions. */

/** @import { Box } from "./geometry.js" */
/** @import { Kind, Request } from "./types.js" */

export const BOX_SIDES = /** @type {const} */ (["left", "top", "width", "height"]);

/**
 * @typedef {object} Controls
 * @property {Kind} kind
 * @property {Record<string, string | boolean>} form By the id of each control.
 * @property {Box | null} box
 * @property {string} view Of the object, for a rotation.
 * @property {Record<string, string>} settings Fields that differ from their defaults.
 * @property {import("./region.js").Mask | null} mask What may change; null where all may.
 * @property {boolean} isMasked Whether only a part may change.
 * @property {string[]} pictures Ids of the image that the run starts from, if any, and of further ones.
 * @property {{sentence: string, focus: string} | null} problem What a part of the page has found itself.
 *
 * @typedef {{sentence: string, focus: string}} Problem What is missing, and the id of the control for it.
 */

const SPATIAL = ["move", "rotate", "camera"];

/** Return what keeps the controls from being a request. @param {Controls} controls @returns {Problem | null} */
export function findProblem({ kind, form, box, pictures, problem, mask, isMasked }) {
  const isEmpty = (/** @type {string} */ id) => !String(form[id] ?? "").trim();
  if (!pictures.length && kind !== "generate") return { sentence: "Choose a picture first.", focus: "choose" };
  if (kind === "edit" && isEmpty("prompt-edit")) return { sentence: "Describe what should change.", focus: "prompt-edit" };
  if (kind === "edit" && isMasked && !mask) return { sentence: "Mark the area on the picture first.", focus: "brush-width" };
  if (kind === "generate" && isEmpty("prompt-generate")) return { sentence: "Describe what it should show.", focus: "prompt-generate" };
  if ((kind === "move" || kind === "rotate") && isEmpty("object")) return { sentence: "Name the object.", focus: "object" };
  if (kind === "move" && !box) return findBoxProblem(form);
  return problem;
}

/** @param {Record<string, string | boolean>} form @returns {Problem} */
function findBoxProblem(form) {
  const values = BOX_SIDES.map((side) => String(form[`box-${side}`] ?? ""));
  const wrong = BOX_SIDES.find((_, n) => values[n] === "" || (n > 1 && Number(values[n]) < 1));
  if (wrong && values.some(Boolean)) return { sentence: `Type the ${wrong} of the box, or draw the box.`, focus: `box-${wrong}` };
  return { sentence: "Draw a box where the object should go.", focus: "box-add" };
}

/** Return the request of controls that have no problem. @param {Controls} controls @returns {Request} */
export function makeRequest({ kind, form, box, view, settings, pictures, mask }) {
  const fields = { ...settings };
  const isMasked = kind === "edit" && mask !== null;
  if (isMasked) addRegion(fields, form);
  const text = (/** @type {string} */ id) => String(form[id] ?? "").trim();
  if (kind === "edit") fields.prompt = text("prompt-edit");
  if (kind === "generate") fields.prompt = text("prompt-generate");
  if (kind === "describe" && text("question")) fields.question = text("question");
  if (SPATIAL.includes(kind)) fields.prompt_style = text("wording");
  if (kind === "move" || kind === "rotate") fields.object = text("object");
  if (kind === "move" && box) fields.box = box.join(",");
  if (kind === "rotate") fields.view = view;
  if (kind === "camera") Object.assign(fields, { yaw: text("yaw"), pitch: text("pitch"), zoom: text("zoom") });
  return { kind, fields, pictures: kind === "generate" ? [] : pictures, ...(isMasked ? { mask } : {}) };
}

/** @param {Record<string, string>} fields Changed here. @param {Record<string, string | boolean>} form */
function addRegion(fields, form) {
  delete fields.region; // what is marked counts
  if (form.feather !== "") fields.feather = String(form.feather);
  if (form["close-up"] !== true) return;
  Object.assign(fields, { close_up: "true", restore: "true" });
}
