/** The page: what its parts tell each other. */

import { getExample, getHealth, getJob, getSchemas, isFinished, listModels, on as server } from "./api.js";
import { BoxEditor } from "./box.js";
import { BoxFields } from "./boxfields.js";
import { Compass } from "./compass.js";
import { byId, choose, chosen, newId, tell } from "./dom.js";
import { askForFile, listenToFiles } from "./files.js";
import { keepFocus } from "./focus.js";
import { findObject } from "./ghost.js";
import { Controls } from "./form.js";
import { canStep, nameOf, ROOT, stepped } from "./history.js";
import { EXAMPLES, findExample, findIdeas, showIdeas } from "./ideas.js";
import { Gizmo } from "./gizmo.js";
import { Jobs } from "./jobs.js";
import { askForKey } from "./key.js";
import { notify, withdraw } from "./notices.js";
import { Orbit } from "./orbit.js";
import { readPicture } from "./picture.js";
import { Projects } from "./projects.js";
import { Prompt, adviseOnFreeWords } from "./prompt.js";
import { References } from "./references.js";
import { RegionTool } from "./regiontool.js";
import { findProblem, makeRequest } from "./request.js";
import { Result } from "./result.js";
import { fetchInputs, fetchResults, Run, sentence } from "./run.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { attempt, effect, source, state, update } from "./store.js";
import { around } from "./sweep.js";
import { renderTray } from "./tray.js";
import { ViewRing } from "./viewring.js";
import { stepForm, Workspace } from "./workspace.js";

/** @import { Base } from "./history.js" */
/** @import { Job, Kind, Model, Pending, Results, Schemas } from "./types.js" */
/** @import { Example } from "./ideas.js" */
/** @import { SpatialEdit, Wording } from "./words.js" */

const READY_EVERY_MS = 10_000;
const WAITING_EVERY_MS = 1500;
const READING_MS = 400; // a faster file needs no message
const FIRST_FIELDS = { edit: "prompt-edit", generate: "prompt-generate", describe: "question", camera: "yaw", move: "object", rotate: "object" };
const RUN_LABELS = {
  edit: "Edit the picture",
  move: "Move the object",
  rotate: "Turn the object",
  camera: "Move the camera",
  generate: "Create a picture",
  describe: "Ask",
};

class App {
  constructor() {
    /** @type {Model | null} */
    this.model = null;
    /** @type {Schemas | null} */
    this.schemas = null;
    this.isModelOld = true; // whether the server may have another model than the one known here
    this.needsKey = false;
    this.box = new BoxEditor(() => this.onBox(), (name) => this.setObject(name), (place) => void this.pick(place));
    this.region = new RegionTool({ changed: () => this.onRegion(), used: () => (this.showSource(), this.onRegion()) });
    this.ring = new ViewRing({ chosen: (view) => this.setView(view), picked: (place) => void this.surround(place) });
    this.gizmo = new Gizmo({ angles: () => this.orbit.angles, turn: (yaw, pitch) => this.orbit.turnTo(yaw, pitch) });
    this.compass = new Compass(() => this.onSpace());
    this.orbit = new Orbit(() => this.onSpace());
    this.settings = new Settings(() => (this.settings.renderSizeHint(this.workspace.source), this.onControl()));
    this.controls = new Controls(this);
    this.workspace = new Workspace(() => this.controls.read());
    this.boxFields = new BoxFields(this.box, () => this.onTypedBox());
    this.stage = new Stage(this.workspace, this.box, this.region, { ring: this.ring, gizmo: this.gizmo, cameras: () => this.orbit.cameras, view: () => this.compass.view }, { mode: () => this.mode, isForming: () => this.isForming });
    this.references = new References(this.workspace, () => this.model?.limits ?? null);
    this.prompt = new Prompt(() => this.readEdit(), (edit, wording) => this.applyEdit(edit, wording), (text) => this.sendFreely(text));
    this.result = new Result(this.workspace, {
      model: () => this.model,
      schemas: () => this.schemas,
      hasKey: () => this.needsKey,
      goTo: (place) => void this.goTo(place),
      keepSeed: (seed) => this.keepSeed(seed),
    });
    this.run = new Run(this.workspace, {
      started: () => this.showStart(),
      preview: (pending, address) => this.isShownFor(pending) && this.stage.preview(address),
      done: (pending, results) => this.onDone(pending, results),
      answered: (_, job) => this.showAnswer(job),
      ended: () => this.render(),
    });
    this.jobs = new Jobs((job) => void this.openJob(job));
    this.projects = new Projects(this.workspace, {
      opened: () => this.onMode(),
      makeRecord: (one, number) => this.result.makeRecord(one, number),
    });
    this.listen();
  }

