/** The box as four numbers: typed ones stay as they are until they are a box and the field is left. */

import { byId, tell } from "./dom.js";
import { fromNumbers } from "./geometry.js";
import { BOX_SIDES } from "./request.js";

/** @import { BoxEditor } from "./box.js" */

export class BoxFields {
  /** @param {BoxEditor} box @param {() => void} changed Called when a box was typed, or part of one. */
  constructor(box, changed) {
    this.box = box;
    this.written = "null"; // the box that the fields show
    for (const side of BOX_SIDES) {
      const field = byId(`box-${side}`, HTMLInputElement);
      field.addEventListener("input", () => {
        this.read();
        changed();
      });
      field.addEventListener("change", () => {
        // The box may have been shifted into the image.
        if (this.box.box) this.written = "";
        this.render();
      });
    }
  }

  read() {
    const box = fromNumbers(BOX_SIDES.map((side) => byId(`box-${side}`, HTMLInputElement).value), this.box.size);
    if (!box) return;
    this.box.set(box);
    this.written = String(box);
  }

  render() {
    const { box } = this.box;
    // Numbers that are no box yet stay as they were typed; they go with a box that is removed.
    if (String(box) !== this.written && (box || this.written !== "null")) {
      const values = box ? [box[0], box[1], box[2] - box[0], box[3] - box[1]] : ["", "", "", ""];
      BOX_SIDES.forEach((side, n) => (byId(`box-${side}`, HTMLInputElement).value = String(values[n])));
      this.written = String(box);
    }
    tell(byId("box-advice", HTMLElement), this.box.advice);
  }
}
