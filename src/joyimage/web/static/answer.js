/** The answer to a question about the image. */

import { byId, tell } from "./dom.js";
import { currentMode } from "./mode.js";

/** @param {string | null} words Null where there is none. */
export function setAnswer(words) {
  tell(byId("answer-text", HTMLElement), words);
  renderAnswer();
}

/** Show the answer where questions are asked, and nowhere else. */
export function renderAnswer() {
  byId("answer", HTMLElement).hidden = currentMode() !== "describe" || !byId("answer-text", HTMLElement).textContent;
}
