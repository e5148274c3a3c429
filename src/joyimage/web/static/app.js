/** The page: what its parts tell each other. */

import { Actions } from "./actions.js";
import { setAnswer } from "./answer.js";
import { Composer } from "./composer.js";
import { keepFocus } from "./focus.js";
import { Controls } from "./form.js";
import { Jobs } from "./jobs.js";
import { KeyPen } from "./keypen.js";
import { currentMode, focusFirst } from "./mode.js";
import { Opening } from "./opening.js";
import { Places } from "./places.js";
import { PlanPanel } from "./planpanel.js";
import { Projects } from "./projects.js";
import { References } from "./references.js";
import { RegionTool } from "./regiontool.js";
import { Result } from "./result.js";
import { Run } from "./run.js";
import { renderRunbar } from "./runbar.js";
import { Server } from "./server.js";
import { Settings } from "./settings.js";
import { Spatial } from "./spatial.js";
import { Stage } from "./stage.js";
import { effect, state } from "./store.js";
import { renderTray } from "./tray.js";
import { Workspace } from "./workspace.js";

class App {
  constructor() {
    /** @type {Workspace} */
    this.workspace = new Workspace(() => this.controls.read());
    const { workspace } = this;
    const actions = (this.actions = new Actions(this));
    this.server = new Server((models, schemas) => {
      this.settings.setModels(models, schemas);
      actions.onMode();
    });
    const { server } = this;
    this.settings = new Settings(() => (this.settings.render(workspace.source), this.spatial.onControl()));
    /** @type {Spatial} */
    this.spatial = new Spatial(workspace, {
      isDrawing: () => this.stage.isDrawing,
      showSource: () => actions.showSource(),
      arm: () => this.stage.reveal(),
      render: () => this.stage.render(),
      modeChanged: () => actions.onMode(),
    });
    const { settings, spatial } = this;
    this.region = new RegionTool({ changed: () => actions.onRegion(), used: () => (actions.showSource(), actions.onRegion()) });
    const { region } = this;
    /** @type {Controls} */
    this.controls = new Controls({ box: spatial.box, objectTool: spatial.objectTool, compass: spatial.compass, orbit: spatial.orbit, region, settings });
    this.composer = new Composer({ workspace, controls: this.controls, spatial, region, settings, server });
    /** @type {Stage} */
    this.stage = new Stage(workspace, region, spatial, { mode: currentMode, isForming: () => this.composer.isForming });
    this.pen = new KeyPen({ viewer: this.stage.viewer, region, objectTool: spatial.objectTool, used: () => this.stage.marks });
    this.places = new Places({ workspace, server, controls: this.controls, stage: this.stage }, { moved: () => actions.onMode(), isShownFor: (pending) => this.composer.isShownFor(pending) });
    this.opening = new Opening({ workspace, server, spatial, region, viewer: this.stage.viewer }, { opened: () => (actions.onMode(), this.stage.reveal()), openProject: (id) => void this.places.open(id), run: () => actions.onRun() });
    this.references = new References(workspace, () => server.limits);
    this.result = new Result(workspace, server, {
      goTo: (place) => void this.places.goTo(place),
      keepSeed: (seed) => (this.places.keepSeed(seed), actions.showWork()),
    });
    this.run = new Run(workspace, {
      started: () => actions.showStart(),
      preview: (pending, address) => this.composer.isShownFor(pending) && this.stage.preview(address),
      done: (pending, { job }) => this.places.arrive(pending, job),
      answered: (_, { text }) => (setAnswer(text || "The model returned no answer."), workspace.keep()),
      ended: () => this.render(),
    });
    this.plan = new PlanPanel({ workspace, composer: this.composer }, {
      run: (runs) => void this.run.add(...runs),
      goTo: (place) => void this.places.goTo(place),
      change: (form) => actions.takeUp(form),
      added: () => actions.startAnew(),
    });
    this.jobs = new Jobs((job) => void this.places.openJob(job));
    this.projects = new Projects(workspace, server, { open: (id) => this.places.open(id), deleted: () => actions.onMode(), makeRecord: (...made) => this.result.makeRecord(...made) });
    actions.listen();
  }

  /** Start: what was kept comes back, runs that had not ended continue. */
  async start() {
    try {
      const form = await this.workspace.restore().catch(() => null);
      if (form) this.controls.write(form, this.workspace.source);
      this.actions.onMode();
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

  /** Show everything as it is now. */
  render() {
    renderRunbar(this.workspace);
    this.result.render();
    this.references.render();
    this.stage.render();
    this.spatial.renderBox();
    this.pen.render();
    this.settings.render(this.workspace.source);
    renderTray(this.run);
    this.plan.render();
    keepFocus(focusFirst);
  }
}

void new App().start();
