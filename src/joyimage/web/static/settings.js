/** Settings: defaults from the checkpoint, limits from the server, and what differs from them is sent. */

import { byId, tell } from "./dom.js";
import { Fields, MADE } from "./fields.js";
import { describeFrame, frameOf, nearestSize } from "./framing.js";

/** @import { Fit } from "./framing.js" */
/** @import { Size } from "./geometry.js" */
/** @import { Kind, Model, Picture, Schemas } from "./types.js" */

/**
 * How a picture comes back, by kind of edit: a move and a rotation leave the rest alone, an edit may mean all of
 * it, and after a camera move nothing is where it was.
 */
const FRAMING = {
  edit: { restore: true, preserve: false },
  move: { restore: true, preserve: true },
  rotate: { restore: true, preserve: true },
  camera: { restore: false, preserve: false },
};
const SERVED = new Set(["size", "lora", "model"]); // lists that the server fills
/** @typedef {keyof typeof FRAMING} FramedKind */

export class Settings {
  /** @param {() => void} changed */
  constructor(changed) {
    this.model = byId("model", HTMLSelectElement);
    this.n = byId("n", HTMLInputElement);
    this.seed = byId("seed", HTMLInputElement);
    this.candidates = byId("candidates", HTMLSelectElement);
    this.fit = byId("fit", HTMLSelectElement);
    this.size = byId("size", HTMLSelectElement);
    this.restore = byId("restore", HTMLInputElement);
    this.preserve = byId("preserve", HTMLInputElement);
    this.steps = byId("steps", HTMLInputElement);
    this.guidance = byId("guidance", HTMLInputElement);
    this.negative = byId("negative", HTMLTextAreaElement);
    this.lora = byId("lora", HTMLSelectElement);
    this.more = new Fields();
    /** @type {Model | null} */
    this.known = null;
    /** @type {Kind} */
    this.kind = "edit";
    this.framing = structuredClone(FRAMING);
    /** What was chosen in controls that the server has yet to make or to fill, by id. @type {Record<string, string>} */
    this.late = {};
    /** The defaults that the fields show. @type {{steps?: number, guidance?: number}} */
    this.shown = {};
    byId("settings", HTMLElement).addEventListener("input", (event) => {
      if (event.target === this.lora) this.showDefaults();
      this.remember();
      this.summarize();
      changed();
    });
    byId("settings-reset", HTMLElement).addEventListener("click", () => {
      this.reset();
      changed();
    });
  }

  /** Take over what the server says of its models and of the fields of edits. @param {Model[]} models @param {Schemas} schemas */
  setModels(models, schemas) {
    const model = models[0];
    this.known = model;
    this.more.setSchemas(withSpeeds(schemas, model.speeds), this.kind);
    fill(this.model, models.map(({ id }) => id));
    fill(this.size, model.sizes ?? [], true);
    fill(this.lora, model.loras ?? [], true);
    byId("lora-setting", HTMLElement).hidden = !model.loras?.length;
    for (const [id, value] of Object.entries(this.late)) {
      const field = document.getElementById(id);
      if (field instanceof HTMLSelectElement && ![...field.options].some((option) => option.value === value)) continue;
      if (field instanceof HTMLSelectElement || field instanceof HTMLInputElement) field.value = value;
    }
    this.late = {};
    this.n.max = String(model.limits.max_outputs);
    this.steps.max = String(model.limits.max_steps);
    this.showDefaults();
    this.summarize();
  }

  /** What is used where nothing is given: what the chosen adapter sets, or the checkpoint's own. @returns {{steps?: number, guidance?: number}} */
  get usual() {
    const turbo = this.known?.lora_defaults?.[this.lora.value];
    if (turbo) return { steps: turbo.num_inference_steps, guidance: turbo.guidance_scale };
    return { steps: this.known?.default_steps, guidance: this.known?.default_guidance };
  }

  /** Keep what a form says of controls that only the server can make or fill, until it has. @param {Record<string, string | boolean>} form */
  setLate(form) {
    if (this.known) return;
    const chosen = Object.entries(form).filter(([id, value]) => value && (SERVED.has(id) || id.startsWith(MADE)));
    this.late = Object.fromEntries(chosen.map(([id, value]) => [id, String(value)]));
  }

