/** Runs that wait for the one before them: cancelled and reordered before they are sent. */

import { byId, make } from "./dom.js";
import { nameStep } from "./plan.js";
import { state } from "./store.js";

/** @import { Run } from "./run.js" */

/** Show the queue. @param {Run} run */
export function renderTray(run) {
  // The steps of a plan are shown on its own cards.
  const waiting = state.value.queue.slice(1).filter((one) => !one.step);
  const tray = byId("tray", HTMLElement);
  tray.hidden = waiting.length === 0;
  const focused = document.activeElement instanceof HTMLElement && tray.contains(document.activeElement) ? document.activeElement : null;
  const name = focused?.getAttribute("aria-label");
  tray.replaceChildren(
    ...waiting.map((pending, n) => {
      const words = nameStep(pending.request);
      const advance = make("button", { type: "button", class: "quiet icon", "aria-label": `Run earlier: ${words}`, click: () => run.advance(pending.key) }, "↑");
      const remove = make("button", { type: "button", class: "quiet icon", "aria-label": `Don't run: ${words}`, click: () => run.remove(pending.key) }, "✕");
      return make("li", {}, make("p", {}, `${n + 1}. ${words}`), ...(n ? [advance] : []), remove);
    }),
  );
  if (focused) [...tray.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === name)?.focus();
}
