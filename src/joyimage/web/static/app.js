/** The page: what its parts tell each other. */

import { renderAnswer, setAnswer } from "./answer.js";
import { Composer } from "./composer.js";
import { byId, chosen, newId } from "./dom.js";
import { keepFocus } from "./focus.js";
import { Controls } from "./form.js";
import { findExample, showIdeas } from "./ideas.js";
import { Jobs } from "./jobs.js";
import { currentMode, focusFirst, isSpatial, showMode } from "./mode.js";
import { Opening } from "./opening.js";
import { Places } from "./places.js";
import { PlanPanel } from "./planpanel.js";
import { Projects } from "./projects.js";
import { References } from "./references.js";
import { RegionTool } from "./regiontool.js";
import { makeRequest } from "./request.js";
import { Result } from "./result.js";
import { Run } from "./run.js";
import { renderRunbar } from "./runbar.js";
import { Server } from "./server.js";
import { Settings } from "./settings.js";
import { Spatial } from "./spatial.js";
import { Stage } from "./stage.js";
import { effect, state } from "./store.js";
import { listenToSurroundings } from "./surroundings.js";
import { around } from "./sweep.js";
import { renderTray } from "./tray.js";
import { stepForm, Workspace } from "./workspace.js";

/** @import { Base, Form } from "./history.js" */
/** @import { Controls as Wanted } from "./request.js" */

class App {
  constructor() {
    /** @type {Workspace} */
    this.workspace = new Workspace(() => this.controls.read());
    const { workspace } = this;
    this.server = new Server((models, schemas) => {
      this.settings.setModels(models, schemas);
      this.onMode();
    });
    const { server } = this;
    this.settings = new Settings(() => (this.settings.renderSizeHint(workspace.source), this.spatial.onControl()));
    /** @type {Spatial} */
    this.spatial = new Spatial(workspace, {
      isDrawing: () => this.stage.isDrawing,
      showSource: () => this.showSource(),
      arm: () => this.stage.reveal(),
      render: () => this.stage.render(),
      modeChanged: () => this.onMode(),
    });
    const { settings, spatial } = this;
    this.region = new RegionTool({ changed: () => this.onRegion(), used: () => (this.showSource(), this.onRegion()) });
    const { region } = this;
    /** @type {Controls} */
    this.controls = new Controls({ box: spatial.box, compass: spatial.compass, orbit: spatial.orbit, region, settings });
    this.composer = new Composer({ workspace, controls: this.controls, spatial, region, settings, takesSeveral: () => server.takesSeveral });
    /** @type {Stage} */
    this.stage = new Stage(workspace, region, spatial, { mode: currentMode, isForming: () => this.composer.isForming });
    this.places = new Places({ workspace, controls: this.controls, stage: this.stage }, { moved: () => this.onMode(), isShownFor: (pending) => this.composer.isShownFor(pending) });
    this.opening = new Opening({ workspace, server, spatial, region, viewer: this.stage.viewer }, { opened: () => (this.onMode(), this.stage.reveal()), goTo: (place, project) => void this.places.goTo(place, project), run: () => this.onRun() });
    this.references = new References(workspace, () => server.limits);
    this.result = new Result(workspace, {
      model: () => server.model,
      schemas: () => server.schemas,
      hasKey: () => server.needsKey,
      goTo: (place) => void this.places.goTo(place),
      keepSeed: (seed) => (this.places.keepSeed(seed), this.showWork()),
    });
    this.run = new Run(workspace, {
      started: () => this.showStart(),
      preview: (pending, address) => this.composer.isShownFor(pending) && this.stage.preview(address),
      done: (pending, { job }) => this.places.arrive(pending, job),
      answered: (_, { text }) => (setAnswer(text || "The model answered nothing."), workspace.keep()),
      ended: () => this.render(),
    });
    this.plan = new PlanPanel({ workspace, composer: this.composer }, {
      run: (runs) => void this.run.add(...runs),
      goTo: (place) => void this.places.goTo(place),
      change: (form) => this.takeUp(form),
      added: () => this.startAnew(),
    });
    this.jobs = new Jobs((job) => void this.places.openJob(job));
    this.projects = new Projects(workspace, { opened: () => this.onMode(), makeRecord: (one, number) => this.result.makeRecord(one, number) });
    this.listen();
  }

