/** The key: asked for where the server wants one. */

import { byId, tell } from "./dom.js";
import { notify, withdraw } from "./notices.js";

/** Ask for the key until one is given. @param {boolean} isWrong @returns {Promise<{key: string, isKept: boolean}>} */
export function askForKey(isWrong) {
  const dialog = byId("key-dialog", HTMLDialogElement);
  const input = byId("key-input", HTMLInputElement);
  tell(byId("key-reason", HTMLElement), isWrong ? "This key is wrong. Ask the person who runs this server for another." : "Ask the person who runs this server for one.");
  input.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const action = { label: "Enter the key", run: () => dialog.showModal() };
      if (!input.value.trim()) notify("key", "This server works only with an API key.", { action });
    };
    byId("key-form", HTMLFormElement).onsubmit = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!key) return;
      dialog.close();
      withdraw("key");
      resolve({ key, isKept: byId("key-keep", HTMLInputElement).checked });
    };
  });
}
