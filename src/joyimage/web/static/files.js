/** How files come in: chosen, dropped, pasted. */

import { byId } from "./dom.js";
import { notify } from "./notices.js";

/** @typedef {(file: File) => void} Take */

/** Have the browser ask for a file. @param {Take} take */
export function askForFile(take) {
  const input = byId("file", HTMLInputElement);
  input.value = "";
  input.onchange = () => input.files?.[0] && take(input.files[0]);
  input.click();
}

/** Take what is dropped on the page or pasted. @param {Take} take */
export function listenToFiles(take) {
  const canvas = byId("canvas", HTMLElement);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    canvas.classList.add("dragged");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) canvas.classList.remove("dragged");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    canvas.classList.remove("dragged");
    const [file] = event.dataTransfer?.files ?? [];
    if (file) take(file);
    else notify("picture", "This is not a file. Drop a picture file.");
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file) return; // text goes where the cursor is
    event.preventDefault();
    take(file);
  });
}
