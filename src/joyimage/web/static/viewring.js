/** The eight views as a ring around the object, on the image itself. */

import { byId, make } from "./dom.js";
import { isPanning } from "./viewer.js";
import { VIEWS } from "./words.js";

/** @import { Box, Size } from "./geometry.js" */

const WIDE = 0.75; // of an object's box, from its middle to the ring
const LEAST = 0.16; // of the image's shorter side
const MOST = 0.44;
const CLICK_PX = 4;

export class ViewRing {
  /** @param {{chosen: (view: string) => void, picked: (place: {x: number, y: number}) => void}} on */
  constructor(on) {
    this.on = on;
    this.layer = byId("view-ring", HTMLElement);
    /** @type {{view: string, button: HTMLButtonElement}[]} */
    this.buttons = VIEWS.map((view) => ({
      view,
      // Those who use keys or a screen reader have the same choice beside the image.
      button: make("button", { type: "button", tabindex: "-1", title: view, pointerdown: (event) => event.stopPropagation(), click: () => on.chosen(view) }, make("span", {}, "➜")),
    }));
    this.layer.append(...this.buttons.map(({ button }) => button));
    this.size = { width: 1, height: 1 };
    /** @type {Box | null} Where the object is, where it was clicked on. */
    this.object = null;
    this.project = ""; // id of the one whose object it is
    /** @type {PointerEvent | null} */
    this.first = null;
  }

  /** @param {Size} size */
  setSize({ width, height }) {
    if (width === this.size.width && height === this.size.height) return;
    this.size = { width, height };
    this.object = null;
  }

  /** Work on a project: another one has another scene. @param {string} id */
  setProject(id) {
    if (id === this.project) return;
    this.project = id;
    this.object = null;
  }

  /** @param {Box} box */
  surround(box) {
    this.object = box;
  }

  /** @param {string} chosen */
  render(chosen) {
    const { width, height } = this.size;
    const [left, top, right, bottom] = this.object ?? [0, 0, width, height];
    const shorter = Math.min(width, height);
    const reach = (/** @type {number} */ length) => Math.min(MOST * shorter, Math.max(LEAST * shorter, WIDE * length));
    const [across, down] = [reach(right - left), reach(bottom - top)];
    for (const [n, { view, button }] of this.buttons.entries()) {
      const angle = (n * Math.PI) / 4; // clockwise from "right": an object that faces the viewer points down
      button.style.left = `${(100 * ((left + right) / 2 + across * Math.cos(angle))) / width}%`;
      button.style.top = `${(100 * ((top + bottom) / 2 + down * Math.sin(angle))) / height}%`;
      button.style.setProperty("--turn", `${n * 45}deg`);
      button.setAttribute("aria-pressed", String(view === chosen));
    }
  }

  // -- as a tool of the viewer: a click on the object puts the ring around it ----------------------------------

  /** @param {PointerEvent} event */
  begin(event) {
    if (event.button > 0 || isPanning(event)) return false;
    this.first = event;
    return true;
  }

  /** @param {PointerEvent} event */
  move(event) {
    const { first } = this;
    if (first && Math.hypot(event.clientX - first.clientX, event.clientY - first.clientY) >= CLICK_PX) this.first = null;
  }

  end() {
    const { first } = this;
    this.first = null;
    if (!first) return;
    const bounds = this.layer.getBoundingClientRect();
    this.on.picked({ x: ((first.clientX - bounds.x) / bounds.width) * this.size.width, y: ((first.clientY - bounds.y) / bounds.height) * this.size.height });
  }

  cancel() {
    this.first = null;
  }
}
