/** All jobs of this server that one may see, with their states. */

import { cancelJob, getImage, isFinished, listJobs } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { nameStep } from "./plan.js";
import { sentence } from "./run.js";
import { shorten } from "./words.js";

/** @import { Job } from "./types.js" */

const EVERY_MS = 2000;
const PAGE = 20;
const KINDS = { plan: "Plan", edit: "Edit", move: "Move", rotate: "Rotate", camera: "Camera", generate: "Create", describe: "Ask" };
const NAMELESS = { plan: "A plan", edit: "An edit", move: "A move", rotate: "A rotation", camera: "A camera move", generate: "A created picture", describe: "A question" };
const STATES = { queued: "queued", running: "running", succeeded: "done", failed: "failed", cancelled: "canceled" };

export class Jobs {
  /** @param {(job: Job) => void} open Show a job's results. */
  constructor(open) {
    this.open = open;
    this.dialog = byId("jobs-dialog", HTMLDialogElement);
    this.list = byId("jobs-list", HTMLElement);
    this.state = byId("jobs-state", HTMLSelectElement);
    this.more = byId("jobs-more", HTMLButtonElement);
    this.num = PAGE;
    this.timer = 0;
    /** @type {Map<string, {signature: string, row: HTMLElement}>} */
    this.rows = new Map();
    /** @type {Map<string, string>} */
    this.thumbnails = new Map();
    byId("jobs-open", HTMLElement).addEventListener("click", () => {
      this.dialog.showModal();
      this.num = PAGE;
      void this.refresh();
    });
    this.dialog.addEventListener("close", () => clearTimeout(this.timer));
    this.state.addEventListener("change", () => void this.refresh());
    this.more.addEventListener("click", () => {
      this.num += PAGE;
      void this.refresh();
    });
  }

  async refresh() {
    clearTimeout(this.timer);
    const empty = byId("jobs-empty", HTMLElement);
    try {
      const { data, has_more } = await listJobs({ state: this.state.value, limit: Math.min(200, this.num) });
      this.more.hidden = !has_more || this.num >= 200;
      empty.hidden = data.length > 0;
      empty.textContent = this.state.value ? "No jobs in this state." : "No jobs yet.";
      this.render(data);
    } catch (error) {
      empty.hidden = false;
      empty.textContent = sentence(error);
    }
    if (this.dialog.open) this.timer = window.setTimeout(() => void this.refresh(), EVERY_MS);
  }

  /** @param {Job[]} jobs */
  render(jobs) {
    const rows = jobs.map((job) => {
      const signature = JSON.stringify([job.state, job.progress, job.position, job.images.length]);
      const old = this.rows.get(job.id);
      // What hasn't changed stays, and with it the keyboard's focus.
      if (old?.signature === signature) return old.row;
      const row = this.makeRow(job);
      this.rows.set(job.id, { signature, row });
      return row;
    });
    if (rows.some((row, n) => this.list.children[n] !== row) || rows.length !== this.list.children.length) {
      this.list.replaceChildren(...rows);
    }
  }

  /** @param {Job} job */
  makeRow(job) {
    const words = wordsOf(job);
    const row = make("li", { class: "job" });
    const picture = make("span", { class: "job-picture" });
    if (job.images.length) void this.addThumbnail(job, picture);
    const about = make("div", { class: "job-words" }, make("p", {}, words), make("p", { class: "hint" }, this.describe(job)));
    row.append(picture, about, make("span", { class: `state state-${job.state}` }, STATES[job.state]));
    if (!isFinished(job)) {
      row.append(make("button", { type: "button", "aria-label": `Cancel: ${words}`, click: () => void this.cancel(job) }, "Cancel"));
    } else if (job.images.length) {
      row.append(make("button", { type: "button", "aria-label": `Open: ${words}`, click: () => (this.dialog.close(), this.open(job)) }, "Open"), this.makeDelete(job, words));
    }
    return row;
  }

  /** Make a button that deletes a job's results from the server, once it is pressed twice. @param {Job} job @param {string} words */
  makeDelete(job, words) {
    const remove = make("button", { type: "button", class: "quiet", "aria-label": `Delete: ${words}` }, "Delete");
    remove.addEventListener("click", () => {
      if (remove.textContent === "Delete") return tell(remove, "Confirm delete");
      void this.cancel(job).then(() => this.list.querySelector("button")?.focus());
    });
    remove.addEventListener("blur", () => tell(remove, "Delete"));
    return remove;
  }

  /** @param {Job} job */
  describe(job) {
    const parts = [KINDS[job.kind], toTime(job.created_at)];
    if (job.started_at && job.finished_at) parts.push(`${(job.finished_at - job.started_at).toFixed(1)} s`);
    if (job.progress) parts.push(`step ${job.progress.step} of ${job.progress.steps}`);
    if (job.state === "queued") parts.push(job.position ? `${job.position} ahead of it` : "next in line");
    if (job.images.length > 1) parts.push(`${job.images.length} results`);
    if (job.restarted) parts.push("rerun after a server restart");
    if (job.error) parts.push(job.error.message);
    return parts.join(" · ");
  }

  /** @param {Job} job @param {HTMLElement} place */
  async addThumbnail(job, place) {
    try {
      if (!this.thumbnails.has(job.id)) this.thumbnails.set(job.id, URL.createObjectURL(await getImage(job.id, job.plan ? job.images.length - 1 : 0))); // what a plan has come to
      place.replaceChildren(make("img", { src: this.thumbnails.get(job.id) ?? "", alt: "", loading: "lazy" }));
    } catch {
      place.textContent = "expired"; // results expire before their records do
    }
  }

  /** Cancel a job; of one that has ended, delete the results. @param {Job} job */
  async cancel(job) {
    try {
      await cancelJob(job.id);
      await this.refresh();
    } catch (error) {
      byId("jobs-empty", HTMLElement).textContent = sentence(error);
    }
  }
}

/** Say what a job was asked for: one that was canceled early has no prompt yet. @param {Job} job */
function wordsOf({ kind, prompt, edit, text, plan }) {
  if (plan) return plan.map((step) => wordsOfEdit(step.kind, step.edit)).join(" → ");
  if (prompt !== null) return shorten(prompt);
  if (!edit || (kind === "describe" && !edit.question)) return text || NAMELESS[kind];
  return wordsOfEdit(kind, edit);
}

/** @param {Job["kind"]} kind @param {Job["edit"]} edit */
function wordsOfEdit(kind, edit) {
  return nameStep({ kind, fields: /** @type {Record<string, string>} */ (edit ?? {}), pictures: [] });
}

/** Write the time of day, with the date where it wasn't today. @param {number} seconds */
function toTime(seconds) {
  const at = new Date(1000 * seconds);
  const isToday = at.toDateString() === new Date().toDateString();
  return at.toLocaleString([], { timeStyle: "short", ...(isToday ? {} : { dateStyle: "medium" }) });
}
