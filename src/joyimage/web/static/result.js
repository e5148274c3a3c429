/** What came out: the checks in words, several results as a grid, the chain of edits, and what to do next. */

import { byId, chosen, make, save, tell } from "./dom.js";
import { findAttempt, inOrder, nameOf } from "./history.js";
import { maskFile, whiteMaskFile } from "./mask.js";
import { notify, withdraw } from "./notices.js";
import { withRecord } from "./png.js";
import { digest, fileNames, makeRecord, writeCommands } from "./recipe.js";
import { sentence } from "./run.js";
import { state, update } from "./store.js";
import { turntable } from "./sweep.js";
import { animation, contactSheet, gif } from "./turntable.js";
import { shorten } from "./words.js";

/** @import { Attempt } from "./history.js" */
/** @import { Labeled } from "./turntable.js" */
/** @import { Server } from "./server.js" */
/** @import { Known, Picture } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

const WAITING_MS = 400; // a faster server needs no message

export class Result {
  /**
   * @param {Workspace} workspace
   * @param {Server} server
   * @param {{goTo: (attempt: string) => void, keepSeed: (seed: number) => void}} on
   */
  constructor(workspace, server, on) {
    this.workspace = workspace;
    this.server = server;
    this.on = on;
    this.forms = byId("copy-forms", HTMLFieldSetElement);
    byId("download", HTMLElement).addEventListener("click", () => void this.download());
    byId("keep-seed", HTMLElement).addEventListener("click", () => {
      const { results } = workspace;
      if (results) on.keepSeed((results.job.seed ?? 0) + results.selected);
    });
    byId("copy-open", HTMLElement).addEventListener("click", () => {
      this.writeCommands();
      byId("copy-dialog", HTMLDialogElement).showModal();
    });
    void server.answered.then(() => byId("copy-dialog", HTMLDialogElement).open && this.writeCommands());
    new ResizeObserver(() => this.showCurrent()).observe(byId("strip-items", HTMLElement));
    byId("pin", HTMLElement).addEventListener("click", () => this.pin());
    byId("sheet", HTMLElement).addEventListener("click", () => void this.saveSet(contactSheet, "sheet.png"));
    byId("turn", HTMLElement).addEventListener("click", () => void this.saveSet(animation, "turntable.webp"));
    byId("turn-gif", HTMLElement).addEventListener("click", () => void this.saveSet(gif, "turntable.gif"));
    this.forms.addEventListener("change", () => this.writeCommands());
    byId("copy-do", HTMLElement).addEventListener("click", () => void this.copy());
    byId("copy-input", HTMLElement).addEventListener("click", () => this.downloadInputs());
    byId("copy-mask", HTMLElement).addEventListener("click", () => void this.downloadMask());
  }

  /** Show everything as it is now. */
  render() {
    const { results } = this.workspace;
    byId("result", HTMLElement).hidden = !results;
    byId("result", HTMLElement).dataset.job = results?.job.id ?? "";
    if (results) {
      this.renderSets();
      this.renderVerdict();
      this.renderGrid();
    }
    this.renderStrip();
  }

  /** Show what can be done with several attempts. */
  renderSets() {
    const { project, place, pinned } = state.value;
    const isPinned = pinned === place;
    byId("pin", HTMLElement).setAttribute("aria-pressed", String(isPinned));
    const name = project && pinned && findAttempt(project, pinned) ? nameOf(project, pinned) : null;
    tell(byId("pin", HTMLElement), isPinned ? "Pinned for comparison" : name ? `Comparing with ${name}` : "Pin for comparison");
    for (const id of ["sheet", "turn", "turn-gif"]) byId(id, HTMLElement).hidden = turntable(project, place).length === 0;
  }

  /** Have others compared with what is shown, or no longer. */
  pin() {
    const { pinned, place } = state.value;
    update({ pinned: pinned ? null : place });
  }

  /** Save all images around an object as one file. @param {(frames: Labeled[]) => Promise<Blob>} make @param {string} ending */
  async saveSet(make, ending) {
    const frames = turntable(state.value.project, state.value.place).flatMap(({ label, picture }) => {
      const found = this.workspace.find(picture);
      return found ? [{ label, picture: found }] : [];
    });
    try {
      save(await make(frames), `${(this.workspace.original?.name ?? "picture").replace(/\.\w+$/, "")}-${ending}`);
    } catch (error) {
      notify("download", sentence(error));
    }
  }

  renderVerdict() {
    const { results } = this.workspace;
    if (!results) return;
    const { job, selected } = results;
    const check = checkOf(job, selected);
    const place = byId("verdict", HTMLElement);
    // Green is for what was verified, nothing else.
    const verdict = check?.verdict ?? "not judged";
    place.classList.toggle("done", verdict === "done");
    place.classList.toggle("doubtful", verdict === "failed");
    const words = { done: "Checked", failed: "Look closely", "not judged": "Measured" };
    const checked = check ? `${words[verdict]}: ${check.summary}` : "";
    const took = job.started_at && job.finished_at ? `${(job.finished_at - job.started_at).toFixed(1)} s` : "";
    const facts = [`${job.width} × ${job.height}`, `seed ${(job.seed ?? 0) + selected}`, `${job.steps} ${job.steps === 1 ? "step" : "steps"}`, took];
    if (job.candidates) facts.push(`best of ${job.candidates.length}`);
    if (job.memory) facts.push(`made with ${job.memory} because memory ran out`);
    place.replaceChildren(
      ...(checked ? [make("strong", {}, checked)] : []),
      make("span", { class: "facts" }, facts.filter(Boolean).join(" · ")),
      ...(job.warnings ?? []).map((warning) => make("span", { class: "facts warning" }, plain(warning))),
    );
  }

  renderGrid() {
    const { results } = this.workspace;
    const grid = byId("grid", HTMLElement);
    grid.hidden = !results || results.pictures.length < 2;
    if (!results || grid.hidden) return;
    grid.replaceChildren(
      ...results.pictures.map((picture, number) => {
        const check = checkOf(results.job, number);
        const label = `Result ${number + 1}, seed ${(results.job.seed ?? 0) + number}${check ? `: ${check.summary}` : ""}`;
        const pick = () => {
          this.workspace.select(number);
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

  /** Show all attempts, each after the one it started from. */
  renderStrip() {
    const { project, place } = state.value;
    const strip = byId("strip", HTMLElement);
    const items = byId("strip-items", HTMLElement);
    strip.hidden = !project || project.attempts.length < 2;
    if (!project || strip.hidden) return items.replaceChildren();
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.attempt : undefined;
    const listed = inOrder(project).filter(({ attempt }) => attempt.pictures.length);
    items.replaceChildren(
      ...listed.map(({ attempt }, n) => {
        const words = attempt.job?.prompt && shorten(attempt.job.prompt);
        const before = listed[n - 1]?.attempt;
        const isBranch = Boolean(before && attempt.parent && before.id !== attempt.parent);
        const name = nameOf(project, attempt.id);
        const origin = isBranch && attempt.parent ? `${name}, from ${nameOf(project, attempt.parent)}` : name;
        const picture = this.workspace.find(attempt.pictures[attempt.selected]);
        const button = make(
          "button",
          { type: "button", "data-attempt": attempt.id, "aria-label": words ? `${origin}: ${words}` : origin, title: words ?? name, click: () => this.on.goTo(attempt.id) },
          make("img", { src: picture?.thumbnail ?? "", alt: "" }),
          make("span", {}, name),
        );
        if (attempt.id === place) button.setAttribute("aria-current", "true");
        return make("li", isBranch ? { class: "branch" } : {}, button);
      }),
    );
    if (focused) items.querySelector(/** @type {`button`} */ (`button[data-attempt="${CSS.escape(focused)}"]`))?.focus();
    this.showCurrent();
  }

  /** Scroll the strip to the attempt that is shown. */
  showCurrent() {
    const items = byId("strip-items", HTMLElement);
    const current = items.querySelector("[aria-current]")?.parentElement;
    if (!current) return;
    const start = current.offsetLeft - items.offsetLeft;
    // Not scrollIntoView: that would scroll the page too.
    items.scrollLeft = Math.min(start, Math.max(items.scrollLeft, start + current.offsetWidth - items.clientWidth));
  }

  /**
   * Return the record of an attempt's result, of any project.
   *
   * @param {Known} known
   * @param {Attempt} attempt
   * @param {number} selected
   * @param {{width: number, height: number}} picture The result.
   * @param {string | null} inputDigest SHA-256 of the image that was sent.
   */
  makeRecord({ model, schemas }, { job, request, pictures }, selected, picture, inputDigest) {
    return job && makeRecord({ job, request, pictures: pictures.map(() => picture), selected }, schemas, model, inputDigest);
  }

  /** Save the chosen result, how it was made written into it. */
  async download() {
    // As they are now: while the server is waited for, something else may be shown.
    const { input, results, result } = this.workspace;
    if (!results || !result) return; // nor is there a button then
    notify("download", "Waiting for the server, to write the settings into the image…", { kind: "news", afterMs: WAITING_MS });
    try {
      const known = await this.server.waitForKnown();
      withdraw("download");
      if (!known) {
        save(result.blob, result.name);
        return notify("download", `The server has not answered, so ${result.name} was saved without the settings that made it. Download it again once the server is back.`);
      }
      const record = makeRecord(results, known.schemas, known.model, input && (await digest(input.blob)));
      save(await withRecord(result.blob, record), result.name);
    } catch (error) {
      notify("download", sentence(error));
    }
  }

  /** @returns {Picture[]} The images that went into the shown result. */
  get inputs() {
    const { input, results } = this.workspace;
    const rest = results?.request?.pictures.slice(1).map((id) => this.workspace.find(id)) ?? [];
    return [input, ...rest].filter((picture) => picture !== null);
  }

  /** @returns {ReturnType<typeof fileNames>} Of what the copied commands read and write. */
  get names() {
    return fileNames(this.language, this.inputs.map((one) => one.name));
  }

  /** Save what the copied commands read. */
  downloadInputs() {
    const { inputs } = this.names;
    for (const [n, { blob }] of this.inputs.entries()) save(blob, inputs[n]);
  }

  /** Save the mask as the commands read it: the command line one that is white where the image may change. */
  async downloadMask() {
    const mask = this.workspace.results?.request?.mask;
    if (mask) save(await (this.language === "shell" ? whiteMaskFile(mask) : maskFile(mask)), this.names.mask);
  }

  /** @returns {"shell" | "python" | "curl"} */
  get language() {
    return /** @type {"shell" | "python" | "curl"} */ (chosen("copy"));
  }

  writeCommands() {
    const { results } = this.workspace;
    if (!results) return; // nor is there a button then
    const { known, needsKey } = this.server;
    const text = known && writeCommands(results, known.schemas, this.language, location.origin, needsKey, this.inputs.map((one) => one.name));
    tell(byId("copy-text", HTMLElement), text ?? "Waiting for the server: the commands appear here once it has answered.");
    byId("copy-do", HTMLButtonElement).disabled = !known;
    byId("copy-input", HTMLElement).hidden = this.inputs.length === 0;
    byId("copy-mask", HTMLElement).hidden = !results.request?.mask;
    tell(byId("copy-mask", HTMLElement), results.request?.mask ? `Download ${this.names.mask}` : null);
    tell(byId("copy-input", HTMLElement), this.inputs.length ? `Download ${this.inputs.length > 1 ? "the inputs" : this.inputs[0].name}` : null);
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

/** Return a sentence of the server's with the names of its fields as words. @param {string} sentence */
function plain(sentence) {
  const words = sentence.replace(/`([^`]*)`/g, (_, name) => name.replaceAll("_", " "));
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/**
 * Return what is said of a result: the verdict where it was judged, else what the pixels show.
 *
 * @param {import("./types.js").Job} job @param {number} number
 * @returns {{verdict?: "done" | "failed" | "not judged", summary: string} | undefined}
 */
function checkOf(job, number) {
  const found = job.verdicts?.[number];
  if (!found) return job.checks?.[number];
  if (found.done === null) return { verdict: "not judged", summary: found.summary };
  return { verdict: found.done < 0.5 || (found.kept ?? 1) < 0.5 ? "failed" : "done", summary: found.summary };
}
