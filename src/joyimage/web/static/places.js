/** Where one is in the tree of attempts, and how one gets elsewhere: results that arrive, undo and redo, jobs of other pages. */

import { getJob, isFinished } from "./api.js";
import { byId, choose } from "./dom.js";
import { ROOT, stepped, withoutProject } from "./history.js";
import { currentMode } from "./mode.js";
import { notify, withdraw } from "./notices.js";
import { jobsOfSteps } from "./plan.js";
import { fetchInputs, fetchResults, sentence } from "./run.js";
import { attempt, state, update } from "./store.js";
import { shorten } from "./words.js";

/** @import { Controls } from "./form.js" */
/** @import { Base } from "./history.js" */
/** @import { Server } from "./server.js" */
/** @import { Stage } from "./stage.js" */
/** @import { Job, Pending } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

export class Places {
  /**
   * @param {{workspace: Workspace, server: Server, controls: Controls, stage: Stage}} parts
   * @param {{moved: () => void, isShownFor: (pending: Pending) => boolean}} on `moved` comes when the place has changed.
   */
  constructor({ workspace, server, controls, stage }, on) {
    this.workspace = workspace;
    this.server = server;
    this.controls = controls;
    this.stage = stage;
    this.on = on;
  }

  /**
   * Go to an attempt, with the words and settings that made it.
   *
   * @param {string} place
   * @param {string} [project] Id; without, the one on the stage.
   * @param {{keepsForm?: boolean, isNew?: boolean}} [options]
   */
  async goTo(place, project = state.value.project?.id ?? "", { keepsForm = false, isNew = false } = {}) {
    this.workspace.commit();
    if (isNew) this.stage.isNew = true;
    if (!(await this.workspace.openProject(project, place, state.value.base))) return;
    if (isNew) this.stage.expectResult();
    if (attempt.value?.form && !keepsForm) this.controls.write(attempt.value.form, this.workspace.source);
    this.on.moved();
    this.workspace.commit();
  }

  /** Open a project as it was left. @param {string} id @returns {Promise<boolean>} Whether it is there. */
  async open(id) {
    if (state.value.project?.id === id) return true;
    this.workspace.commit();
    if (!(await this.workspace.openProject(id))) return false;
    const { box, picked, region, "region-use": use, ...rest } = this.controls.read(); // what is marked is marked on another image
    const form = state.value.project?.draft?.form ?? attempt.value?.form ?? rest;
    this.controls.write({ ...form, answer: form.answer ?? "" }, this.workspace.source);
    withdraw("project");
    this.on.moved();
    this.workspace.commit();
    return true;
  }

  /** Undo (-1) or redo (1). @param {-1 | 1} by @returns {Promise<void>} */
  async step(by) {
    this.workspace.commit();
    const past = stepped(state.value.past, by);
    const wanted = past.states[past.at];
    if (past === state.value.past || !wanted) return;
    const isElsewhere = wanted.project !== (state.value.project?.id ?? null);
    if (!wanted.project) {
      await this.workspace.leave();
      update({ project: null, place: ROOT });
    } else if (!(await this.workspace.openProject(wanted.project, wanted.place, wanted.base))) {
      update({ past: withoutProject(state.value.past, wanted.project) }); // another tab has deleted it
      return this.step(by);
    }
    update({ past, plan: wanted.plan });
    this.controls.write(isElsewhere ? { ...wanted.form, answer: "" } : wanted.form, this.workspace.source);
    if (isElsewhere) withdraw("project");
    this.on.moved();
  }

  /** Choose what the next run starts from. @param {Base} base */
  setBase(base) {
    update({ base });
    this.workspace.keep();
  }

  /** Bring a result to the stage, unless something else is being worked on there. @param {Pending} pending @param {Job} job */
  arrive(pending, job) {
    const words = pending.request.fields.prompt ?? job.prompt ?? "Your edit";
    const show = () => void this.goTo(job.id, pending.project, { keepsForm: true, isNew: true });
    if (this.on.isShownFor(pending)) return show();
    notify("done", `Done: ${shorten(words)}`, { kind: "news", action: { label: "Show", run: show } });
  }

  /** Open a job's results, with its input where the server still has it. @param {Job} job */
  async openJob(job) {
    try {
      const { project } = state.value;
      const found = isFinished(job) ? job : await getJob(job.id);
      const parts = found.plan ? jobsOfSteps(found) : [found];
      const last = parts[parts.length - 1] ?? found;
      const isHere = project?.attempts.some((one) => one.id === last.id);
      const id = project && isHere ? project.id : `job-${job.id}`;
      let parent = ROOT;
      for (const part of isHere ? [] : parts) {
        const results = await fetchResults(part, null, null);
        const inputs = await fetchInputs(part);
        await this.server.waitForKnown(); // the job's settings are read into controls that the page makes then
        await this.workspace.addJob(id, results, inputs, this.controls.readJob(part), parent);
        parent = part.id;
      }
      if (currentMode() === "generate" && job.kind !== "generate") choose("mode", "edit");
      await this.goTo(last.id, id);
      if (!this.workspace.input && job.kind !== "generate") notify("job", "The server no longer has this job's input image.", { kind: "news" });
    } catch (error) {
      notify("job", sentence(error));
    }
  }

  /** Have the next run take a seed. @param {number} seed */
  keepSeed(seed) {
    byId("seed", HTMLInputElement).value = String(seed);
    byId("settings", HTMLDetailsElement).open = true;
    this.controls.settings.summarize();
    this.setBase("original"); // the same seed gives the same result for the same image only
    this.workspace.commit();
    notify("seed", `The next run uses seed ${seed} and the same image again. Clear the Seed field for random seeds.`, { kind: "news" });
  }
}
