/** A pen that is moved with the keyboard: whatever a drag marks or selects on the image, keys do too. */

import { byId, chosen } from "./dom.js";
import { clamp } from "./geometry.js";
import { announce } from "./notices.js";

/** @import { Point, Size } from "./geometry.js" */
/** @import { ObjectTool } from "./objecttool.js" */
/** @import { RegionTool } from "./regiontool.js" */
/** @import { Tool, Viewer } from "./viewer.js" */

const STEP_PX = 8; // of the screen: zoomed in, it is finer
const LARGE_STEP_PX = 48;
const POINT_PX = 14;
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = "Arrow keys move it, with Shift by larger steps, with Alt by one pixel.";
const HOW = {
  brush: `Brush. ${KEYS} Space begins and ends a stroke, the square brackets change the size, Escape cancels, Enter leaves.`,
  lasso: `Lasso. ${KEYS} Space begins and closes an outline, Escape cancels, Enter leaves.`,
  box: `Box. ${KEYS} Space puts one corner, then the other, Escape cancels, Enter leaves.`,
  click: `Pointer. ${KEYS} Space takes the object there, Enter leaves.`,
};

/** @typedef {keyof typeof HOW} Kind What the pen does. */

export class KeyPen {
  /** @param {{viewer: Viewer, region: RegionTool, objectTool: ObjectTool, used: () => "region" | "object" | null}} parts `used`: what is worked on, if anything. */
  constructor({ viewer, region, objectTool, used }) {
    this.viewer = viewer;
    this.region = region;
    this.objectTool = objectTool;
    this.used = used;
    this.pen = byId("pen", HTMLElement);
    this.place = { x: 0.5, y: 0.5 }; // as shares of the image
    /** @type {Tool | null} The tool whose stroke is under way. */
    this.held = null;
    this.pen.addEventListener("keydown", (event) => this.onKey(event));
    this.pen.addEventListener("blur", () => this.lift());
    this.pen.addEventListener("focus", () => this.follow());
    for (const id of ["region-tools", "object-tools"]) byId(id, HTMLElement).addEventListener("input", () => this.render());
    for (const id of ["region-pen", "object-pen"]) byId(id, HTMLElement).addEventListener("click", () => this.take());
    addEventListener("keydown", (event) => {
      const isTyped = event.target instanceof Element && event.target.matches("textarea, input:not([type=radio], [type=checkbox], [type=range])");
      if (event.key.toLowerCase() !== "b" || event.ctrlKey || event.metaKey || event.altKey || isTyped || document.querySelector("dialog[open]")) return;
      this.take();
    });
  }

  /** @returns {Kind} */
  get kind() {
    return /** @type {Kind} */ (chosen(this.used() === "region" ? "region-tool" : "object-tool"));
  }

  /** @returns {Size} Of the image. */
  get size() {
    return this.viewer.size;
  }

  /** Put the focus on the pen, where there is something to mark. */
  take() {
    const isOffered = (/** @type {string} */ id) => byId(id, HTMLElement).offsetParent !== null;
    // What is marked may be behind a result.
    if (!this.used() && isOffered("region-tools")) this.region.on.used();
    else if (!this.used() && isOffered("object-tools")) this.objectTool.on.used();
    if (!this.pen.hidden) this.pen.focus();
  }

