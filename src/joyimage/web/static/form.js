/** The controls as one plain object, to be stored and brought back. */

import { byId, choose, chosen, tell } from "./dom.js";
import { formOf } from "./reopen.js";

/** @import { BoxEditor } from "./box.js" */
/** @import { Compass } from "./compass.js" */
/** @import { Box } from "./geometry.js" */
/** @import { Form } from "./history.js" */
/** @import { ObjectTool } from "./objecttool.js" */
/** @import { Orbit } from "./orbit.js" */
/** @import { RegionTool } from "./regiontool.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Job } from "./types.js" */

export class Controls {
  /** @param {{box: BoxEditor, objectTool: ObjectTool, compass: Compass, orbit: Orbit, region: RegionTool, settings: Settings}} parts */
  constructor({ box, objectTool, compass, orbit, region, settings }) {
    this.objectTool = objectTool;
    this.region = region;
    this.box = box;
    this.compass = compass;
    this.orbit = orbit;
    this.settings = settings;
  }

  /** @returns {NodeListOf<HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement>} */
  get fields() {
    return document.querySelectorAll("#panel input[id], #panel select[id], #panel textarea[id]:not(#prompt-sent)");
  }

  /** @returns {Form} */
  read() {
    /** @type {Form} */
    const form = {
      ...this.settings.late,
      mode: chosen("mode"),
      view: this.compass.view,
      compared: chosen("view"),
      framing: JSON.stringify(this.settings.framing),
      answer: byId("answer-text", HTMLElement).textContent ?? "",
    };
    if (this.box.box) form.box = this.box.box.join(",");
    if (this.objectTool.text) form.picked = this.objectTool.text;
    if (this.region.text) form.region = this.region.text;
    if (this.region.isUsed) form["region-use"] = this.region.use;
    for (const field of this.fields) {
      if (field.id in this.settings.late) continue;
      if (!(field instanceof HTMLInputElement)) form[field.id] = field.value;
      else form[field.id] = field.type === "checkbox" ? field.checked : this.settings.keep(field);
    }
    return form;
  }

  /** @param {Job} job That another page asked for. @returns {Form | null} What the controls said there; null where that is unknown. */
  readJob(job) {
    const ids = [...this.fields].filter((field) => field.dataset.field).map((field) => /** @type {[string, string]} */ ([field.dataset.field, field.id]));
    return formOf(job, this.read(), new Map(ids));
  }

  /** Bring controls back; those that the form says nothing of stay. @param {Form} form @param {{width: number, height: number} | null} size Of the image that a box is on. */
  write(form, size) {
    this.settings.setLate(form);
    for (const field of this.fields) {
      const value = form[field.id];
      if (field instanceof HTMLInputElement && field.type === "checkbox") field.checked = value === true;
      else if (typeof value === "string") field.value = value;
    }
    choose("mode", String(form.mode));
    if (form.compared) choose("view", String(form.compared));
    if (typeof form.answer === "string") tell(byId("answer-text", HTMLElement), form.answer);
    this.compass.set(String(form.view));
    this.settings.framing = JSON.parse(String(form.framing));
    this.settings.fillDefaults();
    this.box.name.value = byId("object", HTMLInputElement).value;
    this.orbit.render();
    if (size) for (const part of [this.box, this.region]) part.setSize(size);
    this.region.set(form.region, form["region-use"]);
    this.box.set(typeof form.box === "string" ? /** @type {Box} */ (form.box.split(",").map(Number)) : null);
    this.objectTool.set(form.picked);
  }
}
