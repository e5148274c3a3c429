/** The words of a spatial edit: made from the controls, or written by hand and checked by the server. */

import { parsePrompt } from "./api.js";
import { byId, tell } from "./dom.js";
import { findWording, word } from "./words.js";

/** @import { SpatialEdit, Wording } from "./words.js" */

const CHECK_AFTER_MS = 250;
const NAMES = { move: "a move", rotate: "a rotation", camera: "a camera move" };
const MODES = { move: "Move", rotate: "Rotate", camera: "Camera" };

/** Say of words for a free edit that they are, or nearly are, those of a spatial one. */
export function adviseOnFreeWords() {
  const text = byId("prompt-edit", HTMLTextAreaElement);
  const place = byId("edit-advice", HTMLElement);
  let check = new AbortController();
  text.addEventListener("input", () => {
    check.abort();
    check = new AbortController();
    const { signal } = check;
    if (!text.value.trim()) return tell(place, null);
    const timer = setTimeout(() => {
      parsePrompt(text.value, signal).then(
        ({ edit, problem, intent }) => tell(place, (intent && (intent.kind !== "move" || !problem) ? understood(intent) : null) ?? pointOut(problem) ?? (edit && `This is the prompt of ${NAMES[edit.kind]}. Choose ${MODES[edit.kind]} above to have the result checked too.`)),
        () => tell(place, null), // advice only: whoever runs the edit is told what is wrong
      );
    }, CHECK_AFTER_MS);
    signal.addEventListener("abort", () => clearTimeout(timer));
  });
}

export class Prompt {
  /**
   * @param {() => {edit: SpatialEdit, wording: Wording}} read What the controls say.
   * @param {(edit: SpatialEdit, wording: Wording) => void} apply Set the controls to an edit that was read off words.
   * @param {(text: string) => void} free Send words as an edit without template.
   */
  constructor(read, apply, free) {
    this.read = read;
    this.apply = apply;
    this.text = byId("prompt-sent", HTMLTextAreaElement);
    this.problemPlace = byId("prompt-problem", HTMLElement);
    this.resetButton = byId("prompt-reset", HTMLButtonElement);
    this.freeButton = byId("prompt-free", HTMLButtonElement);
    /** @type {string | null} What keeps the words from being sent. */
    this.problem = null;
    this.isByHand = false;
    this.check = new AbortController();
    /** @type {Promise<void>} */
    this.checking = Promise.resolve();
    this.text.addEventListener("input", () => this.checkSoon());
    this.resetButton.addEventListener("click", () => this.render());
    this.freeButton.addEventListener("click", () => free(this.text.value));
  }

  /** Write the words that the controls stand for. */
  render() {
    this.check.abort();
    const { edit, wording } = this.read();
    const shown = edit.kind === "camera" || edit.object.trim() ? edit : { ...edit, object: "…" };
    this.text.value = word(shown, wording);
    this.text.rows = edit.kind === "camera" ? 5 : 3;
    this.setProblem(null);
    this.isByHand = false;
    this.resetButton.hidden = true;
  }

  checkSoon() {
    this.check.abort();
    this.check = new AbortController();
    const { signal } = this.check;
    this.isByHand = true;
    this.resetButton.hidden = false;
    this.checking = new Promise((resolve) => {
      const timer = setTimeout(() => void this.checkNow(signal).finally(resolve), CHECK_AFTER_MS);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve()));
    });
  }

  /** @param {AbortSignal} signal */
  async checkNow(signal) {
    const text = this.text.value;
    const { edit: own } = this.read();
    let parsed;
    try {
      parsed = await parsePrompt(text, signal);
    } catch (error) {
      if (!signal.aborted) this.setProblem(error instanceof Error ? error.message : String(error));
      return;
    }
    if (signal.aborted) return;
    if (parsed.problem) return this.setProblem(parsed.problem);
    if (!parsed.edit) {
      return this.setProblem(`This no longer matches the trained prompt of ${NAMES[own.kind]}.`);
    }
    const found = findWording(/** @type {SpatialEdit} */ (parsed.edit), text);
    if (!found) return this.setProblem("This mixes the two trained prompt styles; use one of them.");
    if (found.edit.kind !== own.kind) {
      return this.setProblem(`This is the prompt of ${NAMES[found.edit.kind]}; choose ${MODES[found.edit.kind]} above.`);
    }
    this.setProblem(null);
    this.apply(found.edit, found.wording);
    this.resetButton.hidden = true;
  }

  /** @param {string | null} problem */
  setProblem(problem) {
    this.problem = plain(problem);
    tell(this.problemPlace, this.problem);
    this.freeButton.hidden = !problem;
    this.text.setAttribute("aria-invalid", String(Boolean(problem)));
  }
}

/** Say what free words will run as. @param {import("./types.js").Intent} intent */
function understood({ kind, shown }) {
  return kind === "move"
    ? `Understood as: ${shown}. Choose Move above and draw a box; without one, the text runs as written.`
    : `Runs as: ${shown}. To run the text as written, set Intent to literal under Settings, Advanced.`;
}

/** Say with a problem of free words where the page writes such words itself. @param {string | null} problem */
function pointOut(problem) {
  const kinds = /** @type {(keyof typeof NAMES)[]} */ (Object.keys(NAMES));
  const kind = kinds.find((one) => problem?.includes(`looks like ${NAMES[one]} but`));
  return problem && `${plain(problem)}${kind ? ` Choose ${MODES[kind]} above to have the prompt written for you.` : ""}`;
}

/** Say it to those who see no field called `prompt`. @param {string | null} problem */
function plain(problem) {
  return problem?.replace("`prompt` looks like", "This looks like").replaceAll("`prompt`", "this text") ?? null;
}
