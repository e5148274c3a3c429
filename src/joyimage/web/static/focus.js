/** The focus is never lost: whatever disappears under it, it continues somewhere. */

/** @type {Element | null} */
let last = null;
addEventListener("focusin", (event) => (last = event.target instanceof Element ? event.target : null));
// A click beside everything takes the focus away, as it should.
addEventListener("pointerdown", () => (last = null), { capture: true });

/** After the page has changed: give the focus back if what had it is gone. @param {() => void} giveBack */
export function keepFocus(giveBack) {
  requestAnimationFrame(() => {
    const isLost = document.activeElement === document.body || !document.activeElement?.checkVisibility();
    if (isLost && last && !(last.isConnected && last.checkVisibility())) giveBack();
  });
}