  /** @returns {Kind} */
  get mode() {
    return /** @type {Kind} */ (chosen("mode"));
  }

  /** @returns {boolean} Whether what is chosen now is done on the image that the next run starts from. */
  get worksOnSource() {
    return ["move", "rotate", "camera", "describe"].includes(this.mode) || (this.mode === "edit" && this.region.isUsed);
  }

  get isTiny() {
    return this.model?.id === "tiny";
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
    void this.watchServer();
    void this.run.resume();
  }

  // -- the server ----------------------------------------------------------------------------------------------

  /** Look at the server again and again: whether it is there, whether its model is. */
  async watchServer() {
    for (;;) {
      if (!document.hidden) await this.lookAtServer();
      await new Promise((resolve) => setTimeout(resolve, this.isModelOld ? WAITING_EVERY_MS : READY_EVERY_MS));
    }
  }

  async lookAtServer() {
    try {
      const health = await getHealth();
      this.needsKey = health.needs_key;
      if (!this.model || this.isModelOld) {
        const models = await listModels();
        this.schemas = await getSchemas();
        this.model = models[0];
        this.isModelOld = this.model.default_steps === undefined;
        this.settings.setModels(models, this.schemas);
        this.onMode();
      }
      const { id, device } = this.model;
      tell(byId("model-chip", HTMLElement), health.is_ready ? `Model: ${id} · ${device}` : `${id} is being loaded…`);
      const publishedModel = "jdopensource/JoyAI-Image-Edit-Diffusers";
      tell(
        byId("drop-model", HTMLElement),
        this.isTiny ? `This server runs the small model that comes with joyimage. It edits drawn scenes like these within seconds. For photos, run: joyimage ui --model ${publishedModel}` : null,
      );
      byId("try", HTMLElement).hidden = !(this.isTiny && health.is_ready);
      if (health.problem) notify("model", health.problem);
      else withdraw("model");
    } catch (error) {
      tell(byId("model-chip", HTMLElement), sentence(error));
    }
  }

  /** @param {boolean} isThere */
  onReach(isThere) {
    if (isThere) return withdraw("gone");
    this.isModelOld = true;
    tell(byId("model-chip", HTMLElement), "No answer");
    notify("gone", "The server doesn't answer. This page waits for it, and nothing that you see here is lost.");
  }

  // -- images --------------------------------------------------------------------------------------------------

  /** Open an image as a project of its own; the one before is kept. @param {Blob} file @param {string} name */
  async open(file, name) {
    const left = state.value.project;
    notify("reading", `Reading ${name}…`, { kind: "news", afterMs: READING_MS });
    try {
      const picture = await readPicture(file, name, this.model?.limits ?? null);
      withdraw("picture");
      withdraw("reading");
      this.adviseTiny(name); // before the image is seen: a message moves it
      this.workspace.commit();
      tell(byId("answer-text", HTMLElement), null);
      if (this.mode === "generate") choose("mode", "edit");
      this.box.setSize(picture);
      this.box.set(null);
      this.region.setSize(picture);
      this.region.set("", "all");
      this.stage.viewer.fit();
      this.workspace.open(picture);
      this.onMode();
      this.workspace.commit();
      this.focusFirst();
      if (!left || left.attempts.length < 2) return withdraw("project");
      const action = { label: `Back to ${left.name}`, run: () => void this.goTo(left.attempts.at(-1)?.id ?? ROOT, left.id) };
      notify("project", `${left.name} and its edits are kept under Projects.`, { kind: "news", action });
    } catch (error) {
      notify("picture", sentence(error));
      withdraw("reading");
    }
  }

