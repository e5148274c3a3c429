/** The picture on the stage: before and after in four ways, zoomed and panned in step. */

import { byId, tell } from "./dom.js";
import { clamp, clampCenter, fitScale, zoomedAt } from "./geometry.js";
import { drawDifference } from "./picture.js";

/** @typedef {"before" | "slider" | "sides" | "difference" | "after"} View */

const MOST_ENLARGED = 12; // screen pixels per pixel of the picture when it fits: tiny pictures needn't stay tiny
const MOST_ZOOM = 40;
const ZOOM_STEP = 1.25;
const PAN_STEP = 0.1;
const FIRST_SHARE = 0.08;
const ROOM_FOR_TAG_PX = 90;
const MARGIN_PX = 16; // grips at the edge of the image can be seen and held
const OVER_PX = 48; // as far as a zoomed image leaves its pane
const TRACKPAD_PX = 40; // a mouse's wheel turns in larger steps

/**
 * @typedef {object} Tool What a drag on the image does beside panning.
 * @property {(event: PointerEvent) => boolean} begin Returns whether it takes the drag.
 * @property {(event: PointerEvent) => void} move
 * @property {() => void} end
 * @property {() => void} cancel A second finger or Escape: everything is as before.
 */

export class Viewer {
  /** @param {() => Tool | null} findTool The tool in use; null where a drag pans. */
  constructor(findTool) {
    this.findTool = findTool;
    /** @type {Tool | null} The tool that has taken the drag. */
    this.held = null;
    this.isSpaceHeld = false;
    this.isByKeys = false; // whether the focus was moved with Tab since the last click
    this.panes = byId("panes", HTMLElement);
    this.before = byId("image-before", HTMLImageElement);
    this.after = byId("image-after", HTMLImageElement);
    this.difference = byId("image-difference", HTMLCanvasElement);
    this.handle = byId("handle", HTMLElement);
    this.size = { width: 1, height: 1 };
    this.zoom = 1;
    this.center = { x: 0.5, y: 0.5 };
    this.share = 50; // of the image's width
    /** @type {Map<number, PointerEvent>} */
    this.pointers = new Map();
    this.setShare(50);
    this.listen();
  }

  /**
   * Show one picture, or a result beside what it was made of.
   *
   * @param {string} after
   * @param {string | null} before
   * @param {{width: number, height: number}} size Of `after`, in pixels.
   * @param {string} label
   */
  show(after, before, size, label) {
    if (size.width * this.size.height !== size.height * this.size.width) this.fit();
    this.size = size;
    if (this.after.src !== after) this.after.src = after;
    this.after.alt = label;
    if (before && this.before.src !== before) this.before.src = before;
    this.panes.hidden = false;
    this.layout();
  }

  /** Draw the difference of what is shown. @returns {Promise<number>} The share that differs. */
  async drawDifference() {
    await Promise.all([this.before.decode(), this.after.decode()]);
    return drawDifference(this.before, this.after, this.difference);
  }

  /** Choose how before and after are shown. @param {View} view */
  setView(view) {
    this.panes.dataset.view = view;
    this.layout();
  }

  /** Lay everything out again: the window, the zoom or the view has changed. */
  layout() {
    this.panes.classList.toggle("zoomed", this.zoom > 1);
    const [across, down] = [[0.5, 1], [1, 0.5]].map(([width, height]) =>
      fitScale(this.size, { width: width * this.panes.clientWidth, height: height * this.panes.clientHeight }, MARGIN_PX, MOST_ENLARGED),
    );
    this.panes.classList.toggle("stacked", down > across);
    for (const pane of this.panes.querySelectorAll(".pane")) {
      const world = pane.querySelector(".world");
      if (!(pane instanceof HTMLElement) || !(world instanceof HTMLElement) || !pane.clientWidth) continue;
      const scale = this.scaleIn(pane);
      const [width, height] = [this.size.width * scale, this.size.height * scale];
      const over = this.zoom > 1 ? OVER_PX : 0;
      this.center.x = clampCenter(this.center.x, width, pane.clientWidth, over);
      this.center.y = clampCenter(this.center.y, height, pane.clientHeight, over);
      // What is only panned keeps its size: nothing is laid out or drawn again.
      const [shownWidth, shownHeight] = [`${width}px`, `${height}px`];
      if (world.style.width !== shownWidth) world.style.width = shownWidth;
      if (world.style.height !== shownHeight) world.style.height = shownHeight;
      const left = pane.clientWidth / 2 - this.center.x * width;
      const top = pane.clientHeight / 2 - this.center.y * height;
      world.style.transform = `translate(${left}px, ${top}px)`;
      world.classList.toggle("pixels", scale >= 6);
      tell(byId("zoom-value", HTMLElement), `${Math.round(100 * scale)}%`);
    }
    this.placeHandle();
  }

