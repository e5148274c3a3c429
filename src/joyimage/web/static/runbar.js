/** What stands around the run button: what the next run starts from, and what can be taken back. */

import { byId, choose, tell } from "./dom.js";
import { canStep, nameOf } from "./history.js";
import { currentMode } from "./mode.js";
import { attempt, state } from "./store.js";

/** @import { Workspace } from "./workspace.js" */

/** Show it as it is now. @param {Workspace} workspace */
export function renderRunbar(workspace) {
  const { queue, past, project, base } = state.value;
  byId("canvas", HTMLElement).classList.toggle("busy", queue.length > 0);
  // Not `disabled`, which would take the focus from whoever has just pressed it.
  byId("undo", HTMLElement).setAttribute("aria-disabled", String(!canStep(past, -1)));
  byId("redo", HTMLElement).setAttribute("aria-disabled", String(!canStep(past, 1)));
  byId("skip-to-result", HTMLElement).hidden = !workspace.results;
  const parent = attempt.value?.parent;
  const hasChoice = project !== null && workspace.input !== null && currentMode() !== "generate";
  byId("base", HTMLElement).hidden = !hasChoice;
  choose("base", base);
  if (hasChoice && parent) tell(byId("base-original", HTMLElement), nameOf(project, parent));
}