  /** Put the focus where one continues, where it was lost with the button that was pressed. */
  focusFirst() {
    const active = document.activeElement;
    if (active && active !== document.body && active.checkVisibility()) return;
    // A phone's keyboard would cover what has just been opened.
    const isTouch = matchMedia("(pointer: coarse)").matches && !byId("panes", HTMLElement).hidden;
    byId(isTouch ? "panes" : FIRST_FIELDS[this.mode], HTMLElement).focus({ preventScroll: true });
  }

  /** Say before the first disappointment what the embedded model is for. @param {string} name Of the picture. */
  adviseTiny(name) {
    if (!this.isTiny || findExample(name)) return withdraw("tiny");
    notify(
      "tiny",
      "This server runs the tiny model that comes with joyimage. It edits drawn scenes like the examples; " +
        "photographs need the published one: `joyimage ui --model jdopensource/JoyAI-Image-Edit-Diffusers`",
      { kind: "news" },
    );
  }

  /** @param {Example} name */
  async openExample(name) {
    const { mode, object } = EXAMPLES[name];
    try {
      const file = await getExample(name);
      choose("mode", mode);
      byId("prompt-edit", HTMLTextAreaElement).value = findIdeas("edit", name, this.isTiny)[0] ?? "";
      this.setObject(object);
      await this.open(file, `${name}.png`);
    } catch (error) {
      notify("picture", sentence(error));
    }
  }

  // -- the words -----------------------------------------------------------------------------------------------

  /** @returns {{edit: SpatialEdit, wording: Wording}} */
  readEdit() {
    const wording = /** @type {Wording} */ (byId("wording", HTMLSelectElement).value);
    const object = byId("object", HTMLInputElement).value;
    const [yaw, pitch] = this.orbit.angles;
    if (this.mode === "move") return { edit: { kind: "move", object }, wording };
    if (this.mode === "rotate") return { edit: { kind: "rotate", object, view: this.compass.view }, wording };
    return { edit: { kind: "camera", yaw, pitch, zoom: this.orbit.zoom.value }, wording };
  }

  /** @param {SpatialEdit} edit @param {Wording} wording */
  applyEdit(edit, wording) {
    byId("wording", HTMLSelectElement).value = wording;
    if (edit.kind === "camera") this.orbit.set(edit.yaw, edit.pitch, edit.zoom);
    else {
      byId("object", HTMLInputElement).value = edit.object;
      this.box.name.value = edit.object;
      if (edit.kind === "rotate") this.compass.set(edit.view);
    }
    this.workspace.keep();
  }

  /** @param {string} text */
  sendFreely(text) {
    byId("prompt-edit", HTMLTextAreaElement).value = text;
    choose("mode", "edit");
    this.onMode();
    byId("prompt-edit", HTMLTextAreaElement).focus();
  }

  /** @param {string} name */
  setObject(name) {
    byId("object", HTMLInputElement).value = name;
    this.box.name.value = name;
    this.onControl();
  }

  onControl() {
    this.prompt.render();
    tell(byId("run-problem", HTMLElement), null);
    this.workspace.keep();
  }

  onBox() {
    tell(byId("run-problem", HTMLElement), null);
    this.workspace.commit();
    this.workspace.keep();
    this.renderBox();
  }

  onSpace() {
    this.onControl();
    this.stage.render();
  }

  /** @param {string} view */
  setView(view) {
    this.compass.set(view);
    this.onSpace();
    this.workspace.commit();
  }

  /** Put the ring of views around the object at a place. @param {{x: number, y: number}} place */
  async surround(place) {
    const { source: image } = this.workspace;
    const found = image && (await findObject(image, place).catch(() => null));
    if (!found || this.workspace.source !== image) return;
    this.ring.surround(found.box);
    this.stage.render();
  }

