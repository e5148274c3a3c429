/** What surrounds the work: windows over the page, the theme, a cue that the panel scrolls, and keys that work everywhere. */

import { byId } from "./dom.js";

/** @typedef {{step: (by: -1 | 1) => void, peek: (isHeld: boolean) => void, select: (number: number) => void, run: () => void}} Keys What keys do. */

/** Listen to all of it. @param {Keys} on */
export function listenToSurroundings(on) {
  listenToWindows();
  listenToTheme();
  listenToKeys(on);
  cueScrolling(byId("panel", HTMLElement));
}

function listenToWindows() {
  byId("keys-open", HTMLElement).addEventListener("click", () => byId("keys-dialog", HTMLDialogElement).showModal());
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog")?.close());
  }
}

function listenToTheme() {
  byId("theme-switch", HTMLElement).addEventListener("click", () => {
    const { dataset } = document.documentElement;
    const isDark = dataset.theme ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    dataset.theme = isDark ? "light" : "dark";
    localStorage.setItem("joyimage-theme", dataset.theme);
  });
}

/** Fade the end of a part that scrolls for as long as there is more below. @param {HTMLElement} panel */
function cueScrolling(panel) {
  const cue = () => panel.classList.toggle("more-below", panel.scrollTop + panel.clientHeight < panel.scrollHeight - 4);
  panel.addEventListener("scroll", cue, { passive: true });
  const resized = new ResizeObserver(cue);
  for (const part of [panel, ...panel.children]) resized.observe(part);
}

/** @param {Keys} on */
function listenToKeys(on) {
  /** @type {EventTarget | null} The field that was typed in since it has the focus. */
  let typedIn = null;
  addEventListener("input", ({ isTrusted, target }) => isTrusted && (typedIn = target));
  addEventListener("focusin", () => (typedIn = null));
  addEventListener("keydown", (event) => onKey(event, on, typedIn));
  addEventListener("keyup", (event) => event.key === "\\" && on.peek(false));
  addEventListener("blur", () => on.peek(false));
  for (const field of document.querySelectorAll("#panel textarea")) {
    field.addEventListener("keydown", (event) => {
      const { key, ctrlKey, metaKey } = /** @type {KeyboardEvent} */ (event);
      if (key === "Enter" && (ctrlKey || metaKey)) on.run();
    });
  }
}

/** @param {KeyboardEvent} event @param {Keys} on @param {EventTarget | null} typedIn */
function onKey(event, on, typedIn) {
  if (document.querySelector("dialog[open]")) return;
  const isField = event.target instanceof Element && event.target.matches("input:not([type=radio], [type=checkbox], [type=range]), textarea");
  const isCommand = event.ctrlKey || event.metaKey;
  // A field takes letters, and what was typed in it is its own to undo.
  if (isField && (!isCommand || event.target === typedIn)) return;
  const key = event.key.toLowerCase();
  if (!isCommand) {
    if (key === "?") byId("keys-dialog", HTMLDialogElement).showModal();
    if (/^[1-9]$/.test(key)) on.select(Number(key) - 1);
    if (key === "\\" && !event.repeat) on.peek(true);
    return;
  }
  if (key !== "z" && key !== "y") return;
  event.preventDefault();
  on.step(key === "y" || event.shiftKey ? 1 : -1);
}
