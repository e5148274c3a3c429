/** What this tab works on: one project and its images in memory, and everything written down as it changes. */

import { newId } from "./dom.js";
import { findAttempt, newProject, picturesOf, recorded, ROOT, withAttempt, withoutProject, withSelected } from "./history.js";
import { deleteProject, findLoose, findPicture, findProject, keepTab, listProjects, openTab, storeLoose, storeProject } from "./keep.js";
import { notify } from "./notices.js";
import { releasePicture, restorePicture } from "./picture.js";
import { EMPTY, attempt, input, source, state, update } from "./store.js";

/** @import { Attempt, Base, Form, Project } from "./history.js" */
/** @import { StoredProject } from "./keep.js" */
/** @import { Pending, Picture, Results } from "./types.js" */

const MOST_BYTES = 1e9;

export class Workspace {
  /** @param {() => Form} readForm */
  constructor(readForm) {
    this.readForm = readForm;
    /** @type {Map<string, Picture>} Images in memory: those of the project, further ones, and of runs. */
    this.pictures = new Map();
    this.isRestored = false; // before, what this tab was is not to be overwritten
    /** @type {Promise<unknown>} */
    this.storing = Promise.resolve();
  }

  /** @returns {Picture | null} What the next run starts from. */
  get source() {
    return this.find(source.value?.picture);
  }

  /** @returns {Picture | null} What the shown result was made of. */
  get input() {
    return this.find(input.value?.picture);
  }

  /** @returns {Picture | null} What the shown result is compared with: what it was made of, or what was pinned. */
  get compared() {
    const { project, place, pinned } = state.value;
    const one = pinned === place ? null : findAttempt(project, pinned ?? "");
    return (one && this.find(one.pictures[one.selected])) ?? this.input;
  }

  /** @returns {Results | null} What is shown, where it came out of a run. */
  get results() {
    const one = attempt.value;
    if (!one?.job) return null;
    const pictures = one.pictures.map((id) => this.pictures.get(id)).filter((picture) => picture !== undefined);
    return pictures.length === one.pictures.length ? { job: one.job, request: one.request, pictures, selected: one.selected } : null;
  }

  /** @returns {Picture | null} */
  get result() {
    const { results } = this;
    return results?.pictures[results.selected] ?? null;
  }

  /** @returns {Picture | null} The image that was opened. */
  get original() {
    return this.find(findAttempt(state.value.project, ROOT)?.pictures[0]);
  }

  /** @returns {Picture[]} Further images for checkpoints that take several. */
  get references() {
    return state.value.references.map((id) => this.pictures.get(id)).filter((picture) => picture !== undefined);
  }

  /** Start a project with an image; the one before is kept. @param {Picture} picture */
  open(picture) {
    this.pictures.set(picture.id, picture);
    const project = newProject(newId(), picture.name, Date.now(), picture.id);
    update({ project, place: ROOT, base: "result", pinned: null });
    this.keep();
    void this.store(project);
    this.release();
  }

  /** Go to an attempt. @param {string} place @param {Base} [base] */
  goTo(place, base = state.value.base) {
    if (!findAttempt(state.value.project, place)) return;
    update({ place, base });
    this.keep();
  }

  /** Choose one of the shown results. @param {number} number */
  select(number) {
    const { project, place } = state.value;
    if (!project) return;
    update({ project: withSelected(project, place, number) });
    this.keep();
    void this.store(state.value.project);
  }

  /** @param {string[]} references */
  setReferences(references) {
    update({ references });
    this.keep();
    void storeLoose(this.references).catch(() => undefined);
  }

  /**
   * Add what came out of a run to its project, which may be another one than that on the stage.
   *
   * @param {Pending} pending
   * @param {Results} results
   * @returns {Promise<void>} It is stored when this is done.
   */
  async addResults(pending, results) {
    for (const picture of results.pictures) this.pictures.set(picture.id, picture);
    const { job, request, selected } = results;
    const pictures = results.pictures.map((picture) => picture.id);
    const { parent, from, form, step } = pending;
    const made = { id: job.id, parent, from, at: Date.now(), job, request, pictures, selected, form, step };
    await this.addAttempt(pending.project, request?.fields.prompt ?? job.kind, made);
  }

  /** @param {string} id Of the project; it is created where there is none. @param {string} name @param {Attempt} made */
  async addAttempt(id, name, made) {
    const isCurrent = state.value.project?.id === id;
    const known = isCurrent ? state.value.project : await findProject(id);
    const project = withAttempt(known ?? newProject(id, name, Date.now(), null), made);
    if (state.value.project?.id === id) update({ project });
    await this.store(project);
  }

  /**
   * Make a job that another page asked for a project.
   *
   * @param {string} id
   * @param {Results} results
   * @param {Picture[]} inputs What went in, where it is known.
   * @param {Form | null} form What the controls said.
   * @param {string} [parent] Id of the attempt that it started from.
   */
  async addJob(id, { job, pictures, selected }, inputs, form, parent = ROOT) {
    for (const picture of [...pictures, ...inputs]) this.pictures.set(picture.id, picture);
    const at = Date.now();
    const request = { kind: job.kind, fields: {}, pictures: inputs.map((one) => one.id) };
    const made = { id: job.id, parent, from: 0, at, job, request, pictures: pictures.map((one) => one.id), selected, form };
    const name = job.prompt?.split("\n")[0] ?? pictures[0]?.name ?? job.kind;
    await this.store(withAttempt((await findProject(id)) ?? newProject(id, name, at, inputs[0]?.id ?? null), made));
  }