  onRegion() {
    this.workspace.commit();
    this.onControl();
  }

  /** Take the object at a place of the image, to be dragged. @param {{x: number, y: number}} place */
  async pick(place) {
    const { source: image } = this.workspace;
    const found = image && (await findObject(image, place).catch(() => null));
    if (!found || this.workspace.source !== image || !this.stage.isDrawing) {
      return tell(byId("box-advice", HTMLElement), "No object stands out here. Click on another place of it, or draw a box where it should go.");
    }
    this.box.take(found.box, found.ghost, found.outline);
  }

  onTypedBox() {
    if (this.box.box) this.showSource();
    this.renderBox();
    this.workspace.keep();
  }

  renderBox() {
    this.boxFields.render();
    byId("box-add", HTMLElement).hidden = this.box.box !== null;
    byId("box-redraw", HTMLElement).hidden = this.box.box === null || !this.stage.isDrawing;
    byId("box-show", HTMLElement).hidden = this.box.box === null || this.stage.isDrawing || this.mode !== "move";
  }

  onMode() {
    for (const part of document.querySelectorAll("[data-modes]")) {
      if (part instanceof HTMLElement) part.hidden = !part.dataset.modes?.split(" ").includes(this.mode);
    }
    const takesSeveral = Boolean(this.model?.takes_several_images);
    byId("references", HTMLElement).hidden = !takesSeveral;
    // Such a checkpoint takes the pictures of an edit in as they are.
    for (const id of takesSeveral && this.mode === "edit" ? ["framing-in", "framing-out"] : []) byId(id, HTMLElement).hidden = true;
    if (takesSeveral) this.region.set("", "all");
    byId("region-use", HTMLElement).hidden = takesSeveral;
    const size = byId("size", HTMLSelectElement).options[0];
    size.text = this.mode === "generate" ? "The checkpoint's square" : "As the picture";
    tell(byId("run", HTMLElement), RUN_LABELS[this.mode]);
    this.settings.setKind(this.mode);
    tell(byId("run-problem", HTMLElement), null);
    if (["move", "rotate", "camera"].includes(this.mode)) this.prompt.render();
    this.renderIdeas();
    this.renderAnswer();
    this.render();
    this.workspace.keep();
  }

  renderIdeas() {
    const example = findExample(this.workspace.original?.name);
    showIdeas(this.mode, example, this.isTiny, () => {
      this.onControl();
      this.workspace.commit();
    });
  }

  // -- running -------------------------------------------------------------------------------------------------

  /** @returns {import("./request.js").Controls} */
  readControls() {
    const { source: image, references } = this.workspace;
    const { mode: kind } = this;
    const pictures = image ? [image.id] : [];
    if (kind === "edit" && this.model?.takes_several_images) pictures.push(...references.map(({ id }) => id));
    return {
      kind,
      form: this.controls.read(),
      box: this.box.box,
      view: this.compass.view,
      settings: kind === "describe" ? this.settings.more.read(kind) : this.settings.read(image),
      mask: this.region.mask,
      isMasked: this.region.isUsed,
      pictures,
      problem: this.findOwnProblem(),
    };
  }

  /** @returns {import("./request.js").Problem | null} */
  findOwnProblem() {
    if (["move", "rotate", "camera"].includes(this.mode) && this.prompt.problem) return { sentence: this.prompt.problem, focus: "prompt-sent" };
    if (this.mode === "move" && this.box.isAtOrigin) return { sentence: "Drag the object to where it should go.", focus: "box-show" };
    const problem = (this.mode === "camera" && this.orbit.problem) || (this.mode === "describe" ? null : this.settings.problem);
    return problem && { sentence: problem.sentence, focus: problem.focus.id };
  }