  render() {
    const used = this.used();
    this.pen.hidden = used === null;
    if (used === null) return this.cancel();
    this.pen.setAttribute("aria-label", HOW[this.kind]);
    const { style } = this.pen;
    const { width, height } = this.size;
    style.left = `${100 * this.place.x}%`;
    style.top = `${100 * this.place.y}%`;
    const isBrush = used === "region" && this.kind === "brush";
    style.width = isBrush ? `${(Number(this.region.width.value) * Math.max(width, height)) / width}%` : `${POINT_PX}px`;
    this.pen.classList.toggle("down", this.held !== null);
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const { key, shiftKey, altKey } = event;
    if (event.ctrlKey || event.metaKey) {
      if (key.toLowerCase() === "z") this.cancel();
      return; // undo is the page's own
    }
    const way = WAYS[/** @type {keyof typeof WAYS} */ (key)];
    if (way) this.move(way, altKey ? this.scale : shiftKey ? LARGE_STEP_PX : STEP_PX);
    else if (key === " ") this.press();
    else if (key === "Enter") this.leave();
    else if (key === "Escape") this.held ? this.cancel() : this.leave();
    else if (key === "[" || key === "]") this.resize(key === "]" ? 1 : -1);
    else if ("+=-0".includes(key)) this.zoom(key);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number[]} way @param {number} pixels Of the screen. */
  move([x, y], pixels) {
    const { width, height } = this.world;
    this.place = { x: clamp(this.place.x + (x * pixels) / width, 0, 1), y: clamp(this.place.y + (y * pixels) / height, 0, 1) };
    this.render();
    this.follow();
    this.held?.move(this.event);
    announce(`${Math.round(100 * this.place.x)}% across, ${Math.round(100 * this.place.y)}% down`);
  }

  /** Begin a stroke, or end it. */
  press() {
    if (this.held) return this.lift();
    if (this.kind === "click") {
      void this.objectTool.pick({ x: this.place.x * this.size.width, y: this.place.y * this.size.height });
      return;
    }
    const tool = this.used() === "region" ? this.region : this.objectTool;
    this.held = tool.begin(this.event) ? tool : null;
    this.render();
    announce(this.kind === "brush" ? "Painting" : "Begun");
  }

  /** End a stroke; what it has marked stays. */
  lift() {
    const { held } = this;
    this.held = null;
    held?.end();
    this.render();
    if (held) announce("Marked");
  }

  /** Give a stroke up. */
  cancel() {
    if (!this.held) return;
    const { held } = this;
    this.held = null;
    held.cancel();
    this.render();
    announce("Canceled");
  }

  /** End a stroke, and go back to the controls. */
  leave() {
    const name = this.used() === "region" ? "region-tool" : "object-tool";
    const back = document.querySelector(/** @type {`input`} */ (`input[name="${name}"]:checked`));
    this.lift();
    back?.focus();
  }

  /** @param {1 | -1} by */
  resize(by) {
    if (this.used() !== "region" || this.kind !== "brush" || this.held) return;
    const { width } = this.region;
    width.value = String(Number(width.value) + by);
    width.dispatchEvent(new Event("input", { bubbles: true }));
    announce(`Brush size ${width.value}`);
  }

  /** @param {string} key */
  zoom(key) {
    if (key === "0") this.viewer.fit();
    else this.viewer.zoomBy(key === "-" ? 0.8 : 1.25);
    this.render();
    this.follow();
  }

  /** Have the pen in sight where the image is zoomed in. */
  follow() {
    const pane = this.viewer.mainPane.getBoundingClientRect();
    const { x, y } = this.point;
    const out = (/** @type {number} */ at, /** @type {number} */ from, /** @type {number} */ to) => Math.min(0, to - LARGE_STEP_PX - at) || Math.max(0, from + LARGE_STEP_PX - at);
    if (this.viewer.zoom > 1) this.viewer.panBy(out(x, pane.left, pane.right), out(y, pane.top, pane.bottom));
  }

  /** @returns {DOMRect} Where the image is on the screen. */
  get world() {
    return byId("world-after", HTMLElement).getBoundingClientRect();
  }

  /** @returns {number} Screen pixels per pixel of the image. */
  get scale() {
    return this.world.width / this.size.width;
  }

  /** @returns {Point} Where the pen is on the screen. */
  get point() {
    const { x, y, width, height } = this.world;
    return { x: x + this.place.x * width, y: y + this.place.y * height };
  }

  /** @returns {PointerEvent} What a tool is told of where the pen is. */
  get event() {
    return new PointerEvent("pointermove", { clientX: this.point.x, clientY: this.point.y, button: 0, buttons: 1, pointerType: "mouse" });
  }
}