  /** Have what is being worked on come back with the project. @returns {Promise<void>} It is stored when this is done. */
  async leave() {
    const { project, place, base } = state.value;
    const { compared, ...form } = this.readForm();
    // What is created is another project's.
    if (!project || (form.mode === "generate" && this.original)) return;
    await this.store({ ...project, draft: { at: Date.now(), place, base, form } });
  }

  /**
   * Bring a project to the stage; the one there is left.
   *
   * @param {string} id
   * @param {string} [place] Without, the project opens where it was left.
   * @param {Base} [base]
   * @returns {Promise<boolean>} Whether it is there.
   */
  async openProject(id, place, base) {
    if (state.value.project?.id !== id) {
      await this.leave();
      const project = await findProject(id);
      if (!project) return false;
      await this.load(project);
      update({ project, pinned: null });
    }
    const { project } = state.value;
    const draft = place ? undefined : project?.draft;
    const wanted = place ?? draft?.place ?? project?.attempts.at(-1)?.id ?? ROOT;
    update({ place: findAttempt(project, wanted) ? wanted : ROOT, base: base ?? draft?.base ?? "result" });
    this.keep();
    this.release();
    return true;
  }

  /** Delete a project; the one on the stage leaves it empty. @param {string} id */
  async deleteProject(id) {
    await deleteProject(id);
    update({ past: withoutProject(state.value.past, id) });
    if (state.value.project?.id === id) update({ project: null, place: ROOT });
    this.commit();
    this.keep();
    this.release();
  }

  /** @param {Project} project @param {string} name */
  async rename(project, name) {
    const renamed = { name, named: Date.now() };
    const now = state.value.project;
    if (now?.id === project.id) update({ project: { ...now, ...renamed } });
    await this.store({ ...(now?.id === project.id ? now : project), ...renamed });
  }

  /** Have the state of the page as a step of undo. */
  commit() {
    const { project, place, base, plan, past } = state.value;
    const now = recorded(past, { project: project?.id ?? null, place, base, plan, form: stepForm(this.readForm()) });
    if (now !== past) update({ past: now });
  }

  /** Find an image in memory. @param {string | undefined} id */
  find(id) {
    return (id && this.pictures.get(id)) || null;
  }

  /** Write down what this tab looks like, at once. */
  keep() {
    if (!this.isRestored) return;
    const { project, place, base, plan, references, queue } = state.value;
    try {
      keepTab({ project: project?.id ?? null, place, base, plan, references, queue, form: this.readForm() });
    } catch {
      notifyFull();
    }
  }

  /** Store a project with its images. @param {Project | null} project */
  async store(project) {
    if (!project) return;
    const pictures = picturesOf(project).map((id) => this.pictures.get(id)).filter((picture) => picture !== undefined);
    // One after the other: each reads what the one before it has written.
    this.storing = this.storing.then(async () => {
      try {
        const both = await storeProject(project, pictures);
        const now = state.value.project;
        if (now?.id === both.id && both.attempts.length > now.attempts.length) {
          await this.load(both);
          update({ project: both });
        }
        await warnOfSize();
      } catch {
        notifyFull();
      }
    });
    await this.storing;
  }

  /** Bring a project's images into memory. @param {Project} project */
  async load(project) {
    await Promise.all(
      picturesOf(project).map(async (id) => {
        if (this.pictures.has(id)) return;
        const stored = await findPicture(project.id, id);
        if (stored) this.pictures.set(id, await restorePicture(stored));
      }),
    );
  }

  /** Free the images that are no longer needed in memory. */
  release() {
    const { project, plan, queue, references } = state.value;
    const needed = new Set([...(project ? picturesOf(project) : []), ...references, ...[...queue, ...plan].flatMap((one) => one.request.pictures)]);
    for (const [id, picture] of this.pictures) {
      if (needed.has(id)) continue;
      releasePicture(picture);
      this.pictures.delete(id);
    }
  }

  /** Take up what this tab was. @returns {Promise<Form | null>} What its controls said; null where it is a new one. */
  async restore() {
    const kept = await openTab();
    this.isRestored = true;
    if (!kept) return null;
    const { project: id, place, base, plan = [], queue } = kept;
    for (const picture of await Promise.all(kept.references.map(findLoose))) {
      if (picture) this.pictures.set(picture.id, await restorePicture(picture));
    }
    const references = kept.references.filter((one) => this.pictures.has(one));
    for (const pending of queue) {
      for (const picture of pending.request.pictures.filter(Boolean)) {
        const stored = (await findPicture(pending.project, picture)) ?? (await findLoose(picture));
        if (stored && !this.pictures.has(picture)) this.pictures.set(picture, await restorePicture(stored));
      }
    }
    update({ ...EMPTY, plan, references, queue });
    if (id) await this.openProject(id, place, base);
    return kept.form;
  }
}

/** @returns {Promise<StoredProject[]>} All projects of this browser. */
export function allProjects() {
  return listProjects();
}

/** What of the controls is undone: not how results are compared, and no answer. @param {Form} form @returns {Form} */
export function stepForm({ compared, answer, ...form }) {
  return form;
}

async function warnOfSize() {
  const bytes = (await listProjects()).reduce((sum, one) => sum + one.bytes, 0);
  if (bytes < MOST_BYTES) return;
  notify("storage", `The projects in this browser take ${(bytes / 1e9).toFixed(1)} GB. Export what you need, and delete what you don't, under Projects.`);
}

function notifyFull() {
  notify("storage", "This browser's storage is full, and a reload would lose the newest images. Download them, or delete a project under Projects.");
}
