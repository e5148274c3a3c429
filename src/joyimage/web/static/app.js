/** The page: what its parts tell each other. */

import { fetchResults, Run, sentence } from "./run.js";
import { getExample, getHealth, getJob, getSchemas, isFinished, listModels, on as server } from "./api.js";
import { BoxEditor } from "./box.js";
import { Compass } from "./compass.js";
import { byId, choose, chosen, tell } from "./dom.js";
import { askForFile, listenToFiles } from "./files.js";
import { fromNumbers } from "./geometry.js";
import { EXAMPLES, findExample, findIdeas, showIdeas } from "./ideas.js";
import { Jobs } from "./jobs.js";
import { askForKey } from "./key.js";
import { notify, withdraw } from "./notices.js";
import { Orbit } from "./orbit.js";
import { readPicture } from "./picture.js";
import { Prompt, adviseOnFreeWords } from "./prompt.js";
import { References } from "./references.js";
import { Result } from "./result.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { Workspace } from "./workspace.js";

/** @import { Job, Kind, Model, Request, Schemas } from "./types.js" */
/** @import { Example } from "./ideas.js" */
/** @import { SpatialEdit, Wording } from "./words.js" */

const BOX_SIDES = /** @type {const} */ (["left", "top", "width", "height"]);
const READY_EVERY_MS = 10_000;
const WAITING_EVERY_MS = 1500;
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
    this.boxWritten = "null"; // the box that the number fields show
    this.isModelOld = true; // whether the server may have another model than the one known here
    this.needsKey = false;
    this.workspace = new Workspace(() => this.readForm());
    this.box = new BoxEditor(() => this.onBox(), (name) => this.setObject(name));
    this.stage = new Stage(this.workspace, this.box, { mode: () => this.mode, isGoing: () => this.run.isGoing });
    this.references = new References(this.workspace, () => this.model?.limits ?? null);
    this.compass = new Compass(() => this.onControl());
    this.orbit = new Orbit(() => this.onControl());
    this.settings = new Settings(() => this.onControl());
    this.prompt = new Prompt(() => this.readEdit(), (edit, wording) => this.applyEdit(edit, wording), (text) => this.sendFreely(text));
    this.result = new Result(this.workspace, {
      model: () => this.model,
      schemas: () => this.schemas,
      hasKey: () => this.needsKey,
      shown: () => this.render(),
      again: () => this.editAgain(),
      keepSeed: (seed) => this.keepSeed(seed),
    });
    this.run = new Run(this.workspace, {
      started: () => this.showStart(),
      preview: (address) => this.stage.preview(address),
      done: () => this.stage.expectResult(),
      answered: (job) => this.showAnswer(job),
      ended: () => this.render(),
    });
    this.jobs = new Jobs((job) => void this.openJob(job));
    this.listen();
  }

  /** @returns {Kind} */
  get mode() {
    return /** @type {Kind} */ (chosen("mode"));
  }

  get isTiny() {
    return this.model?.id === "tiny";
  }

  /** Begin: what was kept comes back, a run that was going goes on. */
  async start() {
    try {
      const form = await this.workspace.restore().catch(() => null);
      if (form) this.writeForm(form);
      this.onMode();
      this.render();
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

  // -- pictures ------------------------------------------------------------------------------------------------

  /** @param {Blob} file @param {string} name */
  async open(file, name) {
    if (this.run.isGoing) return notify("picture", "A run is going on; wait for its end, or cancel it.");
    try {
      const picture = await readPicture(file, name, this.model?.limits ?? null);
      withdraw("picture");
      this.workspace.open(picture);
      this.adviseTiny(name);
      tell(byId("answer-text", HTMLElement), null);
      this.renderAnswer();
      if (this.mode === "generate") choose("mode", "edit");
      this.box.setSize(picture);
      this.box.set(null);
      this.stage.viewer.fit();
      this.onMode();
      this.render();
    } catch (error) {
      notify("picture", sentence(error));
    }
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
    this.workspace.keepSoon();
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
    this.workspace.keepSoon();
  }

  onBox() {
    this.renderBoxNumbers();
    tell(byId("run-problem", HTMLElement), null);
    this.workspace.keepSoon();
  }

  renderBoxNumbers() {
    const { box } = this.box;
    // Numbers that are not a box yet stay as they were typed; they go with a box that is removed.
    if (String(box) !== this.boxWritten && (box || this.boxWritten !== "null")) {
      const values = box ? [box[0], box[1], box[2] - box[0], box[3] - box[1]] : ["", "", "", ""];
      BOX_SIDES.forEach((side, n) => (byId(`box-${side}`, HTMLInputElement).value = String(values[n])));
      this.boxWritten = String(box);
    }
    tell(byId("box-advice", HTMLElement), this.box.advice);
    byId("box-add", HTMLElement).hidden = this.box.box !== null;
    byId("box-redraw", HTMLElement).hidden = this.box.box === null || !this.stage.isDrawing;
    byId("box-show", HTMLElement).hidden = this.box.box === null || this.stage.isDrawing || this.mode !== "move";
  }

  /** Take a box that is typed; what is typed is left alone until the field is left. */
  onBoxNumbers() {
    const texts = BOX_SIDES.map((side) => byId(`box-${side}`, HTMLInputElement).value);
    const box = fromNumbers(texts, this.box.size);
    if (!box) return this.workspace.keepSoon();
    this.box.set(box);
    this.boxWritten = String(box);
    tell(byId("box-advice", HTMLElement), this.box.advice);
    this.showSource();
    this.workspace.keepSoon();
  }

  /** Show the box that typed numbers have become: it is shifted into the image. */
  onBoxNumbersDone() {
    if (this.box.box) this.boxWritten = "";
    this.renderBoxNumbers();
  }

  onMode() {
    for (const part of document.querySelectorAll("[data-modes]")) {
      if (part instanceof HTMLElement) part.hidden = !part.dataset.modes?.split(" ").includes(this.mode);
    }
    const takesSeveral = Boolean(this.model?.takes_several_images);
    byId("references", HTMLElement).hidden = !takesSeveral;
    // Such a checkpoint takes the pictures of an edit in as they are.
    for (const id of takesSeveral && this.mode === "edit" ? ["framing-in", "framing-out"] : []) byId(id, HTMLElement).hidden = true;
    const size = byId("size", HTMLSelectElement).options[0];
    size.text = this.mode === "generate" ? "The checkpoint's square" : "As the picture";
    tell(byId("run", HTMLElement), RUN_LABELS[this.mode]);
    this.settings.setKind(this.mode);
    tell(byId("run-problem", HTMLElement), null);
    if (["move", "rotate", "camera"].includes(this.mode)) this.prompt.render();
    this.renderIdeas();
    this.renderAnswer();
    this.render();
    this.workspace.keepSoon();
  }

  renderIdeas() {
    const example = findExample(this.workspace.chain[0]?.picture.name);
    showIdeas(this.mode, example, this.isTiny, () => this.onControl());
  }

  // -- running -------------------------------------------------------------------------------------------------

  /** @returns {{sentence: string, focus: HTMLElement} | null} What is missing. */
  findProblem() {
    const { source } = this.workspace;
    const problem = (/** @type {string} */ text, /** @type {string} */ id) => ({ sentence: text, focus: byId(id, HTMLElement) });
    if (!source && this.mode !== "generate") return problem("Choose a picture first.", "choose");
    if (this.mode === "edit" && !byId("prompt-edit", HTMLTextAreaElement).value.trim()) return problem("Say what should change.", "prompt-edit");
    if (this.mode === "generate" && !byId("prompt-generate", HTMLTextAreaElement).value.trim()) return problem("Say what it should show.", "prompt-generate");
    if (["move", "rotate"].includes(this.mode) && !byId("object", HTMLInputElement).value.trim()) return problem("Name the object.", "object");
    if (this.mode === "move" && !this.box.box) {
      const values = BOX_SIDES.map((side) => byId(`box-${side}`, HTMLInputElement).value);
      const wrong = BOX_SIDES.find((_, n) => values[n] === "" || (n > 1 && Number(values[n]) < 1));
      if (wrong && values.some(Boolean)) return problem(`Type the ${wrong} of the box, or draw the box.`, `box-${wrong}`);
      return problem("Draw a box where the object should go.", "box-add");
    }
    if (["move", "rotate", "camera"].includes(this.mode) && this.prompt.problem) return problem(this.prompt.problem, "prompt-sent");
    if (this.mode === "camera" && this.orbit.problem) return this.orbit.problem;
    const setting = this.mode === "describe" ? null : this.settings.problem;
    return setting && { sentence: setting.sentence, focus: setting.input };
  }

  /** @returns {Request} */
  makeRequest() {
    const { edit, wording } = this.readEdit();
    const kind = this.mode;
    const { source, references } = this.workspace;
    /** @type {Record<string, string>} */
    const fields = kind === "describe" ? this.settings.more.read(kind) : this.settings.read();
    const pictures = source && kind !== "generate" ? [source.id] : [];
    if (kind === "edit") fields.prompt = byId("prompt-edit", HTMLTextAreaElement).value.trim();
    if (kind === "edit" && this.model?.takes_several_images) pictures.push(...references.map(({ id }) => id));
    if (kind === "generate") fields.prompt = byId("prompt-generate", HTMLTextAreaElement).value.trim();
    if (kind === "describe") {
      const question = byId("question", HTMLTextAreaElement).value.trim();
      if (question) fields.question = question;
    }
    if (["move", "rotate", "camera"].includes(kind)) fields.prompt_style = wording;
    if (kind === "move" || kind === "rotate") fields.object = byId("object", HTMLInputElement).value.trim();
    if (kind === "move" && this.box.box) fields.box = this.box.box.join(",");
    if (kind === "rotate") fields.view = this.compass.view;
    if (kind === "camera" && edit.kind === "camera") {
      Object.assign(fields, { yaw: String(edit.yaw), pitch: String(edit.pitch), zoom: edit.zoom });
    }
    return { kind, fields, pictures };
  }

  async onRun() {
    if (this.run.isGoing) return;
    await this.prompt.checking;
    if (this.mode !== "generate" && !this.workspace.source && this.workspace.result) {
      this.workspace.takeResult();
      this.render();
    }
    const problem = this.findProblem();
    tell(byId("run-problem", HTMLElement), problem?.sentence ?? null);
    if (problem) {
      problem.focus.closest("details")?.setAttribute("open", "");
      byId("settings", HTMLDetailsElement).open ||= byId("settings", HTMLElement).contains(problem.focus);
      return problem.focus.focus();
    }
    tell(byId("answer-text", HTMLElement), null);
    this.renderAnswer();
    const request = this.makeRequest();
    const pictures = request.pictures.map((id) => this.workspace.find(id)).filter((one) => one !== null);
    await this.run.start(request, pictures);
  }

  /** Show that something happens. */
  showStart() {
    this.renderRun();
    this.stage.reveal();
  }

  /** @param {Job} job */
  showAnswer(job) {
    tell(byId("answer-text", HTMLElement), job.text || "The model answered nothing.");
    this.renderAnswer();
    this.workspace.keepSoon();
  }

  /** Show the answer where questions are asked, and nowhere else. */
  renderAnswer() {
    byId("answer", HTMLElement).hidden = this.mode !== "describe" || !byId("answer-text", HTMLElement).textContent;
  }

  /** @param {Job} job */
  async openJob(job) {
    if (this.run.isGoing) return notify("job", "A run is going on; wait for its end, or cancel it.");
    try {
      const found = isFinished(job) ? job : await getJob(job.id);
      this.workspace.setResults(await fetchResults(found, null));
      this.render();
    } catch (error) {
      notify("job", sentence(error));
    }
  }

  editAgain() {
    this.workspace.takeResult();
    if (this.mode === "generate") choose("mode", "edit");
    this.stage.viewer.fit();
    this.onMode();
    const first = { edit: "prompt-edit", describe: "question", camera: "yaw" }[/** @type {string} */ (this.mode)] ?? "object";
    byId(first, HTMLElement).focus({ preventScroll: true });
  }

  /** @param {number} seed */
  keepSeed(seed) {
    byId("seed", HTMLInputElement).value = String(seed);
    byId("settings", HTMLDetailsElement).open = true;
    this.settings.summarize();
    this.workspace.keepSoon();
    notify("seed", `The next run takes seed ${seed} again. Empty the field for new ones.`, { kind: "news" });
  }

  // -- what is shown -------------------------------------------------------------------------------------------

  /** Show the source, not a result, where the box is to be seen. */
  showSource() {
    this.stage.chooseSource();
    this.render();
  }

  render() {
    this.workspace.isCreating = this.mode === "generate";
    this.renderRun();
    this.renderRunHint();
    this.result.render();
    this.references.render();
    this.stage.render();
    this.renderBoxNumbers();
  }

  /** Say what the next run starts from, where something else is to be seen. */
  renderRunHint() {
    const { source, results, looseShown, current } = this.workspace;
    const isElsewhere = this.mode === "generate" || !source || !results;
    const name = looseShown ? source?.name : current ? `edit ${current}` : "the original";
    const words = this.mode === "describe" ? `This is about ${name}, not about this result.` : `Starts from ${name} again, not from this result.`;
    tell(byId("run-hint", HTMLElement), isElsewhere ? null : words);
  }

  renderRun() {
    const { isGoing } = this.run;
    byId("run", HTMLButtonElement).disabled = isGoing;
    byId("canvas", HTMLElement).classList.toggle("busy", isGoing);
    byId("replace", HTMLButtonElement).disabled = isGoing;
    byId("again", HTMLButtonElement).disabled = isGoing;
    byId("undo", HTMLButtonElement).disabled = isGoing || this.workspace.current === 0;
    for (const button of byId("strip-items", HTMLElement).querySelectorAll("button")) button.disabled = isGoing;
  }

  // -- what is kept --------------------------------------------------------------------------------------------

  /** @returns {NodeListOf<HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement>} */
  get fields() {
    return document.querySelectorAll("#panel input[id], #panel select[id], #panel textarea[id]:not(#prompt-sent)");
  }

  /** @returns {Record<string, string | boolean>} */
  readForm() {
    /** @type {Record<string, string | boolean>} */
    const form = { mode: this.mode, view: this.compass.view, compared: this.stage.view, framing: JSON.stringify(this.settings.framing), answer: byId("answer-text", HTMLElement).textContent ?? "" };
    if (this.box.box) form.box = this.box.box.join(",");
    for (const field of this.fields) {
      if (!(field instanceof HTMLInputElement)) form[field.id] = field.value;
      else form[field.id] = field.type === "checkbox" ? field.checked : this.settings.keep(field);
    }
    return form;
  }

  /** @param {Record<string, string | boolean>} form */
  writeForm(form) {
    for (const field of this.fields) {
      const value = form[field.id];
      if (field instanceof HTMLInputElement && field.type === "checkbox") field.checked = value === true;
      else if (typeof value === "string") {
        field.value = value;
        field.dataset.wanted = value; // lists that the server fills aren't there yet
      }
    }
    choose("mode", String(form.mode));
    choose("view", String(form.compared ?? "slider"));
    this.compass.set(String(form.view));
    this.settings.framing = JSON.parse(String(form.framing));
    tell(byId("answer-text", HTMLElement), String(form.answer ?? ""));
    this.box.name.value = byId("object", HTMLInputElement).value;
    this.orbit.render();
    if (this.workspace.source) this.box.setSize(this.workspace.source);
    if (typeof form.box === "string") this.box.set(/** @type {import("./types.js").Box} */ (form.box.split(",").map(Number)));
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
      if (this.mode === "move") this.showSource();
    });
    byId("views", HTMLElement).addEventListener("change", () => this.render());
    byId("object", HTMLInputElement).addEventListener("input", () => this.setObject(byId("object", HTMLInputElement).value));
    for (const side of BOX_SIDES) {
      byId(`box-${side}`, HTMLElement).addEventListener("input", () => this.onBoxNumbers());
      byId(`box-${side}`, HTMLElement).addEventListener("change", () => this.onBoxNumbersDone());
    }
    byId("box-add", HTMLElement).addEventListener("click", () => {
      if (!this.workspace.source && !this.workspace.result) return tell(byId("run-problem", HTMLElement), "Choose a picture first.");
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
    byId("panel", HTMLFormElement).addEventListener("input", () => this.workspace.keepSoon());
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
    addEventListener("pagehide", () => void this.workspace.keep());
  }
}

void new App().start();
