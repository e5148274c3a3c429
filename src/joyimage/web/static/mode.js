/** What is being done: the mode that is chosen, and the controls that belong to it. */

import { byId, chosen, tell } from "./dom.js";

/** @import { Kind } from "./types.js" */

const FIRST_FIELDS = { edit: "prompt-edit", generate: "prompt-generate", describe: "question", camera: "yaw", move: "object", rotate: "object" };
const RUN_LABELS = {
  edit: "Edit the picture",
  move: "Move the object",
  rotate: "Rotate the object",
  camera: "Move the camera",
  generate: "Create a picture",
  describe: "Ask",
};

/** @returns {Kind} */
export function currentMode() {
  return /** @type {Kind} */ (chosen("mode"));
}

/** Tell whether the mode's words are written from controls. */
export function isSpatial() {
  return ["move", "rotate", "camera"].includes(currentMode());
}

/** Put the focus where one continues, where it was lost with the button that was pressed. */
export function focusFirst() {
  const active = document.activeElement;
  if (active && active !== document.body && active.checkVisibility()) return;
  // A phone's keyboard would cover what has just been opened.
  const isTouch = matchMedia("(pointer: coarse)").matches && !byId("panes", HTMLElement).hidden;
  byId(isTouch ? "panes" : FIRST_FIELDS[currentMode()], HTMLElement).focus({ preventScroll: true });
}

/** Show the controls of the mode. @param {boolean} takesSeveral Whether the checkpoint takes several images. */
export function showMode(takesSeveral) {
  const mode = currentMode();
  for (const part of document.querySelectorAll("[data-modes]")) {
    if (part instanceof HTMLElement) part.hidden = !part.dataset.modes?.split(" ").includes(mode);
  }
  byId("references", HTMLElement).hidden = !takesSeveral;
  // Such a checkpoint takes the pictures of an edit in as they are.
  for (const id of takesSeveral && mode === "edit" ? ["framing-in", "framing-out"] : []) byId(id, HTMLElement).hidden = true;
  byId("region-use", HTMLElement).hidden = takesSeveral;
  byId("size", HTMLSelectElement).options[0].text = mode === "generate" ? "The model's square" : "Same as the picture";
  tell(byId("base-legend", HTMLElement), mode === "describe" ? "Ask about" : "Continue from");
  tell(byId("run", HTMLElement), RUN_LABELS[mode]);
  tell(byId("run-problem", HTMLElement), null);
}