  /** @param {(controls: import("./request.js").Controls) => import("./request.js").Controls[]} [split] Into several runs. */
  async onRun(split = (controls) => [controls]) {
    await this.prompt.checking;
    const controls = this.readControls();
    const problem = findProblem(controls);
    tell(byId("run-problem", HTMLElement), problem?.sentence ?? null);
    if (problem) {
      const place = byId(problem.focus, HTMLElement);
      place.closest("details")?.setAttribute("open", "");
      byId("settings", HTMLDetailsElement).open ||= byId("settings", HTMLElement).contains(place);
      return (place.hidden ? this.box.frame : place).focus();
    }
    this.workspace.commit();
    if (this.mode === "describe") tell(byId("answer-text", HTMLElement), null);
    this.renderAnswer();
    const origin = this.findOrigin();
    const added = split(controls).map((one) => this.run.add({ key: newId(), request: makeRequest(one), jobId: null, form: stepForm(one.form), ...origin }));
    await Promise.all(added);
  }

  /** @returns {Pick<Pending, "project" | "parent" | "from" | "place">} Where the results of a run belong. */
  findOrigin() {
    const { project, place } = state.value;
    const isCreated = project !== null && project.attempts[0].pictures.length === 0;
    // What is created is a project of its own, with all that is created after it.
    if (this.mode === "generate") return { project: isCreated ? project.id : newId(), parent: ROOT, from: 0, place };
    const origin = source.value;
    return { project: project?.id ?? newId(), parent: origin?.attempt ?? ROOT, from: origin?.number ?? 0, place };
  }

  /** Tell whether what is shown is still what a run was started from. @param {Pending} pending */
  isShownFor(pending) {
    const { project, place } = state.value;
    if (pending.request.kind === "generate") return this.mode === "generate";
    return project?.id === pending.project && place === pending.place && pending.form.box === this.controls.read().box;
  }

  /** @returns {boolean} Whether an image that forms may be shown. */
  get isForming() {
    const [pending] = state.value.queue;
    return pending !== undefined && this.isShownFor(pending);
  }

  /** Show that something happens. */
  showStart() {
    this.render();
    if (this.isForming) this.stage.reveal();
  }

  /** Bring a result to the stage, unless something else is being worked on there. @param {Pending} pending @param {Results} results */
  onDone(pending, { job }) {
    const words = pending.request.fields.prompt ?? job.prompt ?? "Your edit";
    const show = () => void this.goTo(job.id, pending.project, { keepsForm: true, isNew: true });
    if (this.isShownFor(pending)) return show();
    notify("done", `Done: ${words.split("\n")[0]}`, { kind: "news", action: { label: "Show", run: show } });
  }

  /** @param {Job} job */
  showAnswer(job) {
    tell(byId("answer-text", HTMLElement), job.text || "The model answered nothing.");
    this.renderAnswer();
    this.workspace.keep();
  }

  /** Show the answer where questions are asked, and nowhere else. */
  renderAnswer() {
    byId("answer", HTMLElement).hidden = this.mode !== "describe" || !byId("answer-text", HTMLElement).textContent;
  }

  /** Open a job's results, with its input where the server still has it. @param {Job} job */
  async openJob(job) {
    try {
      const { project } = state.value;
      const isHere = project?.attempts.some((one) => one.id === job.id);
      const id = project && isHere ? project.id : `job-${job.id}`;
      const found = isFinished(job) ? job : await getJob(job.id);
      if (!isHere) await this.workspace.addJob(id, await fetchResults(found, null, null), await fetchInputs(found), this.controls.readJob(found));
      if (this.mode === "generate" && job.kind !== "generate") choose("mode", "edit");
      await this.goTo(job.id, id);
      if (!this.workspace.input && job.kind !== "generate") notify("job", "The server no longer has what went into this job.", { kind: "news" });
    } catch (error) {
      notify("job", sentence(error));
    }
  }

  /** @param {number} seed */
  keepSeed(seed) {
    byId("seed", HTMLInputElement).value = String(seed);
    byId("settings", HTMLDetailsElement).open = true;
    this.settings.summarize();
    this.setBase("original"); // the same seed gives the same result for the same image only
    this.workspace.commit();
    notify("seed", `The next run takes seed ${seed} again, and the same image. Empty the field for new ones.`, { kind: "news" });
  }

