/** The camera on the image: drag to circle around, and a wireframe of the ground and a block as each camera sees them. */

import { byId, makeSvg } from "./dom.js";
import { isPanning } from "./viewer.js";
import { join, projection } from "./wireframe.js";

/** @import { Camera, Point } from "./wireframe.js" */

const DEGREES_PER_PX = 0.5;
const GROUND = 1.5;
const LINES = [-1.5, -0.75, 0, 0.75, 1.5];
const BLOCK = { half: 0.5, height: 0.8 };

/** @typedef {{now: Camera, then: Camera}} Cameras Before and after the move. */

export class Gizmo {
  /** @param {{angles: () => [number, number], turn: (yaw: number, pitch: number) => void}} on */
  constructor(on) {
    this.on = on;
    this.before = byId("wire-before", SVGSVGElement);
    this.after = byId("wire-after", SVGSVGElement);
    /** @type {{first: PointerEvent, from: [number, number]} | null} */
    this.drag = null;
  }

  /**
   * Draw what is wanted.
   *
   * @param {Cameras | null} cameras Null where no camera is moved.
   * @param {boolean} isCompared Whether a result is shown beside its input: each has its own camera then.
   */
  render(cameras, isCompared) {
    for (const picture of [this.before, this.after]) picture.toggleAttribute("hidden", !cameras);
    if (!cameras) return;
    this.before.replaceChildren(...wire(cameras.now, "wire-now"));
    this.after.replaceChildren(...(isCompared ? [] : wire(cameras.now, "wire-now")), ...wire(cameras.then, "wire-then"));
  }

  /** @param {PointerEvent} event */
  begin(event) {
    if (event.button > 0 || isPanning(event)) return false;
    this.drag = { first: event, from: this.on.angles() };
    return true;
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (!this.drag) return;
    const { first, from } = this.drag;
    this.on.turn(from[0] + DEGREES_PER_PX * (event.clientX - first.clientX), from[1] - DEGREES_PER_PX * (event.clientY - first.clientY));
  }

  end() {
    this.drag = null;
  }

  cancel() {
    if (this.drag) this.on.turn(...this.drag.from);
    this.drag = null;
  }
}

/** @param {Camera} camera @param {string} kind */
function wire(camera, kind) {
  const project = projection(camera);
  const { half, height } = BLOCK;
  const square = (/** @type {number} */ z) => /** @type {Point[]} */ ([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z], [-half, -half, z]]);
  /** @type {Point[][]} */
  const lines = [
    ...LINES.flatMap((n) => /** @type {Point[][]} */ ([[[n, -GROUND, 0], [n, GROUND, 0]], [[-GROUND, n, 0], [GROUND, n, 0]]])),
    square(0),
    square(height),
    ...square(0).slice(1).map(([x, y]) => /** @type {Point[]} */ ([[x, y, 0], [x, y, height]])),
  ];
  return lines.map((line) => makeSvg("polyline", { class: kind, points: join(line.map(project)) }));
}
