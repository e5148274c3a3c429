/** Say that something is done to those who look elsewhere: in the title, and as a message of the system if they asked for it. */

import { byId } from "./dom.js";

/** Show the offer while it can still be taken. */
export function offerNotifications() {
  const button = byId("notify-me", HTMLButtonElement);
  const canAsk = "Notification" in window && window.isSecureContext && Notification.permission === "default";
  button.hidden = !canAsk;
  button.onclick = async () => {
    await Notification.requestPermission();
    button.hidden = true;
  };
}

/** Tell that a run has ended. @param {string} words */
export function tellFinished(words) {
  document.title = document.hidden ? "Done · joyimage" : "joyimage";
  if (!document.hidden || !("Notification" in window) || Notification.permission !== "granted") return;
  try {
    const message = new Notification("joyimage", { body: words, icon: "/icon.svg" });
    message.onclick = () => window.focus();
  } catch {
    // Phones take such messages from a service worker only; the title has to do.
  }
}
