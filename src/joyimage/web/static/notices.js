/** Messages: sentences at the top of the page, and words for screen readers alone. */

import { byId, make } from "./dom.js";

/** @type {Map<string, number>} Timers of messages that come only if it takes long. */
const late = new Map();

/**
 * Show a message; one of the same name is replaced.
 *
 * @param {string} name
 * @param {string} sentence
 * @param {{kind?: "problem" | "news", action?: {label: string, run: () => void}, afterMs?: number}} [options] A message
 *   that is withdrawn before `afterMs` is never seen.
 */
export function notify(name, sentence, { kind = "problem", action, afterMs } = {}) {
  clearTimeout(late.get(name));
  if (afterMs) {
    late.set(name, window.setTimeout(() => notify(name, sentence, { kind, action }), afterMs));
    return;
  }
  const old = document.querySelector(`[data-notice="${name}"]`);
  if (old instanceof HTMLElement && old.dataset.sentence === sentence) return;
  const notice = make("div", { class: `notice ${kind}`, "data-notice": name, role: kind === "problem" ? "alert" : "status", "data-sentence": sentence });
  // What stands in backticks is code.
  notice.append(make("p", {}, ...sentence.split("`").map((part, n) => (n % 2 ? make("code", {}, part) : part))));
  if (action) {
    notice.append(
      make("button", { type: "button", click: () => (notice.remove(), action.run()) }, action.label),
    );
  }
  notice.append(
    make("button", { type: "button", class: "quiet icon", "aria-label": "Dismiss", click: () => notice.remove() }, "✕"),
  );
  if (old) old.replaceWith(notice);
  else byId("notices", HTMLElement).append(notice);
}

/** Take a message away. @param {string} name */
export function withdraw(name) {
  clearTimeout(late.get(name));
  document.querySelector(`[data-notice="${name}"]`)?.remove();
}

/** Take away what is no news any more: all but problems and what still offers something. */
export function withdrawNews() {
  for (const notice of document.querySelectorAll(".notice.news")) if (!notice.querySelector("button:not(.icon)")) notice.remove();
}

/** Say something to screen readers. @param {string} sentence */
export function announce(sentence) {
  byId("announcer", HTMLElement).textContent = sentence;
}
