/** The eight views of an object, in a ring around it. */

import { byId, choose, make, makeSvg } from "./dom.js";
import { drawCar, drawHeading, projection } from "./wireframe.js";
import { VIEWS } from "./words.js";

const EYE = { azimuth: -90, elevation: 26, distance: 5.6 };
const FRAME = "-0.98 -0.42 1.96 1.06";

export class Compass {
  /** @param {() => void} changed */
  constructor(changed) {
    this.view = "left";
    this.picture = makeSvg("svg", { viewBox: FRAME, class: "wire", "aria-hidden": "true" });
    const ring = make("div", { class: "ring" });
    for (const view of VIEWS) {
      const input = make("input", { type: "radio", name: "view-of-object", value: view });
      input.addEventListener("change", () => {
        this.set(view);
        changed();
      });
      const picture = makeSvg("svg", { viewBox: FRAME, class: "wire", "aria-hidden": "true" }, ...drawView(view));
      ring.append(make("label", { class: `towards-${view.replace(" ", "-")}` }, input, picture, make("span", {}, view)));
    }
    const middle = make("div", { class: "middle" });
    middle.append(this.picture);
    ring.append(middle);
    byId("compass", HTMLElement).append(
      ring,
      make("p", { class: "hint" }, "“Front” faces you; “left” faces the left edge of the picture. The camera and the background stay the same."),
    );
    this.set(this.view);
  }

  /** Choose a view, without calling `changed`. @param {string} view */
  set(view) {
    this.view = view;
    choose("view-of-object", view);
    this.picture.replaceChildren(...drawView(view));
  }
}

/** @param {string} view */
function drawView(view) {
  const heading = 45 * VIEWS.indexOf(view);
  const parts = [drawHeading(projection(EYE), heading), drawCar(projection(EYE), heading)];
  // An arrow away from the viewer begins behind the car, one towards the viewer before it.
  return heading > 180 ? parts : parts.reverse();
}
