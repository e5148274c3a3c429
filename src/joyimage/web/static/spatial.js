/** Move, rotate and camera: the controls, the tools on the image and the words of the edit, kept in step. */

import { BoxEditor } from "./box.js";
import { BoxFields } from "./boxfields.js";
import { Compass } from "./compass.js";
import { byId, choose, tell } from "./dom.js";
import { findObject } from "./ghost.js";
import { Gizmo } from "./gizmo.js";
import { currentMode, isSpatial } from "./mode.js";
import { ObjectTool } from "./objecttool.js";
import { Orbit } from "./orbit.js";
import { Prompt, adviseOnFreeWords } from "./prompt.js";
import { ViewRing } from "./viewring.js";

/** @import { Found, Pick } from "./ghost.js" */
/** @import { Problem } from "./request.js" */
/** @import { SpatialEdit, Wording } from "./words.js" */
/** @import { Workspace } from "./workspace.js" */

export class Spatial {
  /**
   * @param {Workspace} workspace
   * @param {{isDrawing: () => boolean, showSource: () => void, arm: () => void, render: () => void, modeChanged: () => void}} on
   *   `showSource` brings the image that the next run starts from to the stage, `arm` has it take a new box, `render`
   *   shows the stage as it is now.
   */
  constructor(workspace, on) {
    this.workspace = workspace;
    this.on = on;
    this.box = new BoxEditor(() => this.onBox(), (name) => this.setObject(name), (place) => void this.pick(place));
    this.objectTool = new ObjectTool(this.box, { find: (pick) => this.find(pick), missed: () => this.onMissed(), used: () => on.showSource() });
    this.boxFields = new BoxFields(this.box, () => this.onTypedBox());
    this.compass = new Compass(() => this.onSpace());
    this.orbit = new Orbit(() => this.onSpace());
    this.ring = new ViewRing({ chosen: (view) => this.setView(view), picked: (place) => void this.surround(place) });
    this.gizmo = new Gizmo({ angles: () => this.orbit.angles, turn: (yaw, pitch) => this.orbit.turnTo(yaw, pitch) });
    this.prompt = new Prompt(() => this.read(), (edit, wording) => this.apply(edit, wording), (text) => this.sendFreely(text));
    adviseOnFreeWords();
    this.listen();
  }

  /** @returns {Problem | null} What keeps these controls from being run. */
  get problem() {
    const mode = currentMode();
    if (isSpatial() && this.prompt.problem) return { sentence: this.prompt.problem, focus: "prompt-sent" };
    const hand = this.objectTool.isSketching ? "Choose Click, and drag" : "Drag";
    if (mode === "move" && this.box.isAtOrigin) return { sentence: `${hand} the object to where it should go.`, focus: "box-show" };
    const problem = mode === "camera" ? this.orbit.problem : null;
    return problem && { sentence: problem.sentence, focus: problem.focus.id };
  }

  // -- the words -----------------------------------------------------------------------------------------------

  /** @returns {{edit: SpatialEdit, wording: Wording}} */
  read() {
    const wording = /** @type {Wording} */ (byId("wording", HTMLSelectElement).value);
    const object = byId("object", HTMLInputElement).value;
    const [yaw, pitch] = this.orbit.angles;
    if (currentMode() === "move") return { edit: { kind: "move", object }, wording };
    if (currentMode() === "rotate") return { edit: { kind: "rotate", object, view: this.compass.view }, wording };
    return { edit: { kind: "camera", yaw, pitch, zoom: this.orbit.zoom.value }, wording };
  }

  /** @param {SpatialEdit} edit @param {Wording} wording */
  apply(edit, wording) {
    byId("wording", HTMLSelectElement).value = wording;
    if (edit.kind === "camera") this.orbit.set(edit.yaw, edit.pitch, edit.zoom);
    else {
      byId("object", HTMLInputElement).value = edit.object;
      this.box.name.value = edit.object;
      if (edit.kind === "rotate") this.compass.set(edit.view);
    }
    this.workspace.keep();
  }

  /** Send words as an edit without a template. @param {string} text */
  sendFreely(text) {
    byId("prompt-edit", HTMLTextAreaElement).value = text;
    choose("mode", "edit");
    this.on.modeChanged();
    byId("prompt-edit", HTMLTextAreaElement).focus();
  }

  /** @param {string} name */
  setObject(name) {
    byId("object", HTMLInputElement).value = name;
    this.box.name.value = name;
    this.onControl();
  }

  /** Write the words anew: a control was changed by hand. */
  onControl() {
    this.prompt.render();
    tell(byId("run-problem", HTMLElement), null);
    this.workspace.keep();
  }

  onSpace() {
    this.onControl();
    this.on.render();
  }

  // -- on the image --------------------------------------------------------------------------------------------

  /** @param {string} view */
  setView(view) {
    this.compass.set(view);
    this.onSpace();
    this.workspace.commit();
  }

  /** Put the ring of views around the object at a place. @param {{x: number, y: number}} place */
  async surround(place) {
    const found = await this.find({ at: [place.x, place.y], strokes: [] });
    if (!found) return;
    this.ring.surround(found.box);
    this.on.render();
  }

  /** Take the object at a place of the image, to be dragged. @param {{x: number, y: number}} place */
  async pick(place) {
    await this.objectTool.pick(place);
  }

  onMissed() {
    tell(byId("box-advice", HTMLElement), "No distinct object was found here. Click another part of it, draw around it with the lasso, or draw a box where it should go.");
  }

  /** Find an object in the image that the next run starts from. @param {Pick} pick @returns {Promise<Found | null>} */
  async find(pick) {
    const { source: image } = this.workspace;
    const found = image && (await findObject(image, pick).catch(() => null));
    return this.workspace.source === image ? found : null;
  }

  // -- the box -------------------------------------------------------------------------------------------------

  onBox() {
    tell(byId("run-problem", HTMLElement), null);
    this.renderBox(); // first: the numbers are part of what is undone
    this.workspace.commit();
    this.workspace.keep();
  }

  onTypedBox() {
    if (this.box.box) this.on.showSource();
    this.renderBox();
    this.workspace.keep();
  }

  renderBox() {
    const isDrawing = this.on.isDrawing();
    this.boxFields.render();
    byId("box-add", HTMLElement).hidden = this.box.box !== null;
    byId("box-redraw", HTMLElement).hidden = this.box.box === null || !isDrawing;
    byId("box-show", HTMLElement).hidden = this.box.box === null || isDrawing || currentMode() !== "move";
  }

  listen() {
    byId("object", HTMLInputElement).addEventListener("input", () => this.setObject(byId("object", HTMLInputElement).value));
    byId("box-add", HTMLElement).addEventListener("click", () => {
      if (!this.workspace.source) return tell(byId("run-problem", HTMLElement), "Choose a picture first.");
      this.on.showSource();
      this.box.add();
    });
    byId("box-redraw", HTMLElement).addEventListener("click", () => {
      this.objectTool.putAway();
      this.on.showSource();
      this.box.arm();
      this.on.arm();
    });
    byId("box-show", HTMLElement).addEventListener("click", () => {
      this.on.showSource();
      this.box.frame.focus();
    });
  }
}
