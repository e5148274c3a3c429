/** Select the object that is moved: with a click, a lasso or a brush. What was selected is a few strokes, so that it can be stored and found again. */

import { byId, choose, chosen, makeSvg } from "./dom.js";
import { withPoint, withStroke } from "./region.js";

/** @import { BoxEditor } from "./box.js" */
/** @import { Found, Pick } from "./ghost.js" */
/** @import { Point } from "./geometry.js" */
/** @import { Stroke } from "./region.js" */

const STEP_PX = 2; // screen pixels between two points of a stroke
const BRUSH_PX = 26; // screen pixels: zoomed in, it is finer

export class ObjectTool {
  /**
   * @param {BoxEditor} box
   * @param {{find: (pick: Pick) => Promise<Found | null>, missed: () => void, used: () => void}} on `missed` comes
   *   where nothing was found, `used` when another tool is taken up.
   */
  constructor(box, on) {
    this.box = box;
    this.on = on;
    this.number = 0; // of the last search: what an earlier one finds comes too late
    this.image = ""; // id of the one that is worked on
    /** @type {Stroke | null} The one that is being drawn. */
    this.stroke = null;
    this.erases = byId("object-erases", HTMLInputElement);
    this.line = makeSvg("polyline");
    this.sketch = makeSvg("svg", { class: "sketch", preserveAspectRatio: "none", "aria-hidden": "true" }, this.line);
    box.layer.append(this.sketch);
    byId("object-tools", HTMLElement).addEventListener("change", () => {
      this.render();
      this.on.used();
    });
    this.render();
  }

  /** @returns {boolean} Whether a drag on the image selects. */
  get isSketching() {
    return chosen("object-tool") !== "click";
  }

  /** Have drags move and draw boxes. */
  putAway() {
    choose("object-tool", "click");
    this.render();
  }

  render() {
    byId("object-erases-label", HTMLElement).hidden = !this.isSketching;
    for (const place of [this.box.layer, this.box.cue]) place.classList.toggle("sketching", this.isSketching);
    const { width, height } = this.box.size;
    this.sketch.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.line.setAttribute("points", (this.stroke?.points ?? []).map((point) => point.join()).join(" "));
    this.line.setAttribute("class", this.stroke?.kind ?? "");
    this.line.setAttribute("stroke-width", String(this.stroke?.width ?? 1));
  }

  /** Take the object at a place; what was selected before is left. @param {Point} place @returns {Promise<void>} */
  pick({ x, y }) {
    return this.search({ at: [x, y], strokes: [] });
  }

  /**
   * Find an object and have the box take it.
   *
   * @param {Pick} pick
   * @param {boolean} [isBack] Whether it was taken before, and its box is known.
   */
  async search(pick, isBack = false) {
    this.number += 1;
    const { number } = this;
    const found = await this.on.find(pick);
    if (number !== this.number) return;
    if (!found) return isBack ? this.box.dropObject() : this.on.missed();
    if (isBack) this.box.show(found, pick);
    else this.box.take(found, pick);
  }

  /** Work on an image: what is selected is found again in another one, or left where it is not there. @param {string} id */
  setImage(id) {
    if (id === this.image) return;
    this.image = id;
    if (this.box.pick) void this.search(this.box.pick, true);
  }

  /** @returns {string} What is selected, as text; empty where nothing is. */
  get text() {
    return this.box.pick ? JSON.stringify(this.box.pick) : "";
  }

  /** Bring back what was selected; the box is where it was put. @param {unknown} text */
  set(text) {
    if ((text ?? "") === this.text) return;
    this.number += 1;
    this.box.dropObject();
    if (typeof text !== "string" || !this.box.box) return;
    this.box.pick = JSON.parse(text); // known at once: what is stored before it is found again has it too
    void this.search(JSON.parse(text), true);
  }

  // -- as a tool of the viewer ---------------------------------------------------------------------------------

  /** @param {PointerEvent} event @returns {boolean} */
  begin(event) {
    if (event.button > 0) return false;
    const kind = /** @type {"brush" | "lasso"} */ (chosen("object-tool"));
    const width = kind === "brush" ? { width: Math.max(1, Math.round(BRUSH_PX / this.box.scale)) } : {};
    this.stroke = withPoint({ kind, erases: this.erases.checked, ...width }, this.box.toImage(event), 0);
    this.render();
    return true;
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (!this.stroke) return;
    const places = event.getCoalescedEvents?.() ?? [];
    for (const one of places.length ? places : [event]) this.stroke = withPoint(this.stroke, this.box.toImage(one), STEP_PX / this.box.scale);
    this.render();
  }

  end() {
    const { stroke } = this;
    const before = this.box.pick ?? { at: null, strokes: [] };
    this.cancel();
    if (!stroke) return;
    const { strokes } = withStroke({ strokes: before.strokes, protects: false }, stroke);
    if (strokes === before.strokes) return;
    if (stroke.kind === "lasso" && !this.box.pick) this.putAway(); // what it has caught is to be dragged
    void this.search({ ...before, strokes });
  }

  cancel() {
    this.stroke = null;
    this.render();
  }
}
