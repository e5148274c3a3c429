/** Selects objects beside the page, so that the page never stutters. */

import { selectAt } from "./select.js";

addEventListener("message", ({ data: { image, x, y } }) => {
  postMessage(selectAt(image, x, y));
});
