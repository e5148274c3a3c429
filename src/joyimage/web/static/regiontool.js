/** Mark on the image what an edit may change: with a brush, a lasso or a box, by mouse, pen or finger. */

import { byId, choose, chosen } from "./dom.js";
import { drawStrokes } from "./mask.js";
import { isMarked, NOTHING, readRegion, withPoint, withStroke } from "./region.js";
import { isEraser } from "./viewer.js";

/** @import { Size } from "./geometry.js" */
/** @import { Mask, Region, Stroke } from "./region.js" */

const SHOWN_PX = 2048; // longest side of what is shown over the image
const STEP_PX = 2; // screen pixels between two points of a stroke
const TINTS = { inside: "#4a45d6", outside: "#d33a2c" };

/** @typedef {"all" | "inside" | "outside"} Use Whether all may change, only what is marked, or all but that. */

export class RegionTool {
  /** @param {{changed: () => void, used: () => void}} on `changed` comes after every change by hand, `used` when the tool is taken up. */
  constructor(on) {
    this.on = on;
    this.layer = byId("region-layer", HTMLCanvasElement);
    this.width = byId("brush-width", HTMLInputElement);
    this.erases = byId("brush-erases", HTMLInputElement);
    /** @type {Region} */
    this.region = NOTHING;
    /** @type {Stroke | null} The one that is being drawn. */
    this.stroke = null;
    this.size = { width: 1, height: 1 };
    byId("region-use", HTMLElement).addEventListener("change", () => {
      this.render();
      this.on.used();
    });
    byId("region-invert", HTMLElement).addEventListener("click", () => this.take(withStroke(this.region, { kind: "invert" })));
    byId("region-clear", HTMLElement).addEventListener("click", () => this.take(NOTHING));
    byId("region-tools", HTMLElement).addEventListener("click", ({ target }) => {
      // Also the tool that is chosen already: what it marks may be out of sight behind a result.
      if (target instanceof HTMLInputElement && (target.name === "region-tool" || target === this.erases)) this.on.used();
    });
    this.render();
  }

  /** @returns {Use} */
  get use() {
    return /** @type {Use} */ (chosen("region-use"));
  }

  /** @returns {boolean} Whether a run keeps to a region. */
  get isUsed() {
    return this.use !== "all";
  }

  get isMarked() {
    return isMarked(this.region);
  }

  /** @returns {Mask | null} What a run keeps to. */
  get mask() {
    return this.isUsed && this.isMarked ? { strokes: this.region.strokes, protects: this.use === "outside", ...this.size } : null;
  }

  /** @returns {string} The region as text, empty where nothing is marked. */
  get text() {
    return this.isMarked ? JSON.stringify(this.region) : "";
  }

  /** Bring back a region. @param {unknown} text @param {unknown} use */
  set(text, use) {
    this.region = readRegion(text);
    choose("region-use", typeof use === "string" ? use : "all");
    this.render();
  }

  /** Work on an image of a size. @param {Size} size */
  setSize({ width, height }) {
    if (width === this.size.width && height === this.size.height) return;
    this.size = { width, height };
    this.region = NOTHING;
    this.render();
  }

  /** Change the region by a button: what it marks is shown. @param {Region} region */
  take(region) {
    this.change(region);
    this.on.used();
  }

  /** @param {Region} region */
  change(region) {
    this.region = region;
    this.render();
    this.on.changed();
  }

  render() {
    byId("region-tools", HTMLElement).hidden = !this.isUsed;
    const scale = Math.min(1, SHOWN_PX / Math.max(this.size.width, this.size.height));
    const [width, height] = [this.size.width, this.size.height].map((side) => Math.max(1, Math.round(side * scale)));
    if (this.layer.width !== width || this.layer.height !== height) [this.layer.width, this.layer.height] = [width, height];
    const pen = this.layer.getContext("2d");
    if (!pen) return;
    pen.fillStyle = pen.strokeStyle = this.use === "outside" ? TINTS.outside : TINTS.inside;
    drawStrokes(pen, this.stroke ? [...this.region.strokes, this.stroke] : this.region.strokes, scale);
  }

  // -- as a tool of the viewer ---------------------------------------------------------------------------------

  /** @param {PointerEvent} event @returns {boolean} */
  begin(event) {
    if (event.button > 0 && !isEraser(event)) return false;
    const kind = /** @type {"brush" | "lasso" | "box"} */ (chosen("region-tool"));
    const width = (Number(this.width.value) / 100) * Math.max(this.size.width, this.size.height);
    const erases = this.erases.checked || isEraser(event);
    this.stroke = withPoint({ kind, erases, ...(kind === "brush" ? { width: Math.round(width) } : {}) }, this.toImage(event), 0);
    this.render();
    return true;
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (!this.stroke) return;
    // All places since the last frame, so that a quick stroke stays round.
    const places = event.getCoalescedEvents?.() ?? [];
    for (const one of places.length ? places : [event]) this.stroke = withPoint(this.stroke, this.toImage(one), STEP_PX / this.scale);
    this.render();
  }

  end() {
    const { stroke } = this;
    this.stroke = null;
    if (stroke) this.change(withStroke(this.region, stroke));
  }

  cancel() {
    this.stroke = null;
    this.render();
  }

  /** @returns {number} Screen pixels per pixel of the image. */
  get scale() {
    return this.layer.getBoundingClientRect().width / this.size.width;
  }

  /** @param {PointerEvent} event */
  toImage(event) {
    const bounds = this.layer.getBoundingClientRect();
    return { x: ((event.clientX - bounds.x) / bounds.width) * this.size.width, y: ((event.clientY - bounds.y) / bounds.height) * this.size.height };
  }
}