  /** Show the whole picture. */
  fit() {
    this.zoom = 1;
    this.center = { x: 0.5, y: 0.5 };
    this.layout();
  }

  /**
   * Zoom, keeping a place of the screen where it is.
   *
   * @param {number} factor
   * @param {{x: number, y: number} | null} place In the window; the middle if null.
   */
  zoomBy(factor, place = null) {
    const pane = this.mainPane;
    const zoom = clamp(this.zoom * factor, 1, MOST_ZOOM);
    if (place) {
      const bounds = this.paneAt(place).getBoundingClientRect();
      const scale = this.scaleIn(pane);
      const away = { x: place.x - bounds.x - bounds.width / 2, y: place.y - bounds.y - bounds.height / 2 };
      const shown = { width: this.size.width * scale, height: this.size.height * scale };
      this.center = zoomedAt({ zoom: this.zoom, center: this.center }, zoom, away, shown).center;
    }
    this.zoom = zoom;
    this.layout();
  }

  /** Pan by screen pixels. @param {number} x @param {number} y */
  panBy(x, y) {
    const scale = this.scaleIn(this.mainPane);
    this.center.x -= x / (this.size.width * scale);
    this.center.y -= y / (this.size.height * scale);
    this.layout();
  }

  /** Put the slider's edge somewhere. @param {number} percent Of the image's width. */
  setShare(percent) {
    this.share = clamp(percent, 0, 100);
    this.handle.setAttribute("aria-valuenow", String(Math.round(this.share)));
    this.handle.setAttribute("aria-valuetext", `${Math.round(this.share)}% before, the rest after`);
    this.placeHandle();
  }

  /** Show the slider's edge at its place on the image, or at the pane's edge where that place is out of sight. */
  placeHandle() {
    const pane = this.panes.clientWidth;
    const { left, width } = this.shownIn(this.panes);
    const x = clamp(left + (this.share / 100) * width, 0, pane);
    this.panes.style.setProperty("--share", `${x}px`);
    this.panes.classList.toggle("mostly-after", x < ROOM_FOR_TAG_PX);
    this.panes.classList.toggle("mostly-before", pane - x < ROOM_FOR_TAG_PX);
  }

  /** Put the slider near the left edge of the image: what is new is seen first, and the handle beside it. */
  revealAfter() {
    this.setShare(100 * FIRST_SHARE);
  }

  /** @param {HTMLElement} pane @returns {{left: number, width: number}} Where the image is in it, in screen pixels. */
  shownIn(pane) {
    const width = this.size.width * this.scaleIn(pane);
    return { left: pane.clientWidth / 2 - this.center.x * width, width };
  }

  /** @returns {HTMLElement} A pane that is shown. */
  get mainPane() {
    return byId(this.panes.dataset.view === "before" ? "pane-before" : "pane-after", HTMLElement);
  }

  /** @param {{x: number, y: number}} place */
  paneAt(place) {
    const first = byId("pane-before", HTMLElement);
    const bounds = first.getBoundingClientRect();
    const isFirst = this.panes.dataset.view === "sides" && place.x < bounds.right && place.y < bounds.bottom;
    return isFirst ? first : this.mainPane;
  }

  /** @param {HTMLElement} pane @returns {number} Screen pixels per pixel of the picture. */
  scaleIn(pane) {
    const room = { width: pane.clientWidth, height: pane.clientHeight };
    return fitScale(this.size, room, MARGIN_PX, MOST_ENLARGED) * this.zoom;
  }

