/** What to try: for those who want to press one button and see something happen. */

import { byId, make, tell } from "./dom.js";

/** @import { Kind } from "./types.js" */

/** The page's own pictures, each with the kind of edit that it shows best. */
export const EXAMPLES = {
  shapes: {
    mode: "edit",
    object: "black heart",
    ideas: ["Recolor the heart orange.", "Remove the purple circle.", "Replace the green star with a blue triangle.", "Add an orange cross on the right."],
  },
  car: { mode: "rotate", object: "car", ideas: ["Recolor the car blue."] },
  turntable: { mode: "camera", object: "cube", ideas: ["Recolor the cube green."] },
};
/** @typedef {keyof typeof EXAMPLES} Example */

/** @type {Record<"edit" | "generate" | "describe", string[]>} */
const IDEAS = {
  edit: ["Turn the sky into a sunset.", "Remove the person in the background.", "Make it a watercolor painting."],
  generate: ["A lighthouse on a cliff, evening light.", "A bowl of oranges on a blue table, oil painting."],
  describe: ["What is in the picture?", "What is written on it?"],
};
/** @type {typeof IDEAS} The tiny model knows the sentences that it was trained with, and edits no solid things. */
const TINY_IDEAS = {
  edit: [],
  generate: ["Draw a green star on the left on a mint background.", "Draw a purple circle in the center on a cream background."],
  describe: [],
};
const FIELDS = { edit: "prompt-edit", generate: "prompt-generate", describe: "question" };

/** Return which example a picture is. @param {string | undefined} name @returns {Example | null} */
export function findExample(name) {
  const names = /** @type {Example[]} */ (Object.keys(EXAMPLES));
  return names.find((example) => name === `${example}.png`) ?? null;
}

/**
 * Return what fits the picture and the model.
 *
 * @param {keyof typeof IDEAS} kind
 * @param {Example | null} example The picture, where it is one of them.
 * @param {boolean} isTiny Whether the server has the embedded model.
 * @returns {string[]}
 */
export function findIdeas(kind, example, isTiny) {
  if (kind !== "edit" || !example) return (isTiny ? TINY_IDEAS : IDEAS)[kind];
  return isTiny && example !== "shapes" ? [] : EXAMPLES[example].ideas;
}

/**
 * Offer what fits the picture and the model, and say what would disappoint.
 *
 * @param {Kind} kind
 * @param {Example | null} example
 * @param {boolean} isTiny
 * @param {() => void} taken Called when one was taken.
 */
export function showIdeas(kind, example, isTiny, taken) {
  // Flat shapes have no other side.
  const flat = isTiny && example === "shapes" ? "The tiny model rotates and orbits solid objects only. Try Edit or Move on this picture, or open the example" : null;
  tell(byId("rotate-hint", HTMLElement), flat && `${flat} Car.`);
  tell(byId("camera-hint", HTMLElement), flat && `${flat} Turntable.`);
  if (kind !== "edit" && kind !== "generate" && kind !== "describe") return;
  const field = byId(FIELDS[kind], HTMLTextAreaElement);
  const take = (/** @type {string} */ idea) => {
    field.value = idea;
    field.focus();
    taken();
  };
  byId(`ideas-${kind}`, HTMLElement).replaceChildren(
    ...findIdeas(kind, example, isTiny).map((idea) => make("button", { type: "button", class: "idea", click: () => take(idea) }, idea)),
  );
  const other = { shapes: null, car: "Rotate", turntable: "Camera" }[example ?? "shapes"];
  const solid = other && `The tiny model's prompts work on flat shapes. With this picture, try ${other}.`;
  tell(byId("edit-hint", HTMLElement), isTiny ? solid : null);
  tell(byId("describe-hint", HTMLElement), isTiny ? "The tiny model answers short questions about drawn scenes, not about photographs." : null);
}
