/** From the controls to a run: what is sent, or what is missing, and where in the tree its results belong. */

import { byId, newId, tell } from "./dom.js";
import { ROOT } from "./history.js";
import { currentMode } from "./mode.js";
import { findProblem } from "./request.js";
import { source, state } from "./store.js";

/** @import { Controls as Form } from "./form.js" */
/** @import { RegionTool } from "./regiontool.js" */
/** @import { Controls, Problem } from "./request.js" */
/** @import { Server } from "./server.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Spatial } from "./spatial.js" */
/** @import { Pending } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

/** @typedef {Pick<Pending, "project" | "parent" | "from" | "place">} Origin Where the results of a run belong. */

export class Composer {
  /** @param {{workspace: Workspace, controls: Form, spatial: Spatial, region: RegionTool, settings: Settings, server: Server}} parts */
  constructor({ workspace, controls, spatial, region, settings, server }) {
    this.workspace = workspace;
    this.controls = controls;
    this.spatial = spatial;
    this.region = region;
    this.settings = settings;
    this.server = server;
    this.isWaiting = false; // for the server's first answer
  }

  /**
   * Return what the controls ask for.
   *
   * @returns {Promise<Controls | null>} Null where something is missing: it is said, and has the focus. Null too where an
   *   earlier call still waits for the server.
   */
  async compose() {
    await this.spatial.prompt.checking;
    if (this.isWaiting) return null;
    if (!this.server.known) await this.wait();
    const controls = this.read();
    const problem = findProblem(controls);
    tell(byId("run-problem", HTMLElement), problem?.sentence ?? null);
    if (problem) this.focus(problem);
    return problem ? null : controls;
  }

  /** Wait until the controls that the server fills are there, and it is known how an image goes in and how many do. */
  async wait() {
    this.isWaiting = true;
    tell(byId("run-problem", HTMLElement), "Waiting for the server. This continues as soon as it answers.");
    await this.server.answered;
    this.isWaiting = false;
  }

  /** @returns {Controls} */
  read() {
    const { source: image, references } = this.workspace;
    const kind = currentMode();
    const pictures = image ? [image.id] : [];
    if (kind === "edit" && this.server.takesSeveral) pictures.push(...references.map(({ id }) => id));
    return {
      kind,
      form: this.controls.read(),
      box: this.spatial.box.box,
      view: this.spatial.compass.view,
      settings: kind === "describe" ? this.settings.more.read(kind) : this.settings.read(image),
      mask: this.region.mask,
      isMasked: this.region.isUsed,
      pictures,
      problem: this.problem,
    };
  }

  /** @returns {Problem | null} */
  get problem() {
    if (this.spatial.problem) return this.spatial.problem;
    const problem = currentMode() === "describe" ? null : this.settings.problem;
    return problem && { sentence: problem.sentence, focus: problem.focus.id };
  }

  /** Put the focus on the control that a problem is about. @param {Problem} problem */
  focus({ focus }) {
    const place = byId(focus, HTMLElement);
    place.closest("details")?.setAttribute("open", "");
    byId("settings", HTMLDetailsElement).open ||= byId("settings", HTMLElement).contains(place);
    (place.hidden ? this.spatial.box.frame : place).focus();
  }

  /** @returns {Origin} */
  findOrigin() {
    const { project, place } = state.value;
    const isCreated = project !== null && project.attempts[0].pictures.length === 0;
    // What is created is a project of its own, with all that is created after it.
    if (currentMode() === "generate") return { project: isCreated ? project.id : newId(), parent: ROOT, from: 0, place };
    const origin = source.value;
    return { project: project?.id ?? newId(), parent: origin?.attempt ?? ROOT, from: origin?.number ?? 0, place };
  }

  /** Tell whether what is shown is still what a run was started from. @param {Pending} pending */
  isShownFor(pending) {
    const { project, place } = state.value;
    if (pending.request.kind === "generate") return currentMode() === "generate";
    return project?.id === pending.project && place === pending.place && (Boolean(pending.step) || pending.form.box === this.controls.read().box);
  }

  /** @returns {boolean} Whether an image that forms may be shown. */
  get isForming() {
    const [pending] = state.value.queue;
    return pending !== undefined && this.isShownFor(pending);
  }
}