  // -- places and steps ----------------------------------------------------------------------------------------

  /**
   * Go to an attempt, with the words and settings that made it.
   *
   * @param {string} place
   * @param {string} [project] Id; without, the one on the stage.
   * @param {{keepsForm?: boolean, isNew?: boolean}} [options]
   */
  async goTo(place, project = state.value.project?.id ?? "", { keepsForm = false, isNew = false } = {}) {
    this.workspace.commit();
    if (isNew) this.stage.isNew = true;
    if (!(await this.workspace.openProject(project, place, state.value.base))) return;
    if (isNew) this.stage.expectResult();
    if (attempt.value?.form && !keepsForm) this.controls.write(attempt.value.form, this.workspace.source);
    this.onMode();
    this.workspace.commit();
  }

  /** Undo (-1) or redo (1). @param {-1 | 1} by */
  async step(by) {
    this.workspace.commit();
    const past = stepped(state.value.past, by);
    const wanted = past.states[past.at];
    if (past === state.value.past || !wanted) return;
    update({ past });
    if (!wanted.project) update({ project: null, place: ROOT });
    else if (!(await this.workspace.openProject(wanted.project, wanted.place, wanted.base))) return;
    this.controls.write(wanted.form, this.workspace.source);
    this.onMode();
  }

  /** @param {Base} base What the next run starts from. */
  setBase(base) {
    update({ base });
    this.workspace.keep();
    if (this.worksOnSource) this.showSource();
  }

  // -- what is shown -------------------------------------------------------------------------------------------

  /** Show what the next run starts from, where the box is to be seen. */
  showSource() {
    this.stage.chooseSource();
    this.render();
  }

  render() {
    this.renderRun();
    this.result.render();
    this.references.render();
    this.stage.render();
    this.renderBox();
    this.settings.renderSizeHint(this.workspace.source);
    renderTray(this.run);
    keepFocus(() => this.focusFirst());
  }

  renderRun() {
    const { queue, past, project, base } = state.value;
    byId("canvas", HTMLElement).classList.toggle("busy", queue.length > 0);
    byId("undo", HTMLButtonElement).disabled = !canStep(past, -1);
    byId("redo", HTMLButtonElement).disabled = !canStep(past, 1);
    byId("skip-to-result", HTMLElement).hidden = !this.workspace.results;
    const parent = attempt.value?.parent;
    const hasChoice = project !== null && this.workspace.input !== null && this.mode !== "generate";
    byId("base", HTMLElement).hidden = !hasChoice;
    choose("base", base);
    if (hasChoice && parent) tell(byId("base-original", HTMLElement), nameOf(project, parent));
  }

  // -- what the user does --------------------------------------------------------------------------------------

