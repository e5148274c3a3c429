/** What this tab works on: one project and its images in memory, and everything written down as it changes. */

import { byId, newId } from "./dom.js";
import { findAttempt, newProject, picturesOf, recorded, ROOT, withAttempt, withoutProject, withSelected } from "./history.js";
import { deleteProject, findLoose, findPicture, findProject, keepTab, LimitError, listProjects, MOST_BYTES, openTab, sizeOf, storeLoose, storeProject } from "./keep.js";
import { notify, withdraw } from "./notices.js";
import { releasePicture, restorePicture } from "./picture.js";
import { EMPTY, attempt, input, source, state, update } from "./store.js";

/** @import { Attempt, Base, Form, Project } from "./history.js" */
/** @import { StoredPicture, StoredProject } from "./keep.js" */
/** @import { Pending, Picture, Results } from "./types.js" */

const WARNED_SHARE = 0.9; // of what may be stored

export class Workspace {
  /** @param {() => Form} readForm */
  constructor(readForm) {
    this.readForm = readForm;
    /** @type {Map<string, Picture>} Images in memory: those of the project, further ones, and of runs. */
    this.pictures = new Map();
    this.isRestored = false; // before, what this tab was is not to be overwritten
    /** @type {Promise<unknown>} */
    this.storing = Promise.resolve();
    /** @type {Map<string, Project>} By id: those whose newest state could not be stored. Their images stay in memory. */
    this.unsaved = new Map();
    addEventListener("beforeunload", (event) => {
      if (this.unsaved.size) event.preventDefault(); // the browser asks whether to leave
    });
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
    void storeLoose(this.references).catch(() => notify("storage", "This browser's storage is full: a reload would lose the further images. Delete a project under Projects."));
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
    const known = isCurrent ? state.value.project : await this.findProject(id);
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
    await this.store(withAttempt((await this.findProject(id)) ?? newProject(id, name, at, inputs[0]?.id ?? null), made));
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
      const project = await this.findProject(id);
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
    this.unsaved.delete(id);
    void this.storeUnsaved(); // there may be room now
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
      notify("tab", "This browser's storage is full, and a reload would lose what the controls say now. Delete a project under Projects.");
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
        if (this.unsaved.delete(project.id) && !this.unsaved.size) withdraw("storage");
        const now = state.value.project;
        if (now?.id === both.id && both.attempts.length > now.attempts.length) {
          await this.load(both);
          update({ project: both });
        }
        await warnOfSize();
      } catch (error) {
        this.unsaved.set(project.id, project);
        // What has been left since then has been freed.
        for (const one of pictures) if (!this.pictures.has(one.id)) this.pictures.set(one.id, await restorePicture(one));
        notifyFull(error instanceof LimitError);
      }
    });
    await this.storing;
  }

  /** Store what there was no room for. */
  async storeUnsaved() {
    for (const project of [...this.unsaved.values()]) await this.store(state.value.project?.id === project.id ? state.value.project : project);
    this.release();
  }

  /** Find a project in its newest state. @param {string} id @returns {Promise<Project | null>} */
  async findProject(id) {
    return this.unsaved.get(id) ?? (await findProject(id));
  }

  /** Find an image of a project, in memory or where it is stored. @param {string} owner Id of the project. @param {string} id @returns {Promise<StoredPicture | null>} */
  async findPicture(owner, id) {
    return this.find(id) ?? (await findPicture(owner, id));
  }

  /** List all projects of this browser, newest first, those too that are in this tab only. @returns {Promise<StoredProject[]>} */
  async allProjects() {
    const stored = (await listProjects()).filter(({ id }) => !this.unsaved.has(id));
    const unsaved = [...this.unsaved.values()].map((project) => {
      const bytes = picturesOf(project).reduce((sum, id) => sum + (this.find(id)?.blob.size ?? 0), 0);
      return { ...project, bytes, isUnsaved: true };
    });
    return [...stored, ...unsaved].sort((one, other) => other.at - one.at);
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
    const kept = [...this.unsaved.values(), ...(project ? [project] : [])];
    const needed = new Set([...kept.flatMap(picturesOf), ...references, ...[...queue, ...plan].flatMap((one) => one.request.pictures)]);
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

/** What of the controls is undone: not how results are compared, and no answer. @param {Form} form @returns {Form} */
export function stepForm({ compared, answer, ...form }) {
  return form;
}

async function warnOfSize() {
  const bytes = sizeOf(await listProjects());
  if (bytes < WARNED_SHARE * MOST_BYTES) return;
  const used = `${(bytes / 1e9).toFixed(2)} of ${MOST_BYTES / 1e9} GB`;
  notify("size", `The projects in this browser take ${used}. Export what you need, and delete what you don't, under Projects.`);
}

/** @param {boolean} isOwnLimit */
function notifyFull(isOwnLimit) {
  const why = isOwnLimit ? `Projects may take ${MOST_BYTES / 1e9} GB of this browser, and that is used up.` : "This browser has no more room to store images.";
  const what = "The newest images are in this tab only, and closing it would lose them. Export them, or delete older projects to make room.";
  notify("storage", `${why} ${what}`, { action: { label: "Open Projects", run: () => byId("projects-open", HTMLElement).click() } });
}
