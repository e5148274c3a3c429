/** The camera's orbit: a sphere to drag, numbers, and a wireframe of what the camera will see. */

import { byId, make, makeSvg, tell } from "./dom.js";
import { drawCar, join, projection, standpoint } from "./wireframe.js";
import { TRAINED_PITCHES, TRAINED_YAWS, isTrained } from "./words.js";

/** @import { Camera, Point } from "./wireframe.js" */

const START = { azimuth: -90, elevation: 8, distance: 2 };
const OBSERVER = { azimuth: -42, elevation: 30, distance: 8.2 }; // from aside: neither camera hides the car
const SEEN_FROM = 5.6; // distance of the small pictures' camera
const ZOOMED = { in: 0.72, out: 1.3, unchanged: 1 };
const HEADING = 125;
const STEEPEST = 88; // straight above, left and right have no meaning
const DEGREES_PER_PX = 0.7;

export class Orbit {
  /** @param {() => void} changed Called after every change by hand. */
  constructor(changed) {
    this.changed = changed;
    this.yaw = byId("yaw", HTMLInputElement);
    this.pitch = byId("pitch", HTMLInputElement);
    this.zoom = byId("zoom", HTMLSelectElement);
    this.snap = byId("snap", HTMLInputElement);
    this.sphere = make("div", { class: "sphere", tabindex: "0", role: "application", "aria-roledescription": "orbit", "aria-describedby": "orbit-hint" });
    this.overview = makeSvg("svg", { viewBox: "-0.86 -0.72 1.72 1.44", class: "wire", "aria-hidden": "true" });
    this.sphere.append(this.overview);
    this.now = makeSvg("svg", { viewBox: "-0.66 -0.5 1.32 1", class: "wire", "aria-hidden": "true" });
    this.then = makeSvg("svg", { viewBox: "-0.66 -0.5 1.32 1", class: "wire", "aria-hidden": "true" });
    const frames = make("div", { class: "frames" });
    for (const [caption, picture] of /** @type {const} */ ([["Now", this.now], ["After", this.then]])) {
      const frame = make("figure", {});
      frame.append(picture, make("figcaption", {}, caption));
      frames.append(frame);
    }
    byId("orbit", HTMLElement).append(this.sphere, frames);
    for (const input of [this.yaw, this.pitch, this.zoom]) {
      input.addEventListener("input", () => {
        this.render();
        changed();
      });
    }
    for (const input of [this.yaw, this.pitch]) {
      input.addEventListener("change", () => this.onTyped());
    }
    this.snap.addEventListener("change", () => {
      if (this.snap.checked) this.turnTo(this.angles[0], this.angles[1]);
    });
    this.sphere.addEventListener("pointerdown", (event) => this.onDown(event));
    this.sphere.addEventListener("keydown", (event) => this.onKey(event));
    this.render();
  }

  /** @returns {[number, number]} Yaw and pitch in degrees. */
  get angles() {
    return [Number(this.yaw.value) || 0, Number(this.pitch.value) || 0];
  }

  /** @returns {{now: Camera, then: Camera}} The cameras before and after the move, as near as the small pictures' are. */
  get cameras() {
    const [yaw, pitch] = this.angles;
    const zoom = ZOOMED[/** @type {keyof typeof ZOOMED} */ (this.zoom.value)] ?? 1;
    return { now: { ...START, distance: SEEN_FROM }, then: turned(START, yaw, pitch, SEEN_FROM * zoom) };
  }

  /** @returns {{sentence: string, focus: HTMLElement} | null} What keeps the camera move from being run. */
  get problem() {
    for (const [input, name] of /** @type {[HTMLInputElement, string][]} */ ([[this.yaw, "Yaw"], [this.pitch, "Pitch"]])) {
      const value = Number(input.value);
      if (input.value !== "" && value >= Number(input.min) && value <= Number(input.max)) continue;
      return { sentence: `${name} must be a number from ${input.min} to ${input.max} degrees.`, focus: input };
    }
    const [yaw, pitch] = this.angles;
    if (yaw !== 0 || pitch !== 0 || this.zoom.value !== "unchanged") return null;
    return { sentence: "This does not move the camera. Change an angle or choose a zoom.", focus: this.yaw };
  }