  listen() {
    server.keyNeeded = askForKey;
    server.reach = (isThere) => this.onReach(isThere);
    const take = (/** @type {File} */ file) => void this.open(file, file.name || "pasted.png");
    listenToFiles(take);
    for (const id of ["choose", "replace"]) {
      byId(id, HTMLElement).addEventListener("click", () => askForFile(take));
    }
    for (const button of document.querySelectorAll("[data-example]")) {
      const name = /** @type {Example} */ (/** @type {HTMLElement} */ (button).dataset.example);
      button.addEventListener("click", () => void this.openExample(name));
    }
    adviseOnFreeWords();
    byId("modes", HTMLElement).addEventListener("change", () => {
      this.onMode();
      byId("panel", HTMLElement).scrollTop = 0;
      if (this.worksOnSource) this.showSource();
    });
    byId("base", HTMLElement).addEventListener("change", () => {
      this.setBase(/** @type {Base} */ (chosen("base")));
      this.workspace.commit();
    });
    for (const button of document.querySelectorAll("[data-around]")) {
      button.addEventListener("click", () => void this.onRun((controls) => around(controls, Math.floor(Math.random() * 2 ** 31))));
    }
    byId("try", HTMLElement).addEventListener("click", () => void this.openExample("shapes").then(() => this.onRun()));
    byId("undo", HTMLElement).addEventListener("click", () => void this.step(-1));
    byId("redo", HTMLElement).addEventListener("click", () => void this.step(1));
    byId("skip-to-result", HTMLElement).addEventListener("click", (event) => {
      event.preventDefault();
      byId("result", HTMLElement).focus();
    });
    addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("keyup", (event) => event.key === "\\" && this.stage.peek(false));
    addEventListener("blur", () => this.stage.peek(false));
    byId("keys-open", HTMLElement).addEventListener("click", () => byId("keys-dialog", HTMLDialogElement).showModal());
    byId("views", HTMLElement).addEventListener("change", () => this.render());
    byId("object", HTMLInputElement).addEventListener("input", () => this.setObject(byId("object", HTMLInputElement).value));
    byId("box-add", HTMLElement).addEventListener("click", () => {
      if (!this.workspace.source) return tell(byId("run-problem", HTMLElement), "Choose a picture first.");
      this.showSource();
      this.box.add();
    });
    byId("box-redraw", HTMLElement).addEventListener("click", () => {
      this.showSource();
      this.box.arm();
      this.stage.reveal();
    });
    byId("box-show", HTMLElement).addEventListener("click", () => {
      this.showSource();
      this.box.frame.focus();
    });
    const cue = () => {
      const { scrollTop, clientHeight, scrollHeight } = byId("panel", HTMLElement);
      byId("panel", HTMLElement).classList.toggle("more-below", scrollTop + clientHeight < scrollHeight - 4);
    };
    byId("panel", HTMLElement).addEventListener("scroll", cue, { passive: true });
    const resized = new ResizeObserver(cue);
    for (const part of [byId("panel", HTMLElement), ...byId("panel", HTMLElement).children]) resized.observe(part);
    byId("panel", HTMLFormElement).addEventListener("input", () => this.workspace.keep());
    byId("panel", HTMLFormElement).addEventListener("change", () => this.workspace.commit());
    byId("panel", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.onRun();
    });
    for (const field of document.querySelectorAll("#panel textarea")) {
      field.addEventListener("keydown", (event) => {
        const { key, ctrlKey, metaKey } = /** @type {KeyboardEvent} */ (event);
        if (key === "Enter" && (ctrlKey || metaKey)) void this.onRun();
      });
    }
    for (const button of document.querySelectorAll("[data-close]")) {
      button.addEventListener("click", () => button.closest("dialog")?.close());
    }
    byId("theme-switch", HTMLElement).addEventListener("click", () => {
      const { dataset } = document.documentElement;
      const isDark = dataset.theme ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      dataset.theme = isDark ? "light" : "dark";
      localStorage.setItem("joyimage-theme", dataset.theme);
    });
    addEventListener("pagehide", () => this.workspace.keep());
  }

  /** Hold a key to see what was before; undo and redo, except in a field that has its own. @param {KeyboardEvent} event */
  onKey(event) {
    const isField = event.target instanceof Element && event.target.matches("input:not([type=radio], [type=checkbox]), textarea");
    const key = event.key.toLowerCase();
    const isPlain = !isField && !event.ctrlKey && !event.metaKey && !document.querySelector("dialog[open]");
    if (key === "?" && isPlain) byId("keys-dialog", HTMLDialogElement).showModal();
    if (/^[1-9]$/.test(key) && isPlain && Number(key) <= (this.workspace.results?.pictures.length ?? 0)) this.workspace.select(Number(key) - 1);
    if (key === "\\" && isPlain && !event.repeat) this.stage.peek(true);
    if (!(event.ctrlKey || event.metaKey) || isField || document.querySelector("dialog[open]")) return;
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    void this.step(key === "y" || event.shiftKey ? 1 : -1);
  }
}

void new App().start();
