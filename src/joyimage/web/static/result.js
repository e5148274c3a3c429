/** What came out: the checks in words, several results as a grid, the chain of edits, and what to do next. */

import { byId, make, tell } from "./dom.js";
import { notify } from "./notices.js";
import { withRecord } from "./png.js";
import { digest, makeRecord, writeCommands } from "./recipe.js";
import { sentence } from "./run.js";

/** @import { Model, Schemas } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

export class Result {
  /**
   * @param {Workspace} workspace
   * @param {{model: () => Model | null, schemas: () => Schemas | null, hasKey: () => boolean, shown: () => void, again: () => void, keepSeed: (seed: number) => void}} on
   */
  constructor(workspace, on) {
    this.workspace = workspace;
    this.on = on;
    this.forms = byId("copy-forms", HTMLFieldSetElement);
    byId("again", HTMLElement).addEventListener("click", () => on.again());
    byId("download", HTMLElement).addEventListener("click", () => void this.download());
    byId("keep-seed", HTMLElement).addEventListener("click", () => {
      const { results } = workspace;
      if (results) on.keepSeed((results.job.seed ?? 0) + results.selected);
    });
    byId("copy-open", HTMLElement).addEventListener("click", () => {
      this.writeCommands();
      byId("copy-dialog", HTMLDialogElement).showModal();
    });
    this.forms.addEventListener("change", () => this.writeCommands());
    byId("copy-do", HTMLElement).addEventListener("click", () => void this.copy());
    byId("undo", HTMLElement).addEventListener("click", () => {
      workspace.goTo(workspace.current - 1);
      on.shown();
    });
  }

  /** Show everything as it is now. */
  render() {
    const { results } = this.workspace;
    byId("result", HTMLElement).hidden = !results;
    byId("result", HTMLElement).dataset.job = results?.job.id ?? "";
    if (results) {
      this.renderVerdict();
      this.renderGrid();
    }
    this.renderStrip();
  }

  renderVerdict() {
    const { results } = this.workspace;
    if (!results) return;
    const { job, selected } = results;
    const check = job.checks?.[selected];
    const place = byId("verdict", HTMLElement);
    // Green is for what was verified, nothing else.
    const verdict = check?.verdict ?? "not judged";
    place.classList.toggle("done", verdict === "done");
    place.classList.toggle("doubtful", verdict === "failed");
    const words = { done: "Checked", failed: "Look closely", "not judged": "Measured" };
    const checked = check ? `${words[verdict]}: ${check.summary}` : "";
    const took = job.started_at && job.finished_at ? `${(job.finished_at - job.started_at).toFixed(1)} s` : "";
    const facts = [`${job.width} × ${job.height}`, `seed ${(job.seed ?? 0) + selected}`, `${job.steps} ${job.steps === 1 ? "step" : "steps"}`, took];
    if (job.memory) facts.push(`made with ${job.memory}, as memory ran out`);
    place.replaceChildren(
      ...(checked ? [make("strong", {}, checked)] : []),
      make("span", { class: "facts" }, facts.filter(Boolean).join(" · ")),
    );
  }

  renderGrid() {
    const { results } = this.workspace;
    const grid = byId("grid", HTMLElement);
    grid.hidden = !results || results.pictures.length < 2;
    if (!results || grid.hidden) return;
    grid.replaceChildren(
      ...results.pictures.map((picture, number) => {
        const check = results.job.checks?.[number];
        const label = `Result ${number + 1}, seed ${(results.job.seed ?? 0) + number}${check ? `: ${check.summary}` : ""}`;
        const pick = () => {
          results.selected = number;
          this.workspace.keepSoon();
          this.on.shown();
          byId("grid", HTMLElement).querySelectorAll("button")[number].focus();
        };
        const isPicked = String(number === results.selected);
        return make(
          "button",
          { type: "button", "aria-pressed": isPicked, "aria-label": label, title: label, click: pick },
          make("img", { src: picture.thumbnail, alt: "" }),
        );
      }),
    );
  }

  renderStrip() {
    const { chain, current, looseShown } = this.workspace;
    byId("strip", HTMLElement).hidden = chain.length < 2;
    byId("undo", HTMLButtonElement).disabled = current === 0;
    byId("strip-items", HTMLElement).replaceChildren(
      ...chain.map(({ picture }, place) => {
        const made = place ? chain[place - 1].results?.job.prompt?.split("\n")[1] ?? chain[place - 1].results?.job.prompt : null;
        const name = place ? `Edit ${place}` : "Original";
        const go = () => {
          this.workspace.goTo(place);
          this.on.shown();
        };
        const button = make(
          "button",
          { type: "button", "aria-label": made ? `${name}: ${made}` : name, title: made ?? name, click: go },
          make("img", { src: picture.thumbnail, alt: "" }),
          make("span", {}, name),
        );
        if (place === current && !looseShown) button.setAttribute("aria-current", "true");
        return make("li", {}, button);
      }),
    );
  }

  /** Save the chosen result, how it was made written into it. */
  async download() {
    const { results, result } = this.workspace;
    const model = this.on.model();
    const schemas = this.on.schemas();
    if (!results || !result || !model || !schemas) return;
    try {
      const input = results.request?.pictures.length ? this.workspace.find(results.request.pictures[0]) : null;
      const record = makeRecord(results, schemas, model, input && (await digest(input.blob)));
      const address = URL.createObjectURL(await withRecord(result.blob, record));
      make("a", { href: address, download: result.name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      notify("download", sentence(error));
    }
  }

  writeCommands() {
    const { results } = this.workspace;
    const schemas = this.on.schemas();
    if (!results || !schemas) return;
    const form = this.forms.querySelector("input:checked");
    const language = /** @type {"shell" | "python" | "curl"} */ (form instanceof HTMLInputElement ? form.value : "shell");
    tell(byId("copy-text", HTMLElement), writeCommands(results, schemas, language, location.origin, this.on.hasKey()));
    tell(byId("copy-do", HTMLElement), "Copy");
  }

  async copy() {
    const place = byId("copy-text", HTMLElement);
    const button = byId("copy-do", HTMLElement);
    try {
      await navigator.clipboard.writeText(place.textContent ?? "");
      tell(button, "Copied");
    } catch {
      // Plain http has no clipboard: what is selected can be copied by hand.
      getSelection()?.selectAllChildren(place);
      tell(button, "Selected: press Ctrl+C");
    }
  }
}