  /** Start: what was kept comes back, runs that had not ended continue. */
  async start() {
    try {
      const form = await this.workspace.restore().catch(() => null);
      if (form) this.controls.write(form, this.workspace.source);
      this.onMode();
      this.workspace.commit();
      effect(() => {
        if (state.value) this.render(); // whatever changes of the state
      });
    } finally {
      // Inert until here: what somebody chooses before it would be overwritten by what was saved.
      for (const main of document.querySelectorAll("main")) main.inert = false;
    }
    document.documentElement.dataset.started = "";
    void this.server.watch();
    void this.run.resume();
    if (new URLSearchParams(location.search).has("bench")) this.server.ready.then(async () => (await import("./bench.js")).bench(this));
  }

  /** @param {(controls: Wanted) => Wanted[]} [split] Into several runs. */
  async onRun(split = (controls) => [controls]) {
    const controls = await this.composer.compose();
    if (!controls) return;
    this.workspace.commit();
    if (controls.kind === "describe") setAnswer(null);
    const origin = this.composer.findOrigin();
    await this.run.add(...split(controls).map((one) => ({ key: newId(), request: makeRequest(one), jobId: null, form: stepForm(one.form), ...origin })));
  }

  /** Bring controls back, to be changed. @param {Form} form */
  takeUp(form) {
    this.controls.write(form, this.workspace.source);
    this.onMode();
    this.showWork();
  }

  /** Empty what would be done twice if it were run again. */
  startAnew() {
    if (currentMode() === "edit") byId("prompt-edit", HTMLTextAreaElement).value = "";
    if (currentMode() === "move") this.spatial.box.set(null);
    if (currentMode() === "move") this.spatial.setObject("");
    this.onMode();
    this.workspace.commit();
  }

  onMode() {
    if (this.server.takesSeveral) this.region.set("", "all");
    showMode(this.server.takesSeveral);
    this.settings.setKind(currentMode());
    if (isSpatial()) this.spatial.prompt.render();
    showIdeas(currentMode(), findExample(this.workspace.original?.name), this.server.isTiny, () => (this.spatial.onControl(), this.workspace.commit()));
    renderAnswer();
    this.render();
    this.workspace.keep();
  }

  onRegion() {
    this.workspace.commit();
    this.spatial.onControl();
  }

  /** Show that something happens. */
  showStart() {
    this.render();
    if (this.composer.isForming) this.stage.reveal();
  }

  /** Show what the next run starts from, where it is worked on. */
  showSource() {
    this.stage.chooseSource();
    this.render();
  }

  showWork() {
    const mode = currentMode();
    if (isSpatial() || mode === "describe" || (mode === "edit" && this.region.isUsed)) this.showSource();
  }

  render() {
    renderRunbar(this.workspace);
    this.result.render();
    this.references.render();
    this.stage.render();
    this.spatial.renderBox();
    this.settings.renderSizeHint(this.workspace.source);
    renderTray(this.run);
    this.plan.render();
    keepFocus(focusFirst);
  }

  listen() {
    listenToSurroundings({
      step: (by) => void this.places.step(by),
      peek: (isHeld) => this.stage.peek(isHeld),
      select: (number) => number < (this.workspace.results?.pictures.length ?? 0) && this.workspace.select(number),
      run: () => void this.onRun(),
    });
    byId("modes", HTMLElement).addEventListener("change", () => {
      this.onMode();
      byId("panel", HTMLElement).scrollTop = 0;
      this.showWork();
    });
    byId("base", HTMLElement).addEventListener("change", () => {
      this.places.setBase(/** @type {Base} */ (chosen("base")));
      this.showWork();
      this.workspace.commit();
    });
    for (const button of document.querySelectorAll("[data-around]")) {
      button.addEventListener("click", () => void this.onRun((controls) => around(controls, Math.floor(Math.random() * 2 ** 31))));
    }
    byId("undo", HTMLElement).addEventListener("click", () => void this.places.step(-1));
    byId("redo", HTMLElement).addEventListener("click", () => void this.places.step(1));
    byId("skip-to-result", HTMLElement).addEventListener("click", (event) => {
      event.preventDefault();
      byId("result", HTMLElement).focus();
    });
    byId("views", HTMLElement).addEventListener("change", () => this.render());
    byId("panel", HTMLFormElement).addEventListener("input", () => this.workspace.keep());
    byId("panel", HTMLFormElement).addEventListener("change", () => this.workspace.commit());
    byId("panel", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.onRun();
    });
    addEventListener("pagehide", () => this.workspace.keep());
  }
}

void new App().start();