  /** Bring typed angles to those that were trained, where these are kept to, else to whole degrees. */
  onTyped() {
    if (this.yaw.value === "" || this.pitch.value === "") return;
    if (this.snap.checked || this.angles.some((angle) => !Number.isInteger(angle))) this.turnTo(...this.angles);
  }

  /** Set everything, without calling `changed`. @param {number} yaw @param {number} pitch @param {string} zoom */
  set(yaw, pitch, zoom) {
    this.yaw.value = String(yaw);
    this.pitch.value = String(pitch);
    this.zoom.value = zoom;
    if (!isTrained(yaw, pitch)) this.snap.checked = false;
    this.render();
  }

  /** @param {number} yaw @param {number} pitch */
  turnTo(yaw, pitch) {
    const around = ((((yaw + 180) % 360) + 360) % 360) - 180;
    const raised = Math.min(89, Math.max(-89, pitch));
    const [near, other] = this.snap.checked
      ? [nearest(around, [-180, ...TRAINED_YAWS]), nearest(raised, TRAINED_PITCHES)]
      : [Math.round(around), Math.round(raised)];
    const own = near === -180 ? 180 : near;
    if (own === this.angles[0] && other === this.angles[1]) return;
    this.set(own, other, this.zoom.value);
    this.changed();
  }

  /** @param {PointerEvent} event */
  onDown(event) {
    if (event.button > 0) return;
    this.sphere.setPointerCapture(event.pointerId);
    const [yaw, pitch] = this.angles;
    const move = (/** @type {PointerEvent} */ now) => {
      this.turnTo(
        yaw + DEGREES_PER_PX * (now.clientX - event.clientX),
        pitch - DEGREES_PER_PX * (now.clientY - event.clientY),
      );
    };
    this.sphere.addEventListener("pointermove", move);
    const end = () => this.sphere.removeEventListener("pointermove", move);
    this.sphere.addEventListener("lostpointercapture", end, { once: true });
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const way = ways[/** @type {keyof typeof ways} */ (event.key)];
    if (!way) return;
    event.preventDefault();
    const [across, up] = this.snap.checked ? [45, 15] : [5, 5];
    this.turnTo(this.angles[0] + across * way[0], this.angles[1] + up * way[1]);
  }

  render() {
    const [yaw, pitch] = this.angles;
    const zoom = ZOOMED[/** @type {keyof typeof ZOOMED} */ (this.zoom.value)] ?? 1;
    const end = turned(START, yaw, pitch, START.distance * zoom);
    this.drawOverview(yaw, pitch, end);
    drawSight(this.now, { ...START, distance: SEEN_FROM });
    drawSight(this.then, { ...end, distance: SEEN_FROM * zoom });
    this.sphere.setAttribute("aria-label", `Camera orbit: yaw ${yaw}°, pitch ${pitch}°. Arrow keys turn it.`);
    const advice = byId("camera-advice", HTMLElement);
    const isMixed = this.zoom.value !== "unchanged" && (yaw !== 0 || pitch !== 0);
    if (yaw === 0 && pitch === 0 && this.zoom.value === "unchanged") tell(advice, "This does not move the camera.");
    else if (!isTrained(yaw, pitch)) tell(advice, "The model was trained on yaw in steps of 45° and pitch in steps of 15°; other angles may be less accurate.");
    else if (isMixed) tell(advice, "The model was trained to turn or to zoom, not both at once; two edits, one after the other, may work better.");
    else tell(advice, null);
  }

