/** A small car in three dimensions, drawn as SVG: it shows what a view or a camera move means. */

import { makeSvg } from "./dom.js";

/** @typedef {[number, number, number]} Point x to the right, y away from the viewer, z up. */
/** @typedef {{azimuth: number, elevation: number, distance: number}} Camera Degrees; it looks at the middle. */

const MIDDLE = /** @type {Point} */ ([0, 0, 0.45]);
const FOCAL = 2.4;

/**
 * Return where a camera stands.
 *
 * @param {Camera} camera
 * @returns {Point}
 *
 * Source: SpatialEdit, arXiv 2604.04911: C = F + d (cos e cos a, cos e sin a, sin e).
 */
export function standpoint({ azimuth, elevation, distance }) {
  const [a, e] = [radians(azimuth), radians(elevation)];
  return [
    MIDDLE[0] + distance * Math.cos(e) * Math.cos(a),
    MIDDLE[1] + distance * Math.cos(e) * Math.sin(a),
    MIDDLE[2] + distance * Math.sin(e),
  ];
}

/**
 * Return a function from points to the picture plane of a camera; [across, down, how far away].
 *
 * @param {Camera} camera
 * @returns {(point: Point) => Point}
 */
export function projection(camera) {
  const eye = standpoint(camera);
  const [a, e] = [radians(camera.azimuth), radians(camera.elevation)];
  const forward = /** @type {Point} */ ([-Math.cos(e) * Math.cos(a), -Math.cos(e) * Math.sin(a), -Math.sin(e)]);
  const right = /** @type {Point} */ ([-Math.sin(a), Math.cos(a), 0]);
  const up = cross(right, forward);
  return (point) => {
    const away = minus(point, eye);
    const depth = Math.max(0.1, dot(away, forward));
    return [(FOCAL * dot(away, right)) / depth, (-FOCAL * dot(away, up)) / depth, depth];
  };
}

/**
 * Draw the car.
 *
 * @param {(point: Point) => Point} project
 * @param {number} heading Degrees: 0 its front points right, 90 to the viewer.
 * @returns {SVGElement}
 */
export function drawCar(project, heading) {
  const turn = radians(-heading);
  const faces = CAR.map((face) => {
    const corners = face.corners.map(([x, y, z]) =>
      project([x * Math.cos(turn) - y * Math.sin(turn), x * Math.sin(turn) + y * Math.cos(turn), z]),
    );
    return { kind: face.kind, corners, depth: corners.reduce((sum, corner) => sum + corner[2], 0) / corners.length };
  });
  const seen = faces.filter(({ corners: [a, b, c] }) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) < 0);
  seen.sort((one, other) => other.depth - one.depth);
  return makeSvg("g", { class: "car" }, ...seen.map(({ kind, corners }) => makeSvg("polygon", { class: kind, points: join(corners) })));
}

/**
 * Draw an arrow on the ground, from below the car to where its front points.
 *
 * @param {(point: Point) => Point} project
 * @param {number} heading
 * @returns {SVGElement}
 */
export function drawHeading(project, heading) {
  const turn = radians(-heading);
  const outline = /** @type {[number, number][]} */ ([[1.08, -0.1], [1.5, -0.1], [1.5, -0.34], [2, 0], [1.5, 0.34], [1.5, 0.1], [1.08, 0.1]]);
  const points = outline.map(([x, y]) =>
    project([x * Math.cos(turn) - y * Math.sin(turn), x * Math.sin(turn) + y * Math.cos(turn), 0]),
  );
  return makeSvg("polygon", { class: "arrow", points: join(points) });
}

/** Write points as SVG does. @param {Point[]} points */
export function join(points) {
  return points.map(([x, y]) => `${x.toFixed(3)},${y.toFixed(3)}`).join(" ");
}

/** @param {number} degrees */
function radians(degrees) {
  return (degrees * Math.PI) / 180;
}

/**
 * Return the faces of a block, narrower at its top, corners counter-clockwise seen from outside.
 *
 * @param {[number, number]} x
 * @param {number} y Half its width.
 * @param {[number, number]} z
 * @param {number} taper What the top is shorter by at each end.
 * @param {string} front Class of the face towards +x.
 * @param {string} rest Class of the others.
 */
function block([x0, x1], y, [z0, z1], taper, front, rest) {
  const low = /** @type {Point[]} */ ([[x0, -y, z0], [x1, -y, z0], [x1, y, z0], [x0, y, z0]]);
  const high = /** @type {Point[]} */ ([
    [x0 + taper, -y, z1],
    [x1 - taper, -y, z1],
    [x1 - taper, y, z1],
    [x0 + taper, y, z1],
  ]);
  const faces = [0, 1, 2, 3].map((n) => ({
    kind: n === 1 ? front : rest,
    corners: [low[n], low[(n + 1) % 4], high[(n + 1) % 4], high[n]],
  }));
  return [...faces, { kind: "roof", corners: high }, { kind: "floor", corners: [...low].reverse() }];
}

const CAR = [
  ...block([-1, 1], 0.46, [0.14, 0.52], 0.04, "front", "side"),
  ...block([-0.72, 0.42], 0.4, [0.52, 0.9], 0.2, "glass", "glass"),
];

/** @param {Point} a @param {Point} b @returns {Point} */
function minus(a, b) {
  return [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
}

/** @param {Point} a @param {Point} b */
function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/** @param {Point} a @param {Point} b @returns {Point} */
function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}
