/** The picture on the stage: before and after in four ways, zoomed and panned in step. */

import { byId, tell } from "./dom.js";
import { drawDifference } from "./picture.js";

/** @typedef {"before" | "slider" | "sides" | "difference" | "after"} View */

const MOST_ENLARGED = 12; // screen pixels per pixel of the picture when it fits: tiny pictures needn't stay tiny
const MOST_ZOOM = 40;
const ZOOM_STEP = 1.25;
const PAN_STEP = 0.1;
const FIRST_SHARE = 0.08;
const ROOM_FOR_TAG_PX = 90;

export class Viewer {
  /** @param {() => boolean} isDrawing Whether a drag draws a box, not pans. */
  constructor(isDrawing) {
    this.isDrawing = isDrawing;
    this.panes = byId("panes", HTMLElement);
    this.before = byId("image-before", HTMLImageElement);
    this.after = byId("image-after", HTMLImageElement);
    this.difference = byId("image-difference", HTMLCanvasElement);
    this.handle = byId("handle", HTMLElement);
    this.size = { width: 1, height: 1 };
    this.zoom = 1;
    this.center = { x: 0.5, y: 0.5 };
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
    for (const pane of this.panes.querySelectorAll(".pane")) {
      const world = pane.querySelector(".world");
      if (!(pane instanceof HTMLElement) || !(world instanceof HTMLElement) || !pane.clientWidth) continue;
      const scale = this.scaleIn(pane);
      const [width, height] = [this.size.width * scale, this.size.height * scale];
      this.center.x = clampCenter(this.center.x, pane.clientWidth / width);
      this.center.y = clampCenter(this.center.y, pane.clientHeight / height);
      world.style.width = `${width}px`;
      world.style.height = `${height}px`;
      const left = pane.clientWidth / 2 - this.center.x * width;
      const top = pane.clientHeight / 2 - this.center.y * height;
      world.style.transform = `translate(${left}px, ${top}px)`;
      world.classList.toggle("pixels", scale >= 6);
      tell(byId("zoom-value", HTMLElement), `${Math.round(100 * scale)} %`);
    }
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
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    if (place) {
      const bounds = this.paneAt(place).getBoundingClientRect();
      const scale = this.scaleIn(pane);
      const away = { x: place.x - bounds.x - bounds.width / 2, y: place.y - bounds.y - bounds.height / 2 };
      const gain = (1 - this.zoom / zoom) / scale;
      this.center.x += (away.x * gain) / this.size.width;
      this.center.y += (away.y * gain) / this.size.height;
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

  /** Put the slider's edge somewhere. @param {number} percent */
  setShare(percent) {
    this.share = Math.min(100, Math.max(0, percent));
    this.panes.style.setProperty("--share", `${this.share}%`);
    const left = (this.share / 100) * this.panes.clientWidth;
    this.panes.classList.toggle("mostly-after", left < ROOM_FOR_TAG_PX);
    this.panes.classList.toggle("mostly-before", this.panes.clientWidth - left < ROOM_FOR_TAG_PX);
    this.handle.setAttribute("aria-valuenow", String(Math.round(this.share)));
    this.handle.setAttribute("aria-valuetext", `${Math.round(this.share)} % before, the rest after`);
  }

  /** Put the slider near the left edge of the picture: what is new is seen first, and the handle beside it. */
  revealAfter() {
    const width = this.panes.clientWidth;
    const shown = Math.min(width, this.size.width * this.scaleIn(this.panes));
    this.setShare((100 * ((width - shown) / 2 + FIRST_SHARE * shown)) / Math.max(1, width));
  }

  /** @returns {HTMLElement} A pane that is shown. */
  get mainPane() {
    return byId(this.panes.dataset.view === "before" ? "pane-before" : "pane-after", HTMLElement);
  }

  /** @param {{x: number, y: number}} place */
  paneAt(place) {
    const first = byId("pane-before", HTMLElement);
    const isFirst = this.panes.dataset.view === "sides" && place.x < first.getBoundingClientRect().right;
    return isFirst ? first : this.mainPane;
  }

  /** @param {HTMLElement} pane @returns {number} Screen pixels per pixel of the picture. */
  scaleIn(pane) {
    const fitting = Math.min(
      pane.clientWidth / this.size.width,
      pane.clientHeight / this.size.height,
      MOST_ENLARGED,
    );
    return Math.max(fitting, 1e-6) * this.zoom;
  }

  listen() {
    new ResizeObserver(() => this.layout()).observe(this.panes);
    byId("zoom-in", HTMLElement).addEventListener("click", () => this.zoomBy(ZOOM_STEP));
    byId("zoom-out", HTMLElement).addEventListener("click", () => this.zoomBy(1 / ZOOM_STEP));
    byId("zoom-fit", HTMLElement).addEventListener("click", () => this.fit());
    this.panes.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(ZOOM_STEP ** (-event.deltaY / 100), event);
    }, { passive: false });
    this.panes.addEventListener("dblclick", (event) => {
      if (!this.isDrawing()) this.zoom > 1 ? this.fit() : this.zoomBy(3, event);
    });
    this.panes.addEventListener("keydown", (event) => this.onKey(event));
    this.panes.addEventListener("pointerdown", (event) => this.onDown(event));
    this.panes.addEventListener("pointermove", (event) => this.onMove(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.panes.addEventListener(end, (event) => this.pointers.delete(/** @type {PointerEvent} */ (event).pointerId));
    }
    this.handle.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      this.handle.setPointerCapture(event.pointerId);
    });
    this.handle.addEventListener("pointermove", (event) => {
      if (!this.handle.hasPointerCapture(event.pointerId)) return;
      event.stopPropagation();
      const bounds = this.panes.getBoundingClientRect();
      this.setShare((100 * (event.clientX - bounds.x)) / bounds.width);
    });
    this.handle.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
      const step = steps[/** @type {keyof typeof steps} */ (event.key)];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.setShare(/** @type {number} */ (this.share) + step);
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

  /** @param {PointerEvent} event */
  onDown(event) {
    if (this.isDrawing() || event.button > 0) return;
    this.pointers.set(event.pointerId, event);
    this.panes.setPointerCapture(event.pointerId);
  }

  /** One finger or the mouse pans, two fingers zoom and pan. @param {PointerEvent} event */
  onMove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const other = [...this.pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    if (other) {
      const apart = (/** @type {PointerEvent} */ one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const middle = { x: (event.clientX + other.clientX) / 2, y: (event.clientY + other.clientY) / 2 };
      this.zoomBy(apart(event) / Math.max(1, apart(last)), middle);
    }
    const share = other ? 0.5 : 1;
    this.panBy(share * (event.clientX - last.clientX), share * (event.clientY - last.clientY));
    this.pointers.set(event.pointerId, event);
  }
}

/** Keep a picture that is larger than its pane from leaving it, and a smaller one in the middle. @param {number} center @param {number} shown Share of the picture that fits into the pane. */
function clampCenter(center, shown) {
  return shown >= 1 ? 0.5 : Math.min(1 - shown / 2, Math.max(shown / 2, center));
}