  /** Another checkpoint or adapter has other defaults; only what was chosen by hand stays. */
  showDefaults() {
    const { steps, guidance } = this.usual;
    if (steps === undefined) return;
    if (isUsual(this.steps, this.shown.steps)) this.steps.value = String(steps);
    if (isUsual(this.guidance, this.shown.guidance)) this.guidance.value = String(guidance);
    this.shown = { steps, guidance };
    const isTurbo = this.known?.lora_defaults?.[this.lora.value] !== undefined;
    tell(
      byId("defaults-hint", HTMLElement),
      isTurbo
        ? `The turbo adapter was trained for ${steps} ${steps === 1 ? "step" : "steps"}, guidance ${guidance}.`
        : `The model's defaults: ${steps} steps, guidance ${guidance}. More steps give finer results and take longer. ` +
            "Higher guidance follows the prompt more closely; 1 or less turns it off and halves the time.",
    );
  }

  /** Show what a kind of edit uses. @param {Kind} kind */
  setKind(kind) {
    this.kind = kind;
    this.more.setKind(kind);
    if (kind in this.framing) {
      const { restore, preserve } = this.framing[/** @type {FramedKind} */ (kind)];
      this.restore.checked = restore;
      this.preserve.checked = preserve;
    }
    this.summarize();
  }

  remember() {
    if (!(this.kind in this.framing)) return;
    this.framing[/** @type {FramedKind} */ (this.kind)] = {
      restore: this.restore.checked,
      preserve: this.preserve.checked,
    };
  }

  reset() {
    this.n.value = "1";
    this.seed.value = "";
    this.candidates.value = "";
    this.fit.value = "";
    this.size.value = "";
    this.negative.value = "";
    this.lora.value = "";
    this.more.reset();
    this.steps.value = "";
    this.guidance.value = "";
    this.showDefaults();
    byId("wording", HTMLSelectElement).value = "documented";
    this.framing = structuredClone(FRAMING);
    this.setKind(this.kind);
  }

  /** @returns {{focus: HTMLInputElement, sentence: string} | null} The first number that is not valid. */
  get problem() {
    const names = { n: "Number of results", seed: "Seed", steps: "Steps", guidance: "Guidance" };
    for (const [id, name] of Object.entries(names)) {
      const input = byId(id, HTMLInputElement);
      const isWhole = input === this.guidance || Number.isSafeInteger(Number(input.value));
      const { rangeUnderflow, rangeOverflow, badInput } = input.validity;
      if (!(rangeUnderflow || rangeOverflow || badInput) && isWhole) continue;
      const range = input.max ? `from ${input.min} to ${input.max}` : `of ${input.min} or more`;
      const kind = input === this.guidance ? "a number" : "a whole number";
      return { focus: input, sentence: `${name} must be ${kind} ${range}.` };
    }
    return null;
  }

  /** Put the defaults where nothing was chosen. */
  fillDefaults() {
    this.showDefaults();
  }

  /** Return how the whole of an image goes in: nothing is left out of the edit. @param {{width: number, height: number} | null} image */
  wholeFit(image) {
    const trained = (this.known?.sizes ?? []).map((size) => size.split("x").map(Number)).map(([width, height]) => width / height);
    const ratio = image ? image.width / image.height : 1;
    const isSame = (/** @type {number} */ other) => Math.abs(Math.log(ratio / other)) < 1e-3;
    if (this.size.value) {
      const [width, height] = this.size.value.split("x").map(Number);
      return isSame(width / height) ? "crop" : "pad";
    }
    if (trained.some(isSame)) return "crop"; // crops nothing
    return ratio >= Math.min(...trained) && ratio <= Math.max(...trained) ? "exact" : "pad";
  }

  /** Show what the settings mean for the image that the next run starts from. @param {Picture | null} image */
  render(image) {
    this.renderSizeHint(image);
    this.renderFraming(image);
  }

  /** Say of a camera move what becomes of a large image. @param {Size | null} image */
  renderSizeHint(image) {
    const base = this.known?.base_size ?? Infinity;
    const isLarger = image !== null && !this.restore.checked && image.width * image.height > 1.1 * base ** 2;
    const size = `about ${base} × ${base} pixels`;
    tell(byId("camera-size", HTMLElement), isLarger ? `The result has the model's size, ${size}. To enlarge it to your picture's size, check “Restore the original size” in Settings.` : null);
  }

