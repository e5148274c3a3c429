/** How files come in: chosen, dropped, pasted. */

import { byId } from "./dom.js";
import { notify, withdraw } from "./notices.js";

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
    const files = event.dataTransfer?.files ?? [];
    if (files.length) takeFirst(files, take);
    else notify("picture", "This is not a file. Drop a picture file.");
  });
  addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (!files.length) return; // text goes where the cursor is
    event.preventDefault();
    takeFirst(files, take);
  });
}

/** Take the first image of several files, and say that the others are left. @param {Iterable<File>} files @param {Take} take */
function takeFirst(files, take) {
  const all = [...files];
  const file = all.find(({ type }) => type.startsWith("image/")) ?? all[0];
  take(file);
  if (all.length > 1) notify("files", `Only ${file.name} was opened. Open the other ${all.length > 2 ? `${all.length - 1} files` : "file"} one at a time.`, { kind: "news" });
  else withdraw("files");
}