  /** @param {number} yaw @param {number} pitch @param {Camera} end */
  drawOverview(yaw, pitch, end) {
    const project = projection(OBSERVER);
    const on = (/** @type {number} */ azimuth, /** @type {number} */ elevation) =>
      standpoint({ azimuth, elevation, distance: START.distance });
    const parts = [];
    const far = OBSERVER.distance;
    for (const elevation of [-60, -30, 0, 30, 60]) parts.push(...lines(range(0, 360, 10).map((a) => on(a, elevation)), project, far));
    for (const azimuth of range(0, 315, 45)) parts.push(...lines(range(-90, 90, 10).map((e) => on(azimuth, e)), project, far));
    const path = [
      ...range(0, 20, 1).map((n) => turned(START, (yaw * n) / 20, 0, START.distance)),
      ...range(0, 20, 1).map((n) => turned(START, yaw, (pitch * n) / 20, START.distance)),
    ];
    const track = makeSvg("polyline", { class: "track", points: join(path.map((camera) => project(standpoint(camera)))) });
    const car = drawCar(project, HEADING);
    const isBehind = project(standpoint(end))[2] > far;
    const camera = drawCamera(project, end, "camera-then");
    const first = drawCamera(project, { ...START }, "camera-now");
    const front = [first, track, camera];
    this.overview.replaceChildren(
      makeSvg("circle", { class: "globe", cx: 0, cy: project([0, 0, 0.45])[1], r: 0.606 }),
      ...parts,
      ...(isBehind ? [...front, car] : [car, ...front]),
    );
  }
}

/** @param {SVGElement} picture @param {Camera} camera */
function drawSight(picture, camera) {
  const project = projection(camera);
  const grid = [];
  for (const n of [-1.5, -0.75, 0, 0.75, 1.5]) {
    grid.push(line(project, [n, -1.5, 0], [n, 1.5, 0]), line(project, [-1.5, n, 0], [1.5, n, 0]));
  }
  picture.replaceChildren(...grid, drawCar(project, HEADING));
}

/** @param {(point: Point) => Point} project @param {Point} from @param {Point} to */
function line(project, from, to) {
  return makeSvg("polyline", { class: "ground", points: join([project(from), project(to)]) });
}

/** Draw a line over the sphere, fainter where it is behind. @param {Point[]} points @param {(point: Point) => Point} project @param {number} far */
function lines(points, project, far) {
  const seen = points.map(project);
  return seen.slice(1).map((point, n) => {
    const isBehind = (point[2] + seen[n][2]) / 2 > far;
    return makeSvg("polyline", { class: isBehind ? "mesh behind" : "mesh", points: join([seen[n], point]) });
  });
}

/** Draw a camera as the pyramid that it sees. @param {(point: Point) => Point} project @param {Camera} camera @param {string} kind */
function drawCamera(project, camera, kind) {
  const eye = project(standpoint(camera));
  const reach = { ...camera, distance: 0.74 * camera.distance };
  const corners = [[-7, -6], [7, -6], [7, 6], [-7, 6]].map(([a, e]) =>
    project(standpoint({ ...reach, azimuth: reach.azimuth + a / Math.max(0.2, Math.cos((reach.elevation * Math.PI) / 180)), elevation: reach.elevation + e })),
  );
  const sides = corners.map((corner) => makeSvg("polyline", { points: join([eye, corner]) }));
  return makeSvg(
    "g",
    { class: kind },
    ...sides,
    makeSvg("polygon", { points: join(corners) }),
    makeSvg("circle", { cx: eye[0], cy: eye[1], r: kind === "camera-then" ? 0.05 : 0.035 }),
  );
}

/** @param {Camera} camera @param {number} yaw @param {number} pitch @param {number} distance @returns {Camera} */
function turned(camera, yaw, pitch, distance) {
  const elevation = Math.min(STEEPEST, Math.max(-STEEPEST, camera.elevation + pitch));
  return { azimuth: camera.azimuth + yaw, elevation, distance };
}

/** @param {number} value @param {number[]} values */
function nearest(value, values) {
  return values.reduce((best, one) => (Math.abs(one - value) < Math.abs(best - value) ? one : best));
}

/** @param {number} from @param {number} to Included. @param {number} step @returns {number[]} */
function range(from, to, step) {
  return Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, n) => from + n * step);
}