  /** Show on the image itself what the model sees of it. @param {Picture | null} image */
  renderFraming(image) {
    const figure = byId("framing-figure", HTMLElement);
    figure.hidden = !image || !this.known?.sizes?.length;
    if (!image || figure.hidden) return;
    const fit = /** @type {Fit} */ (this.fit.value || this.wholeFit(image));
    const target = this.size.value ? asSize(this.size.value) : fit === "exact" ? null : nearestSize(image, (this.known?.sizes ?? []).map(asSize));
    const frame = frameOf(image, fit, target);
    const [left, top] = [Math.min(0, frame.left), Math.min(0, frame.top)];
    const all = { width: Math.max(image.width, frame.width), height: Math.max(image.height, frame.height) };
    const stage = byId("framing-stage", HTMLElement);
    stage.style.aspectRatio = String(all.width / all.height);
    stage.style.setProperty("--ratio", String(all.width / all.height));
    const picture = byId("framing-image", HTMLImageElement);
    if (picture.src !== image.thumbnail) picture.src = image.thumbnail;
    place(picture, { left: -left, top: -top, width: image.width, height: image.height }, all);
    place(byId("framing-frame", HTMLElement), { ...frame, left: frame.left - left, top: frame.top - top }, all);
    tell(byId("framing-hint", HTMLElement), describeFrame(image, fit, target, this.restore.checked));
  }

  /** Return the fields of a request that differ from the defaults. @param {{width: number, height: number} | null} image What the run starts from. @returns {Record<string, string>} */
  read(image) {
    /** @type {Record<string, string>} */
    const fields = {};
    const set = (/** @type {string} */ name, /** @type {string} */ value, /** @type {unknown} */ usual = "") => {
      if (value !== "" && value !== String(usual)) fields[name] = value;
    };
    set("num_images", this.n.value, 1);
    set("seed", this.seed.value);
    set("num_candidates", this.candidates.value);
    set("size", this.size.value);
    set("num_inference_steps", this.steps.value, this.usual.steps);
    set("guidance_scale", this.guidance.value, this.usual.guidance);
    set("negative_prompt", this.negative.value.trim());
    set("loras", this.lora.value);
    if (this.model.selectedIndex > 0) set("model", this.model.value);
    // A checkpoint for several references takes the pictures of an edit in as they are.
    if (this.kind in this.framing && !(this.kind === "edit" && this.known?.takes_several_images)) {
      set("fit", this.fit.value || this.wholeFit(image), "crop");
      if (this.restore.checked) fields.restore = "true";
      if (this.preserve.checked) fields.preserve = "true";
    }
    return { ...fields, ...this.more.read(this.kind) };
  }

  /** Return what a reload has to know of a field: nothing where it is a default. @param {HTMLInputElement} input */
  keep(input) {
    if (input === this.steps && isUsual(input, this.usual.steps)) return "";
    return input === this.guidance && isUsual(input, this.usual.guidance) ? "" : input.value;
  }

  summarize() {
    const parts = [
      Number(this.n.value) > 1 ? `${this.n.value} results` : "",
      this.candidates.value ? `best of ${this.candidates.value}` : "",
      this.steps.value ? `${this.steps.value} ${this.steps.value === "1" ? "step" : "steps"}` : "",
      this.seed.value ? `seed ${this.seed.value}` : "random seed",
    ];
    tell(byId("settings-summary", HTMLElement), parts.filter(Boolean).join(" · "));
  }
}

/** @param {string} size As the server writes it, such as 1024x768. @returns {Size} */
function asSize(size) {
  const [width, height] = size.split("x").map(Number);
  return { width, height };
}

/** Put an element somewhere in another one. @param {HTMLElement} element @param {Size & {left: number, top: number}} at @param {Size} all Of the other one. */
function place({ style }, { left, top, width, height }, all) {
  style.left = `${(100 * left) / all.width}%`;
  style.top = `${(100 * top) / all.height}%`;
  style.width = `${(100 * width) / all.width}%`;
  style.height = `${(100 * height) / all.height}%`;
}

/** Tell whether a number is a default, or none. @param {HTMLInputElement} input @param {number | undefined} usual */
function isUsual(input, usual) {
  return input.value === "" || input.value === String(usual);
}

/** Fill a list of choices, keeping what is chosen where it is still there. @param {HTMLSelectElement} select @param {string[]} names @param {boolean} [hasNone] Whether its first entry stays. */
function fill(select, names, hasNone = false) {
  const { value } = select;
  select.length = hasNone ? 1 : 0;
  for (const name of names) select.add(new Option(select.id === "size" ? name.replace("x", " × ") : name, name));
  select.value = names.includes(value) ? value : hasNone ? "" : (names[0] ?? "");
}

/**
 * Offer the speed presets that the model has, and no others.
 * @param {Schemas} schemas @param {string[] | undefined} speeds @returns {Schemas}
 */
function withSpeeds(schemas, speeds) {
  const offered = structuredClone(schemas);
  if (speeds === undefined) return offered;
  for (const { properties } of Object.values(offered)) if (properties.speed) properties.speed.enum = speeds;
  return offered;
}
