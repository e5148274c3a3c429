/** The server as the page sees it: whether it is there, which model it has, and what that model is for. */

import { getHealth, getSchemas, listModels, on as api } from "./api.js";
import { byId, pause, tell } from "./dom.js";
import { findExample } from "./ideas.js";
import { askForKey } from "./key.js";
import { notify, withdraw } from "./notices.js";
import { sentence } from "./run.js";

/** @import { Known, Model, Schemas } from "./types.js" */

const READY_EVERY_MS = 10_000;
const WAITING_EVERY_MS = 1500;
// Browsers let a click start a download for 5 s.
const LONGEST_WAIT_MS = 4000;
const PHOTO_COMMAND = "joyimage ui --model jdopensource/JoyAI-Image-Edit-Diffusers";

export class Server {
  /** @param {(models: Model[], schemas: Schemas) => void} told Called when a model is known, at first and after each restart. */
  constructor(told) {
    this.told = told;
    /** @type {Model | null} */
    this.model = null;
    /** @type {Schemas | null} */
    this.schemas = null;
    this.isModelOld = true; // whether the server may have another model than the one known here
    this.needsKey = false;
    this.opened = ""; // name of the image that was opened last
    /** @type {() => void} */
    this.tellReady = () => {};
    /** @type {Promise<void>} Done when the server could run something. */
    this.ready = new Promise((resolve) => (this.tellReady = resolve));
    /** @type {() => void} */
    this.tellKnown = () => {};
    /** @type {Promise<void>} Done when the model and the fields of edits are known. */
    this.answered = new Promise((resolve) => (this.tellKnown = resolve));
    api.keyNeeded = askForKey;
    api.reach = (isThere) => this.onReach(isThere);
  }

  /** @returns {boolean} Whether it has the model that comes with joyimage. */
  get isTiny() {
    return this.model?.id === "tiny";
  }

  /** @returns {boolean} Whether an edit takes several images. */
  get takesSeveral() {
    return Boolean(this.model?.takes_several_images);
  }

  get limits() {
    return this.model?.limits ?? null;
  }

  /** @returns {Known | null} Null from a reload until the server has answered for the first time. */
  get known() {
    const { model, schemas } = this;
    return model && schemas && { model, schemas };
  }

  /** Wait for the server's first answer, but not for long. @returns {Promise<Known | null>} Null if there is none by then. */
  async waitForKnown() {
    if (!this.known) await Promise.race([this.answered, pause(LONGEST_WAIT_MS)]);
    return this.known;
  }

  /** Look at the server again and again: whether it is there, whether its model is. */
  async watch() {
    for (;;) {
      if (!document.hidden) await this.look();
      await new Promise((resolve) => setTimeout(resolve, this.isModelOld ? WAITING_EVERY_MS : READY_EVERY_MS));
    }
  }

  async look() {
    try {
      const health = await getHealth();
      this.needsKey = health.needs_key;
      if (!this.model || this.isModelOld) {
        const isFirst = !this.known;
        const models = await listModels();
        this.schemas = await getSchemas();
        this.model = models[0];
        this.isModelOld = this.model.default_steps === undefined;
        this.told(models, this.schemas);
        this.tellKnown();
        if (isFirst && this.opened) this.advise(this.opened);
      }
      const { id, device } = this.model;
      tell(byId("model-chip", HTMLElement), health.is_ready ? `Model: ${id} · ${device}` : `Loading ${id}…`);
      byId("drop-model", HTMLElement).hidden = !this.isTiny;
      byId("try", HTMLElement).hidden = !(this.isTiny && health.is_ready);
      if (health.is_ready) this.tellReady();
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
    tell(byId("model-chip", HTMLElement), "Not connected");
    notify("gone", "The server is not responding. This page keeps trying, and nothing here is lost.");
  }

  /** Say before the first disappointment what the embedded model is for. @param {string} name Of the picture. */
  advise(name) {
    this.opened = name;
    if (!this.isTiny || findExample(name)) return withdraw("tiny");
    notify(
      "tiny",
      `The tiny model here edits drawn scenes like the examples. For photos, run: \`${PHOTO_COMMAND}\``,
      { kind: "news" },
    );
  }
}
