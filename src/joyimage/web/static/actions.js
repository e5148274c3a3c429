/** What people do on the page, and what the page does about it: run, plan, change the mode, undo. */

import { renderAnswer, setAnswer } from "./answer.js";
import { byId, chosen, newId } from "./dom.js";
import { findExample, showIdeas } from "./ideas.js";
import { currentMode, isSpatial, showMode } from "./mode.js";
import { withdrawNews } from "./notices.js";
import { makeRequest } from "./request.js";
import { listenToSurroundings } from "./surroundings.js";
import { around } from "./sweep.js";
import { stepForm } from "./workspace.js";

/** @import { Composer } from "./composer.js" */
/** @import { Controls } from "./form.js" */
/** @import { Base, Form } from "./history.js" */
/** @import { Places } from "./places.js" */
/** @import { RegionTool } from "./regiontool.js" */
/** @import { Controls as Wanted } from "./request.js" */
/** @import { Run } from "./run.js" */
/** @import { Server } from "./server.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Spatial } from "./spatial.js" */
/** @import { Stage } from "./stage.js" */
/** @import { Workspace } from "./workspace.js" */

/**
 * @typedef {object} Parts
 * @property {Workspace} workspace
 * @property {Server} server
 * @property {Settings} settings
 * @property {Spatial} spatial
 * @property {RegionTool} region
 * @property {Controls} controls
 * @property {Composer} composer
 * @property {Stage} stage
 * @property {Places} places
 * @property {Run} run
 * @property {() => void} render Show everything as it is now.
 */

export class Actions {
  /** @param {Parts} parts Read when they are needed: most of them are made later. */
  constructor(parts) {
    this.parts = parts;
  }

  /** Run what the controls ask for. @param {(controls: Wanted) => Wanted[]} [split] Into several runs. */
  async onRun(split = (controls) => [controls]) {
    const { composer, run, workspace } = this.parts;
    const controls = await composer.compose();
    if (!controls) return;
    workspace.commit();
    if (controls.kind === "describe") setAnswer(null);
    const origin = composer.findOrigin();
    await run.add(...split(controls).map((one) => ({ key: newId(), request: makeRequest(one), jobId: null, form: stepForm(one.form), ...origin })));
  }

  /** Bring controls back, to be changed. @param {Form} form */
  takeUp(form) {
    this.parts.controls.write(form, this.parts.workspace.source);
    this.onMode();
    this.showWork();
  }

  /** Empty what would be done twice if it were run again. */
  startAnew() {
    const { spatial, workspace } = this.parts;
    if (currentMode() === "edit") byId("prompt-edit", HTMLTextAreaElement).value = "";
    if (currentMode() === "move") spatial.box.set(null);
    if (currentMode() === "move") spatial.setObject("");
    this.onMode();
    workspace.commit();
  }

  /** Show the controls of the mode that is chosen. */
  onMode() {
    const { region, server, settings, spatial, workspace } = this.parts;
    if (server.takesSeveral) region.set("", "all");
    showMode(server.takesSeveral);
    settings.setKind(currentMode());
    if (isSpatial()) spatial.prompt.render();
    showIdeas(currentMode(), findExample(workspace.original?.name), server.isTiny, () => (spatial.onControl(), workspace.commit()));
    renderAnswer();
    this.parts.render();
    workspace.keep();
  }

  onRegion() {
    this.parts.workspace.commit();
    this.parts.spatial.onControl();
  }

  /** Show that something happens. */
  showStart() {
    this.parts.render();
    if (this.parts.composer.isForming) this.parts.stage.reveal();
  }

  /** Show what the next run starts from, where it is worked on. */
  showSource() {
    this.parts.stage.chooseSource();
    this.parts.render();
  }

  /** Show what the next run starts from, if the mode works on the image itself. */
  showWork() {
    const mode = currentMode();
    if (isSpatial() || mode === "describe" || (mode === "edit" && this.parts.region.isUsed)) this.showSource();
  }

  /** Listen to the controls that belong to no part of the page alone. */
  listen() {
    const { places, workspace } = this.parts;
    listenToSurroundings({
      step: (by) => void places.step(by),
      peek: (isHeld) => this.parts.stage.peek(isHeld),
      select: (number) => number < (workspace.results?.pictures.length ?? 0) && workspace.select(number),
      run: () => void this.onRun(),
    });
    this.listenToRuns();
    byId("modes", HTMLElement).addEventListener("change", () => {
      withdrawNews();
      this.onMode();
      byId("panel", HTMLElement).scrollTop = 0;
      this.showWork();
      if (isSpatial()) this.parts.stage.reveal(); // it is worked on
      workspace.commit(); // so that what is undone next leaves the mode as it is
    });
    byId("undo", HTMLElement).addEventListener("click", () => void places.step(-1));
    byId("redo", HTMLElement).addEventListener("click", () => void places.step(1));
    byId("skip-to-result", HTMLElement).addEventListener("click", (event) => {
      event.preventDefault();
      byId("result", HTMLElement).focus();
    });
    byId("views", HTMLElement).addEventListener("change", () => this.parts.render());
    addEventListener("pagehide", () => workspace.keep());
  }

  listenToRuns() {
    const { places, workspace } = this.parts;
    byId("base", HTMLElement).addEventListener("change", () => {
      places.setBase(/** @type {Base} */ (chosen("base")));
      this.showWork();
      workspace.commit();
    });
    for (const button of document.querySelectorAll("[data-around]")) {
      button.addEventListener("click", () => void this.onRun((controls) => around(controls, Math.floor(Math.random() * 2 ** 31))));
    }
    const panel = byId("panel", HTMLFormElement);
    panel.addEventListener("input", () => workspace.keep());
    panel.addEventListener("change", () => workspace.commit());
    panel.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.onRun();
    });
  }
}
