/** The trained words of spatial edits, the twin of joyimage.spatial; a test holds the two together. */

export const VIEWS = ["right", "front right", "front", "front left", "left", "rear left", "rear", "rear right"];
export const TRAINED_YAWS = [-135, -90, -45, 0, 45, 90, 135, 180];
export const TRAINED_PITCHES = [-75, -60, -45, -30, -15, 0, 15, 30, 45, 60, 75];

/** @typedef {"documented" | "benchmark"} Wording */
/** @typedef {{kind: "move", object: string} | {kind: "rotate", object: string, view: string} | {kind: "camera", yaw: number, pitch: number, zoom: string}} SpatialEdit */

/**
 * Word a spatial edit.
 *
 * @param {SpatialEdit} edit
 * @param {Wording} wording
 * @returns {string}
 */
export function word(edit, wording) {
  if (edit.kind === "camera") {
    const decimals = wording === "documented" ? 0 : 1;
    const [yaw, pitch] = [edit.yaw, edit.pitch].map((angle) => roundEven(angle, decimals).toFixed(decimals));
    return [
      "Move the camera.",
      `- Camera rotation: Yaw ${yaw}°, Pitch ${pitch}°.`,
      `- Camera zoom: ${edit.zoom}.`,
      "- Keep the 3D scene static; only change the viewpoint.",
    ].join("\n");
  }
  const object = edit.object.trim();
  const what = wording === "documented" ? `the ${withoutArticle(object)}` : object;
  if (edit.kind === "move") return `Move ${what} into the red box and finally remove the red box.`;
  const isPlain = wording === "benchmark" && (edit.view === "front" || edit.view === "rear");
  return `Rotate ${what} to show the ${edit.view}${isPlain ? "" : " side"} view.`;
}

/**
 * Find the wording and the name of the object that give a text, letter by letter.
 *
 * @param {SpatialEdit} edit As the server has read it off the text.
 * @param {string} text
 * @returns {{edit: SpatialEdit, wording: Wording} | null} Null where the words are no trained ones after all.
 */
export function findWording(edit, text) {
  const named = text.match(/^(?:Move|Rotate) (.+?) (?:into the red box|to show the)/);
  for (const wording of /** @type {const} */ (["documented", "benchmark"])) {
    const own = wording === "benchmark" && edit.kind !== "camera" && named ? { ...edit, object: named[1] } : edit;
    if (word(own, wording) === text) return { edit: own, wording };
  }
  return null;
}

/** Shorten a prompt to the line that tells it from others. @param {string} prompt */
export function shorten(prompt) {
  const [first, second = ""] = prompt.trim().split("\n");
  return first === "Move the camera." && second ? second.replace(/^- /, "") : first;
}

/** Drop a leading "the", "a" or "an". @param {string} name */
export function withoutArticle(name) {
  return name.replace(/^(?:the|a|an) +/i, "").trim();
}

/** Tell whether a camera move is one of those that were trained. @param {number} yaw @param {number} pitch */
export function isTrained(yaw, pitch) {
  return TRAINED_YAWS.includes(yaw) && TRAINED_PITCHES.includes(pitch);
}

/** Round as Python does, halves to the even neighbor, and never to -0. @param {number} value @param {number} decimals */
function roundEven(value, decimals) {
  const scaled = value * 10 ** decimals;
  const down = Math.floor(scaled);
  const isHalf = scaled - down === 0.5;
  return (isHalf ? down + (down % 2 === 0 ? 0 : 1) : Math.round(scaled)) / 10 ** decimals + 0;
}
