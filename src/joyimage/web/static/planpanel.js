/** The plan as cards: steps that are added from the controls, changed, ordered, run as one, and redone from any of them. */

import { byId, make, newId, tell } from "./dom.js";
import { currentMode } from "./mode.js";
import { announce } from "./notices.js";
import { attemptOf, nameStep, PLANNED, progressOf, runsOf, startOf, withMoved, withoutStep, withStep } from "./plan.js";
import { makeRequest } from "./request.js";
import { state, update } from "./store.js";
import { stepForm } from "./workspace.js";

/** @import { Composer } from "./composer.js" */
/** @import { Form } from "./history.js" */
/** @import { Step } from "./plan.js" */
/** @import { Pending } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

const STATES = { open: "", waiting: "waiting", running: "running", done: "done" };
const WIDE = "(min-width: 900px)";

export class PlanPanel {
  /**
   * @param {{workspace: Workspace, composer: Composer}} parts
   * @param {{run: (runs: Pending[]) => void, goTo: (attempt: string) => void, change: (form: Form) => void, added: () => void}} on
   *   `change` brings a step's controls back, `added` makes them ready for the next one.
   */
  constructor({ workspace, composer }, on) {
    this.workspace = workspace;
    this.composer = composer;
    this.on = on;
    /** @type {string | null} Key of the step that is being changed. */
    this.changed = null;
    this.details = byId("plan", HTMLDetailsElement);
    this.details.open = matchMedia(WIDE).matches; // on a phone the image needs the room
    this.list = byId("plan-steps", HTMLOListElement);
    byId("plan-add", HTMLElement).addEventListener("click", () => void this.add());
    byId("plan-run", HTMLElement).addEventListener("click", () => this.run(0));
    byId("plan-clear", HTMLElement).addEventListener("click", () => this.set([]));
  }

  /** Make what the controls say a step, or what a step is changed to. */
  async add() {
    const controls = await this.composer.compose();
    const { source } = this.workspace;
    if (!controls || !source) return;
    const request = makeRequest(controls);
    const { width, height } = source;
    const key = this.changed ?? newId();
    this.changed = null;
    this.workspace.commit();
    update({ plan: withStep(state.value.plan, { key, request: { ...request, pictures: ["", ...request.pictures.slice(1)] }, form: stepForm(controls.form), size: { width, height } }) });
    this.on.added(); // one step of undo with what it empties
    const number = state.value.plan.findIndex((one) => one.key === key) + 1;
    announce(`Step ${number} of the plan: ${nameStep(request)}`);
  }

  /** @param {Step[]} plan */
  set(plan) {
    if (!plan.some(({ key }) => key === this.changed)) this.changed = null;
    update({ plan });
    this.workspace.commit();
    this.workspace.keep();
  }

  /** Run the plan from one of its steps to its end. @param {number} first */
  run(first) {
    const { plan, project } = state.value;
    const steps = plan.slice(first);
    if (!steps.length || this.isBusy) return;
    const start = startOf(project, plan, steps[0].key);
    const picture = start ? this.workspace.find(start.picture) : this.workspace.source;
    if (!picture) return tell(byId("run-problem", HTMLElement), "Choose a picture first.");
    this.details.open &&= matchMedia(WIDE).matches; // what comes is to be seen
    const { place, ...origin } = this.composer.findOrigin();
    const from = start ? { ...origin, parent: start.attempt, from: start.number } : origin;
    this.on.run(runsOf(steps, picture.id, picture, { ...from, place }, newId));
  }

  /** @returns {boolean} Whether some of it waits or runs. */
  get isBusy() {
    return state.value.queue.some((one) => one.step);
  }

  /** Bring a step's controls back, to be changed; once more, and it stays as it is. @param {Step} step */
  change(step) {
    this.changed = this.changed === step.key ? null : step.key;
    if (this.changed) this.on.change(step.form);
    this.render();
  }

  render() {
    const { plan, project, queue } = state.value;
    const isBusy = this.isBusy;
    const canPlan = PLANNED.includes(currentMode()) && this.workspace.source !== null;
    tell(byId("plan-add", HTMLElement), this.changed ? `Save step ${plan.findIndex(({ key }) => key === this.changed) + 1}` : "Add to plan");
    byId("plan-add", HTMLElement).hidden = !canPlan;
    this.details.hidden = plan.length === 0;
    tell(byId("plan-title", HTMLElement), `Plan · ${plan.length} ${plan.length === 1 ? "step" : "steps"}`);
    tell(byId("plan-run", HTMLElement), plan.length === 1 ? "Run this step" : `Run all ${plan.length} steps`);
    byId("plan-run", HTMLElement).setAttribute("aria-disabled", String(isBusy));
    const focused = document.activeElement instanceof HTMLElement && this.list.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    this.list.replaceChildren(...plan.map((step, n) => this.makeCard(step, n, progressOf(project, queue, step))));
    if (focused) this.list.querySelector(/** @type {`button`} */ (`button[data-act="${CSS.escape(focused)}"]`))?.focus();
  }

  /** @param {Step} step @param {number} n @param {keyof typeof STATES} progress */
  makeCard(step, n, progress) {
    const { plan, project } = state.value;
    const words = nameStep(step.request);
    const made = attemptOf(project, step);
    const picture = made && this.workspace.find(made.pictures[made.selected]);
    const button = (/** @type {string} */ label, /** @type {string} */ sign, /** @type {() => void} */ click, pressed = false) =>
      make("button", { type: "button", class: "quiet icon", "data-act": `${step.key} ${label}`, "aria-label": `${label}: ${words}`, title: label, "aria-pressed": pressed && "true", click }, sign);
    const shown = made
      ? make("button", { type: "button", class: "quiet plan-shown", "data-act": `${step.key} show`, "aria-label": `Show the result of step ${n + 1}: ${words}`, click: () => this.on.goTo(made.id) }, make("img", { src: picture?.thumbnail ?? "", alt: "" }))
      : make("span", { class: "plan-shown", "aria-hidden": "true" }, String(n + 1));
    const state_ = STATES[progress];
    const buttons = [
      ...(made && progress === "done" ? [button("Redo from here", "↻", () => this.run(n))] : []),
      ...(n ? [button("Move up", "↑", () => this.set(withMoved(plan, step.key, -1)))] : []),
      button("Change", "✎", () => this.change(step), this.changed === step.key),
      button("Remove", "✕", () => this.set(withoutStep(plan, step.key))),
    ];
    return make("li", { "data-progress": progress }, shown, make("p", { title: words }, words, ...(state_ ? [make("span", { class: "hint" }, ` · ${state_}`)] : [])), ...buttons);
  }
}
