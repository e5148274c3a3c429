/** The red box on the picture: drawn, dragged and resized by mouse, finger or keys, in the picture's own pixels. */

import { byId, make } from "./dom.js";

/** @import { Box } from "./types.js" */

const SIDES = /** @type {const} */ (["nw", "n", "ne", "e", "se", "s", "sw", "w"]);
const SMALLEST_SHARE = 0.02; // below, hardly ever trained
const FIRST_SHARE = 0.3;
const NUDGE_SHARE = 0.01;
const CLICK_PX = 4; // a press that moves less is no drawing

export class BoxEditor {
  /**
   * @param {() => void} changed Called after every change by hand.
   * @param {(name: string) => void} renamed Called when the name beside the box is edited.
   */
  constructor(changed, renamed) {
    this.changed = changed;
    this.layer = byId("box-layer", HTMLElement);
    this.cue = byId("box-cue", HTMLElement);
    this.size = { width: 1, height: 1 };
    /** @type {Box | null} */
    this.box = null;
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
      "aria-label": "Name of the object, beside the box",
      placeholder: "which object?",
      autocomplete: "off",
    });
    this.name.addEventListener("input", () => renamed(this.name.value));
    this.frame.append(this.name);
    this.layer.append(this.frame);
    this.layer.addEventListener("pointerdown", (event) => this.onDown(event));
    this.frame.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Work on a picture of a size. @param {{width: number, height: number}} size */
  setSize(size) {
    if (size.width === this.size.width && size.height === this.size.height) return;
    this.size = size;
    this.set(null);
  }

  /** Set the box, without calling `changed`. @param {Box | null} box */
  set(box) {
    this.box = box && this.clip(box);
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

  /** Return what speaks against the box; null where nothing does. */
  get advice() {
    if (!this.box) return null;
    const [left, top, right, bottom] = this.box;
    const share = Math.min((right - left) / this.size.width, (bottom - top) / this.size.height);
    if (share >= SMALLEST_SHARE) return null;
    return "The box is very small: the model has hardly seen such ones, and the move may fail.";
  }

  render() {
    this.frame.hidden = !this.box;
    this.cue.hidden = this.box !== null;
    if (!this.box) return;
    const [left, top, right, bottom] = this.box;
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

  /** @param {PointerEvent} event */
  onDown(event) {
    if (event.button > 0 || event.target === this.name) return;
    event.preventDefault();
    event.stopPropagation();
    const start = this.toPicture(event);
    const before = this.box;
    const grip = event.target instanceof HTMLElement ? event.target.dataset.side : undefined;
    const isOnBox = event.target instanceof Node && this.frame.contains(event.target);
    this.layer.setPointerCapture(event.pointerId);
    let hasMoved = false;
    const move = (/** @type {PointerEvent} */ now) => {
      const place = this.toPicture(now);
      const far = Math.hypot(now.clientX - event.clientX, now.clientY - event.clientY);
      hasMoved ||= far >= CLICK_PX;
      if (!hasMoved) return;
      if (before && grip) this.set(pull(before, grip, place.x - start.x, place.y - start.y));
      else if (before && isOnBox) this.set(this.shifted(before, place.x - start.x, place.y - start.y));
      else this.set([start.x, start.y, place.x, place.y]);
    };
    const end = () => {
      this.layer.removeEventListener("pointermove", move);
      this.layer.removeEventListener("pointerup", end);
      this.layer.removeEventListener("pointercancel", end);
      if (isOnBox || hasMoved) this.frame.focus({ preventScroll: true });
      if (hasMoved) this.changed();
    };
    this.layer.addEventListener("pointermove", move);
    this.layer.addEventListener("pointerup", end);
    this.layer.addEventListener("pointercancel", end);
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.target !== this.frame || !this.box) return;
    const step = event.altKey ? 1 : Math.max(1, Math.round(NUDGE_SHARE * Math.max(this.size.width, this.size.height)));
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[/** @type {keyof typeof ways} */ (event.key)];
    if (event.key === "Delete" || event.key === "Backspace") this.set(null);
    else if (!way) return;
    else if (event.shiftKey) this.set(pull(this.box, "se", step * way[0], step * way[1], 1));
    else this.set(this.shifted(this.box, step * way[0], step * way[1]));
    event.preventDefault();
    event.stopPropagation();
    this.changed();
  }

  /** @param {Box} box @param {number} x @param {number} y @returns {Box} The box elsewhere, its size kept. */
  shifted(box, x, y) {
    const dx = Math.min(this.size.width - box[2], Math.max(-box[0], Math.round(x)));
    const dy = Math.min(this.size.height - box[3], Math.max(-box[1], Math.round(y)));
    return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
  }

  /** Bring a box into the picture and to whole pixels. @param {Box} box @returns {Box} */
  clip([left, top, right, bottom]) {
    const { width, height } = this.size;
    const x = [left, right].map((value) => Math.min(width, Math.max(0, Math.round(value)))).sort((a, b) => a - b);
    const y = [top, bottom].map((value) => Math.min(height, Math.max(0, Math.round(value)))).sort((a, b) => a - b);
    if (x[0] === x[1]) x[0] < width ? (x[1] += 1) : (x[0] -= 1);
    if (y[0] === y[1]) y[0] < height ? (y[1] += 1) : (y[0] -= 1);
    return [x[0], y[0], x[1], y[1]];
  }

  /** @param {PointerEvent} event @returns {{x: number, y: number}} In the picture's pixels, however it is shown. */
  toPicture(event) {
    const bounds = this.layer.getBoundingClientRect();
    return {
      x: ((event.clientX - bounds.x) / bounds.width) * this.size.width,
      y: ((event.clientY - bounds.y) / bounds.height) * this.size.height,
    };
  }
}

/**
 * Pull at a side or corner of a box.
 *
 * @param {Box} box
 * @param {string} side Such as "n" or "se".
 * @param {number} x
 * @param {number} y
 * @param {number} [least] Smallest side that may come of it; without, the box may turn over.
 * @returns {Box}
 */
function pull([left, top, right, bottom], side, x, y, least = -Infinity) {
  return [
    side.includes("w") ? left + x : left,
    side.includes("n") ? top + y : top,
    side.includes("e") ? Math.max(left + least, right + x) : right,
    side.includes("s") ? Math.max(top + least, bottom + y) : bottom,
  ];
}