  listen() {
    new ResizeObserver(() => this.layout()).observe(this.panes);
    byId("zoom-in", HTMLElement).addEventListener("click", () => this.zoomBy(ZOOM_STEP));
    byId("zoom-out", HTMLElement).addEventListener("click", () => this.zoomBy(1 / ZOOM_STEP));
    byId("zoom-fit", HTMLElement).addEventListener("click", () => this.fit());
    this.panes.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.onWheel(event);
    }, { passive: false });
    this.panes.addEventListener("dblclick", (event) => {
      if (!this.findTool()) this.zoom > 1 ? this.fit() : this.zoomBy(3, event);
    });
    addEventListener("keydown", (event) => this.onAnyKey(event));
    addEventListener("pointerdown", () => (this.isByKeys = false), { capture: true });
    addEventListener("keyup", (event) => {
      if (event.key !== " " || !this.isSpaceHeld) return;
      event.preventDefault(); // a button that was clicked last would be pressed
      this.setSpace(false);
    });
    addEventListener("blur", () => this.setSpace(false));
    this.panes.addEventListener("keydown", (event) => this.onKey(event));
    this.panes.addEventListener("pointerdown", (event) => this.onDown(event));
    this.panes.addEventListener("pointermove", (event) => this.onMove(event));
    this.panes.addEventListener("pointerup", (event) => this.onUp(event, true));
    this.panes.addEventListener("pointercancel", (event) => this.onUp(event, false));
    this.handle.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      this.handle.setPointerCapture(event.pointerId);
    });
    this.handle.addEventListener("pointermove", (event) => {
      if (!this.handle.hasPointerCapture(event.pointerId)) return;
      event.stopPropagation();
      const { left, width } = this.shownIn(this.panes);
      this.setShare((100 * (event.clientX - this.panes.getBoundingClientRect().x - left)) / width);
    });
    this.handle.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
      const step = steps[/** @type {keyof typeof steps} */ (event.key)];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.setShare(this.share + step);
    });
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.target !== this.panes || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = PAN_STEP * this.panes.clientWidth;
    /** @type {Record<string, () => void>} */
    const actions = {
      "+": () => this.zoomBy(ZOOM_STEP),
      "=": () => this.zoomBy(ZOOM_STEP),
      "-": () => this.zoomBy(1 / ZOOM_STEP),
      "0": () => this.fit(),
      ArrowLeft: () => this.panBy(by, 0),
      ArrowRight: () => this.panBy(-by, 0),
      ArrowUp: () => this.panBy(0, by),
      ArrowDown: () => this.panBy(0, -by),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** Escape gives a drag up; Space turns drags into panning, as in any image editor. @param {KeyboardEvent} event */
  onAnyKey(event) {
    if (event.key === "Escape" && this.held) {
      this.held.cancel();
      this.held = null;
      event.preventDefault();
    }
    if (event.key === "Tab") this.isByKeys = true;
    // Space presses a button for those who came to it with Tab; a button that was clicked last is none of them.
    const isOwn = event.target instanceof Element && event.target.matches("input, textarea, select") || (this.isByKeys && event.target !== this.panes);
    if (event.key !== " " || isOwn || !this.panes.matches(":hover, :focus-within")) return;
    event.preventDefault();
    this.setSpace(true);
  }

  /** @param {boolean} isHeld */
  setSpace(isHeld) {
    this.isSpaceHeld = isHeld;
    this.panes.classList.toggle("panning", isHeld);
  }

  /** A wheel zooms; a trackpad's two fingers pan, and zoom when they pinch. @param {WheelEvent} event */
  onWheel(event) {
    const isTrackpad = event.deltaMode === 0 && (event.deltaX !== 0 || Math.abs(event.deltaY) < TRACKPAD_PX);
    if (event.ctrlKey || event.metaKey) this.zoomBy(ZOOM_STEP ** (-event.deltaY / (isTrackpad ? 10 : 100)), event);
    else if (event.shiftKey) this.panBy(-(event.deltaX || event.deltaY), 0);
    else if (isTrackpad) this.panBy(-event.deltaX, -event.deltaY);
    else this.zoomBy(ZOOM_STEP ** (-event.deltaY / 100), event);
  }

  /** @param {PointerEvent} event */
  onDown(event) {
    const isMiddle = event.button === 1;
    if ((event.button > 0 && !isMiddle && !isEraser(event)) || (event.target instanceof HTMLInputElement)) return;
    if (isMiddle) event.preventDefault(); // no scrolling by the browser
    this.pointers.set(event.pointerId, event);
    this.panes.setPointerCapture(event.pointerId);
    if (this.pointers.size > 1) {
      // A second finger zooms and pans; what the first one has drawn so far was no drawing.
      this.held?.cancel();
      this.held = null;
    } else if (!isMiddle && !this.isSpaceHeld) {
      const tool = this.findTool();
      this.held = tool?.begin(event) ? tool : null;
    }
  }

  /** @param {PointerEvent} event @param {boolean} isDone */
  onUp(event, isDone) {
    if (!this.pointers.delete(event.pointerId) || !this.held) return;
    if (isDone) this.held.end();
    else this.held.cancel();
    this.held = null;
  }

  /** One finger or the mouse pans or uses the tool, two fingers zoom and pan. @param {PointerEvent} event */
  onMove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    this.pointers.set(event.pointerId, event);
    if (this.held) return this.held.move(event);
    const other = [...this.pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    if (other) {
      const apart = (/** @type {PointerEvent} */ one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const middle = { x: (event.clientX + other.clientX) / 2, y: (event.clientY + other.clientY) / 2 };
      this.zoomBy(apart(event) / Math.max(1, apart(last)), middle);
    }
    const share = other ? 0.5 : 1;
    this.panBy(share * (event.clientX - last.clientX), share * (event.clientY - last.clientY));
  }
}

/** Tell whether a pen touches with its eraser, which browsers report as a button of its own. @param {PointerEvent} event */
export function isEraser({ pointerType, buttons }) {
  return pointerType === "pen" && (buttons & 32) > 0;
}

/** Tell whether a drag pans whatever the tool is: that of a finger on an image that is zoomed in. @param {PointerEvent} event */
export function isPanning({ pointerType }) {
  return pointerType === "touch" && byId("panes", HTMLElement).classList.contains("zoomed");
}
