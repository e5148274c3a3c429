/** The red box on the image: drawn, dragged and resized by mouse, finger or keys, in the image's own pixels. */

import { byId, make } from "./dom.js";
import { arrow, carried, fromCorners, isDrawn, moved, pulled, shiftInto } from "./geometry.js";

/** @import { Box, Size } from "./geometry.js" */
/** @import { Found, Pick } from "./ghost.js" */

const SIDES = /** @type {const} */ (["nw", "n", "ne", "e", "se", "s", "sw", "w"]);
const SMALLEST_SHARE = 0.02; // below, hardly ever trained
const FIRST_SHARE = 0.3;
const NUDGE_SHARE = 0.01;
const CLICK_PX = 4; // a press that moves less is a click
const SWIPE = 4; // a drag of a finger that goes down this many times as far as across is meant for the page
const LEAST_PX = 16; // a smaller new box is a slip of the hand

/**
 * @typedef {object} Drag
 * @property {PointerEvent} first
 * @property {{x: number, y: number}} start
 * @property {Box | null} before
 * @property {string | undefined} grip
 * @property {boolean} isOnBox
 * @property {boolean} hasMoved
 */

export class BoxEditor {
  /**
   * @param {() => void} changed Called after every change by hand.
   * @param {(name: string) => void} renamed Called when the name beside the box is edited.
   * @param {(place: {x: number, y: number}) => void} picked Called when a place beside the box is clicked.
   */
  constructor(changed, renamed, picked) {
    this.changed = changed;
    this.picked = picked;
    /** @type {Box | null} Where the object is that was picked. */
    this.origin = null;
    /** @type {Pick | null} How it was picked. */
    this.pick = null;
    this.layer = byId("box-layer", HTMLElement);
    this.cue = byId("box-cue", HTMLElement);
    this.size = { width: 1, height: 1 };
    /** @type {Box | null} */
    this.box = null;
    /** @type {Drag | null} */
    this.drag = null;
    this.isArmed = false; // whether the next touch draws a new box although there is one
    this.frame = make("div", {
      class: "box",
      tabindex: "0",
      role: "application",
      "aria-roledescription": "box",
      hidden: true,
    });
    for (const side of SIDES) this.frame.append(make("span", { class: `grip grip-${side}`, "data-side": side }));
    this.name = make("input", {
      class: "box-name",
      type: "text",
      dir: "auto",
      "aria-label": "Name of the object, beside the box",
      placeholder: "which object?",
      autocomplete: "off",
    });
    this.name.addEventListener("input", () => renamed(this.name.value));
    this.frame.append(this.name);
    this.way = make("div", { class: "way", "aria-hidden": "true", hidden: true });
    this.layer.append(this.frame, this.way);
    this.frame.addEventListener("keydown", (event) => this.onKey(event));
    this.listenToTouch();
  }

  /** Have a swipe straight up or down scroll the page, and any other drag of a finger draw. */
  listenToTouch() {
    let start = { x: 0, y: 0 };
    let isDrawing = false;
    this.layer.addEventListener("touchstart", ({ touches: [{ clientX, clientY }] }) => {
      start = { x: clientX, y: clientY };
      isDrawing = false;
    }, { passive: true });
    this.layer.addEventListener("touchmove", (event) => {
      const { clientX, clientY } = event.touches[0];
      const [across, down] = [Math.abs(clientX - start.x), Math.abs(clientY - start.y)];
      isDrawing ||= event.touches.length > 1 || this.isArmed || SWIPE * across > down;
      // What is not prevented here scrolls, and the drag is cancelled by the browser.
      if (isDrawing && event.cancelable && this.drag) event.preventDefault();
    }, { passive: false });
  }

  /** Work on an image of a size. @param {Size} size */
  setSize(size) {
    if (size.width === this.size.width && size.height === this.size.height) return;
    this.size = { width: size.width, height: size.height };
    this.set(null);
  }

  /** Set the box, without calling `changed`. @param {Box | null} box */
  set(box) {
    this.box = box && shiftInto(box, this.size);
    if (!box) this.dropObject();
    this.render();
  }

