/** From a job that another page asked for to what the controls said. Pure functions. */

/** @import { Form } from "./history.js" */
/** @import { Job } from "./types.js" */

const PROMPTS = { edit: "prompt-edit", generate: "prompt-generate" };
const FRAMED = ["restore", "preserve"];

/**
 * Return what the controls say for a job. Those of fields that the job doesn't have are empty: the checkpoint's defaults.
 *
 * @param {Job} job
 * @param {Form} now What the controls say; whatever does not belong to an edit stays.
 * @param {Map<string, string>} ids Of the control of each field.
 * @returns {Form | null} Null where the job doesn't know its edit.
 */
export function formOf({ kind, edit }, now, ids) {
  if (!edit) return null;
  /** @type {Form} */
  const form = { ...now, mode: kind, answer: "" };
  for (const [field, id] of ids) if (typeof now[id] === "string") form[id] = asText(edit[field]);
  if (kind in PROMPTS) form[PROMPTS[/** @type {keyof typeof PROMPTS} */ (kind)]] = asText(edit.prompt);
  form.n = asText(edit.num_images) || "1";
  form.wording = asText(edit.prompt_style) || "documented";
  if (kind === "camera") Object.assign(form, { yaw: asText(edit.yaw) || "0", pitch: asText(edit.pitch) || "0", zoom: asText(edit.zoom) || "unchanged" });
  if (edit.view) form.view = asText(edit.view);
  for (const name of ["box", "picked", "region", "region-use"]) delete form[name];
  if (isInPixels(edit)) form.box = asText(edit.box);
  const framing = JSON.parse(String(now.framing));
  if (kind in framing) framing[kind] = Object.fromEntries(FRAMED.map((name) => [name, edit[name] === true]));
  form.framing = JSON.stringify(framing);
  return form;
}

/** Tell whether an edit's box is one that the page can show: from corner to corner, in whole pixels. @param {Record<string, unknown>} edit */
function isInPixels({ box, box_form }) {
  return Array.isArray(box) && (box_form ?? "xyxy") === "xyxy" && box.every(Number.isInteger) && box.some((one) => one > 1);
}

/** @param {unknown} value */
function asText(value) {
  return value === undefined || value === null ? "" : Array.isArray(value) ? value.join(",") : String(value);
}