  /** Put a box in the middle, for those who don't draw. */
  add() {
    const { width, height } = this.size;
    const side = FIRST_SHARE * Math.min(width, height);
    this.set([(width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2]);
    this.frame.focus();
    this.changed();
  }

  /**
   * Take an object: its pixels follow the box, its outline stays.
   *
   * @param {Found} found
   * @param {Pick} pick One with strokes adds to what was picked before, or takes away from it: the box goes along.
   */
  take(found, pick) {
    const { box, origin } = this;
    this.show(found, pick);
    this.set(box && origin && pick.strokes.length ? carried(box, origin, found.box, this.size) : found.box);
    this.frame.focus({ preventScroll: true });
    this.changed();
  }

  /** Show an object where it is and in the box. @param {Found} found @param {Pick} pick */
  show({ box, ghost, outline }, pick) {
    this.dropObject();
    this.origin = shiftInto(box, this.size);
    this.pick = pick;
    ghost.className = "ghost";
    outline.className = "outline";
    this.frame.prepend(ghost);
    this.layer.prepend(outline);
    this.render();
  }

  /** Have only the box, without an object. */
  dropObject() {
    this.origin = this.pick = null;
    for (const canvas of this.layer.querySelectorAll("canvas")) canvas.remove();
    this.renderWay();
  }

  /** @returns {boolean} Whether the object that was picked has not been moved yet. */
  get isAtOrigin() {
    return this.origin !== null && String(this.origin) === String(this.box);
  }

  /** Have the next drag draw a new box, also with a finger. */
  arm() {
    this.isArmed = true;
    this.render();
  }

  /** Return what speaks against the box; null where nothing does. */
  get advice() {
    if (!this.box) return null;
    const [left, top, right, bottom] = this.box;
    const share = Math.min((right - left) / this.size.width, (bottom - top) / this.size.height);
    if (share >= SMALLEST_SHARE) return null;
    return "The box is very small. The model saw few such boxes in training, and the move may fail.";
  }

  render() {
    const { box } = this;
    this.frame.hidden = !box;
    this.renderWay();
    this.cue.hidden = this.layer.hidden || (Boolean(box) && !this.isArmed);
    // Where there is a box, a finger elsewhere scrolls the page or pans; only a new box needs the whole layer.
    this.layer.classList.toggle("takes-touch", !box || this.isArmed);
    if (!box) return;
    const [left, top, right, bottom] = box;
    const { width, height } = this.size;
    const style = this.frame.style;
    style.left = `${(100 * left) / width}%`;
    style.top = `${(100 * top) / height}%`;
    style.width = `${(100 * (right - left)) / width}%`;
    style.height = `${(100 * (bottom - top)) / height}%`;
    this.frame.classList.toggle("box-high", top < 0.12 * height);
    this.frame.classList.toggle("box-right", left > 0.55 * width);
    this.frame.setAttribute(
      "aria-label",
      `Where the object should go: ${right - left} by ${bottom - top} pixels, ${left} from the left, ${top} from the top. ` +
        "Arrow keys move it, with Shift they resize it, with Alt by one pixel.",
    );
  }

  /** Show the way from where the object is to where it should go. */
  renderWay() {
    const way = this.box && this.origin && arrow(this.origin, this.box);
    this.way.hidden = !way;
    if (!way) return;
    this.way.style.left = `${(100 * way.start.x) / this.size.width}%`;
    this.way.style.top = `${(100 * way.start.y) / this.size.height}%`;
    this.way.style.width = `${(100 * way.length) / this.size.width}%`;
    this.way.style.rotate = `${way.angle}rad`;
  }

  /**
   * Begin a drag, if this one is the box's.
   *
   * @param {PointerEvent} event
   * @returns {boolean} Whether it is.
   */
  begin(event) {
    if (event.button > 0 || event.target === this.name) return false;
    const isOnBox = event.target instanceof Node && this.frame.contains(event.target);
    if (event.pointerType === "touch" && this.box && !isOnBox && !this.isArmed) return false;
    const grip = event.target instanceof HTMLElement ? event.target.dataset.side : undefined;
    this.drag = { first: event, start: this.toImage(event), before: this.box, grip, isOnBox, hasMoved: false };
    return true;
  }

  /** @param {PointerEvent} event */
  move(event) {
    const { drag } = this;
    if (!drag) return;
    const { first, start, before, grip, isOnBox } = drag;
    drag.hasMoved ||= Math.hypot(event.clientX - first.clientX, event.clientY - first.clientY) >= CLICK_PX;
    if (!drag.hasMoved) return;
    const place = this.toImage(event);
    const [dx, dy] = [place.x - start.x, place.y - start.y];
    // A corner scales an object as a whole; a box alone is free.
    if (before && grip) this.set(pulled(before, grip, dx, dy, this.size, event.shiftKey !== (this.origin !== null)));
    else if (before && isOnBox) this.set(moved(before, dx, dy, this.size));
    else if (Math.hypot(dx, dy) * this.scale >= LEAST_PX) this.set(fromCorners([start.x, start.y, place.x, place.y], this.size));
  }

  end() {
    const { drag } = this;
    if (!drag) return;
    this.drag = null;
    const isNew = !drag.isOnBox;
    const isSlip = isNew && drag.hasMoved && this.box && !isDrawn(this.box, this.scale, LEAST_PX);
    if (isSlip) this.set(drag.before);
    if (isNew && drag.hasMoved && !isSlip && String(this.box) !== String(drag.before)) this.dropObject();
    if (isNew && !drag.hasMoved) return this.picked(drag.start);
    if (drag.isOnBox || (drag.hasMoved && !isSlip)) this.frame.focus({ preventScroll: true });
    if (drag.hasMoved && !isSlip) {
      this.isArmed = false;
      this.render();
      this.changed();
    }
  }

  /** Give up a drag: the box is what it was. */
  cancel() {
    if (!this.drag) return;
    this.set(this.drag.before);
    this.drag = null;
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.target !== this.frame || !this.box || event.ctrlKey || event.metaKey) return;
    const step = event.altKey ? 1 : Math.max(1, Math.round(NUDGE_SHARE * Math.max(this.size.width, this.size.height)));
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[/** @type {keyof typeof ways} */ (event.key)];
    const [left, top, right, bottom] = this.box;
    if (event.key === "Delete" || event.key === "Backspace") this.set(null);
    else if (!way) return;
    else if (event.shiftKey) this.set(fromCorners([left, top, Math.max(left + 1, right + step * way[0]), Math.max(top + 1, bottom + step * way[1])], this.size));
    else this.set(moved(this.box, step * way[0], step * way[1], this.size));
    event.preventDefault();
    event.stopPropagation();
    this.changed();
    if (!this.box) byId("box-add", HTMLElement).focus();
  }

  /** @returns {number} Screen pixels per pixel of the image. */
  get scale() {
    return this.layer.getBoundingClientRect().width / this.size.width;
  }

  /** @param {PointerEvent} event @returns {{x: number, y: number}} In the image's pixels, however it is shown. */
  toImage(event) {
    const bounds = this.layer.getBoundingClientRect();
    return {
      x: ((event.clientX - bounds.x) / bounds.width) * this.size.width,
      y: ((event.clientY - bounds.y) / bounds.height) * this.size.height,
    };
  }
}
