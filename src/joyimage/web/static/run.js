/** One run: queue it, follow it, show how far it is, fetch what came out. It survives reloads and lost servers. */

import { GoneError, ServerError, cancelJob, follow, getImage, getInput, getJob, insist, postJob, postPlan } from "./api.js";
import { byId, newId, tell } from "./dom.js";
import { offerNotifications, tellFinished } from "./finished.js";
import { maskAddress, maskFile } from "./mask.js";
import { announce, notify, withdraw } from "./notices.js";
import { handedOn, isStepOver, jobOfStep, runsWith, stepFields, withoutRun } from "./plan.js";
import { restorePicture } from "./picture.js";
import { state, update } from "./store.js";

/** @import { Job, JobEvent, Pending, Picture, Request, Results } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

const POSITION_EVERY_MS = 2000;
// What is drawn takes its time from the model where both share a processor: seen, not counted, is enough.
const SHOWN_EVERY_MS = 500;
const PREVIEW_EVERY_MS = 1000;
// How an edit is forced, in words of the command line and of Python: here it is a button.
const HOW_TO_FORCE = / Name another object.*$/s;
const TOLD_SHARES = [0.25, 0.5, 0.75]; // screen readers aren't told of every step

export class Run {
  /**
   * @param {Workspace} workspace
   * @param {{started: () => void, preview: (pending: Pending, address: string) => void, done: (pending: Pending, results: Results) => void, answered: (pending: Pending, job: Job) => void, ended: () => void}} on
   *   `ended` comes last, however it ended.
   */
  constructor(workspace, on) {
    this.workspace = workspace;
    this.on = on;
    this.controller = new AbortController();
    this.isWorking = false;
    this.isCanceling = false;
    this.isMade = false; // whether the last run has made what others wait for
    this.outcome = ""; // how the last run ended, in words
    this.stepsSeen = { at: 0, step: 0 };
    this.shownAt = { preview: 0, words: 0 }; // when something was drawn last
    byId("cancel", HTMLElement).addEventListener("click", () => void this.cancel());
  }

  /** Run something as soon as what was asked for before has ended. @param {...Pending} added */
  async add(...added) {
    update({ queue: [...state.value.queue, ...added] });
    this.workspace.keep();
    await this.work();
  }

  /** Continue with the runs that had not ended when the page was left. */
  async resume() {
    const { queue } = state.value;
    const isComplete = (/** @type {Pending} */ one) => one.jobId || one.after || one.request.pictures.every((id) => this.workspace.find(id));
    update({ queue: queue.reduce((left, one) => (isComplete(one) ? left : withoutRun(left, one.key)), queue) });
    await this.work();
  }

  /** Take a run that waits out of the queue, with those that wait for its result. @param {string} key */
  remove(key) {
    if (state.value.queue[0]?.key !== key) update({ queue: withoutRun(state.value.queue, key) });
    this.workspace.keep();
  }

  /** Have a run that waits come one place earlier. @param {string} key */
  advance(key) {
    const queue = [...state.value.queue];
    const place = queue.findIndex((one) => one.key === key);
    if (place < 2 || queue[place].after === queue[place - 1].key) return;
    [queue[place - 1], queue[place]] = [queue[place], queue[place - 1]];
    update({ queue });
    this.workspace.keep();
  }

  /** Run what waits, one after the other. */
  async work() {
    if (this.isWorking) return;
    this.isWorking = true;
    while (state.value.queue.length) {
      const [pending] = state.value.queue;
      const pictures = pending.request.pictures.map((id) => this.workspace.find(id)).filter((one) => one !== null);
      await this.go(pending, pictures);
    }
    this.isWorking = false;
  }

  /** Cancel the run that is under way at its next step. */
  async cancel() {
    const [pending] = state.value.queue;
    if (!pending || this.isCanceling) return;
    this.setCanceling(true);
    this.say("Stopping at the next step…", null);
    if (!pending.jobId) {
      this.controller.abort();
      return;
    }
    try {
      await cancelJob(pending.jobId);
    } catch (error) {
      if (error instanceof GoneError) {
        // Who cancels does not wait for a server that may never come back.
        notify("run", "The server could not be reached to stop this run. If it comes back, it may finish the run; see Jobs.");
        this.controller.abort();
        return;
      }
      this.setCanceling(false);
      this.say(sentence(error), null);
    }
  }

  /** @param {boolean} isCanceling */
  setCanceling(isCanceling) {
    this.isCanceling = isCanceling;
    // Not `disabled`, which would take the focus from whoever has just pressed it.
    byId("cancel", HTMLElement).setAttribute("aria-disabled", String(isCanceling));
  }

  /** @param {Pending} pending @param {Picture[]} pictures */
  async go(pending, pictures) {
    this.controller = new AbortController();
    const { signal } = this.controller;
    this.isMade = false;
    this.stepsSeen = { at: 0, step: 0 };
    this.shownAt = { preview: 0, words: 0 };
    this.setCanceling(false);
    byId("progress", HTMLElement).hidden = false;
    for (const name of ["run", "seed", "plan"]) withdraw(name);
    this.say("Sending…", null);
    offerNotifications();
    this.on.started();
    let poll = 0;
    try {
      const id = pending.jobId ?? (await this.send(pending, pictures, signal));
      poll = window.setInterval(() => void this.askPosition(id), POSITION_EVERY_MS);
      const { plan } = pending;
      const job = await follow(id, (event) => this.onEvent(pending, event), signal, (event) => plan !== undefined && isStepOver(event, plan.number));
      clearInterval(poll);
      await this.finish(plan ? jobOfStep(job, plan.number) : job, pending, signal);
    } catch (error) {
      this.outcome = signal.aborted ? "Canceled." : sentence(error);
      if (signal.aborted) announce(this.outcome);
      else notify("run", this.outcome);
    } finally {
      clearInterval(poll);
      // Only now: until its results are stored, a reload takes the run up again.
      const { queue } = state.value;
      const left = this.isMade ? queue.filter((one) => one !== pending) : withoutRun(queue, pending.key);
      if (left.length < queue.length - 1) this.tellOfTheRest();
      update({ queue: left });
      byId("progress", HTMLElement).hidden = true;
      tellFinished(this.outcome);
      this.workspace.keep();
      this.workspace.release();
      this.on.ended();
    }
  }

  /** Send a run, with all others of the queue that are one job with it. @param {Pending} pending @param {Picture[]} pictures @param {AbortSignal} signal @returns {Promise<string>} Id of the job. */
  async send(pending, pictures, signal) {
    const together = runsWith(state.value.queue, pending);
    const post = pending.plan ? await this.preparePlan(together, pictures[0], pending.plan.key) : await this.prepareJob(pending, pictures);
    const queued = await insist(post, (error, wait) => this.say(`${error.message} Trying again in ${Math.ceil(wait)} s…`, null), signal);
    for (const one of together) one.jobId = queued.id;
    this.workspace.keep();
    this.sayPosition(queued);
    if (signal.aborted) await cancelJob(queued.id);
    return queued.id;
  }

  /** @param {Pending} pending @param {Picture[]} pictures */
  async prepareJob({ request, key }, pictures) {
    const file = request.mask ? await maskFile(request.mask) : null;
    return () => postJob(request, pictures, key, file);
  }

  /** @param {Pending[]} runs @param {Picture} picture @param {string} key */
  async preparePlan(runs, picture, key) {
    const steps = await Promise.all(runs.map(async (one) => stepFields(one, one.request.mask ? await maskAddress(one.request.mask) : null)));
    return () => postPlan(steps, picture, key);
  }

  /** @param {Job} job @param {Pending} pending @param {AbortSignal} signal */
  async finish(job, pending, signal) {
    if (job.state === "cancelled") {
      this.outcome = "Canceled. Your picture is unchanged.";
      notify("run", this.outcome, { kind: "news" });
    } else if (job.state === "failed") {
      this.outcome = job.error?.message ?? "The run failed without a reason.";
      if (job.error?.code === "missing_object") return this.offerForce(pending);
      notify("run", this.outcome);
    } else if (job.kind === "describe") {
      this.on.answered(pending, job);
      this.outcome = "The answer is ready.";
      announce(this.outcome);
    } else {
      const results = await insist(
        () => fetchResults(job, pending.request, pictureName(this.workspace, pending)),
        (error, wait) => this.say(`${error.message} Trying again in ${Math.ceil(wait)} s…`, 1),
        signal,
      );
      await this.workspace.addResults(pending, results);
      const [picture] = results.pictures;
      this.isMade = true;
      update({ queue: handedOn(state.value.queue, pending, { attempt: job.id, picture: picture.id, size: picture }) });
      this.on.done(pending, results);
      this.outcome = ["Done.", job.verdicts?.[0]?.summary ?? job.checks?.[0]?.summary].filter(Boolean).join(" ");
      announce(`${this.outcome} The result is next to the controls.`);
    }
  }

  /** Say that what was to come after a run is not run; of a run that was canceled, in the same message. */
  tellOfTheRest() {
    const isCanceled = this.outcome.startsWith("Canceled.");
    if (isCanceled) withdraw("run");
    const words = "The steps after it were not run; redo the plan from there";
    notify("plan", isCanceled ? `Canceled. ${words}.` : `${words} once it is right.`, { kind: "news" });
  }

  /** Where the model sees no such object: offer to run all the same. @param {Pending} pending */
  offerForce({ jobId, step, after, plan, ...rest }) {
    const { request } = rest;
    this.outcome = `${this.outcome.replace(HOW_TO_FORCE, "")} Name another object, or run it anyway.`;
    const run = () => {
      if (!request.pictures.every((id) => this.workspace.find(id))) return notify("run", "Open the picture again, and run it from there.");
      void this.add({ ...rest, key: newId(), jobId: null, request: { ...request, fields: { ...request.fields, force: "true" } } });
    };
    notify("run", this.outcome, { action: { label: "Run it anyway", run } });
  }

  /** @param {Pending} pending @param {JobEvent} event */
  onEvent(pending, event) {
    const now = performance.now();
    if (event.state !== "running" || this.isCanceling) return;
    const { step = 0, steps = 0, plan_step, plan_steps } = event;
    if (pending.plan && plan_step !== undefined && (plan_step <= pending.plan.number || !steps)) return; // what ran before
    if (!steps) {
      this.say("Reading the picture and the prompt…", null);
      return;
    }
    // The first step tells nothing: what comes before it takes its own time.
    if (!this.stepsSeen.at || step <= this.stepsSeen.step) this.stepsSeen = { at: now, step };
    const done = step - this.stepsSeen.step;
    const left = done > 0 ? ((now - this.stepsSeen.at) / done) * (steps - step) : null;
    const place = plan_step ? `Step ${plan_step} of ${plan_steps} of the plan, ${Math.floor((100 * step) / steps)} %` : `Step ${step} of ${steps}`;
    const words = step < steps ? `${place}${left === null ? "" : ` · ${about(left)} left`}` : "Finishing the picture…";
    if (TOLD_SHARES.some((share) => step === Math.ceil(share * steps))) announce(words);
    if (step < steps && now < this.shownAt.words + SHOWN_EVERY_MS) return;
    this.shownAt.words = now;
    this.say(words, step / steps);
    document.title = `${step}/${steps} · joyimage`;
    if (event.preview && now >= this.shownAt.preview + PREVIEW_EVERY_MS) {
      this.shownAt.preview = now;
      this.on.preview(pending, event.preview);
    }
  }

  /** @param {string} id */
  async askPosition(id) {
    try {
      const job = await getJob(id);
      if (!this.stepsSeen.at) this.sayPosition(job);
    } catch (error) {
      if (error instanceof GoneError && !this.isCanceling) this.say("The server is not responding; waiting for it…", null);
    }
  }

  /** @param {Job} job */
  sayPosition(job) {
    if (this.isCanceling) return;
    if (job.state === "queued") this.say(job.position ? `Queued: ${job.position} ahead of you` : "Next in line…", null);
    else if (job.state === "running" && !job.progress) this.say("Reading the picture and the prompt…", null);
  }

  /** @param {string} words @param {number | null} share Null where it isn't known. */
  say(words, share) {
    tell(byId("progress-text", HTMLElement), words);
    const bar = byId("progress-bar", HTMLProgressElement);
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
  }
}

/**
 * Fetch what a job has made.
 *
 * @param {Job} job
 * @param {Request | null} request
 * @param {string | null} source Name of the image that went in.
 * @returns {Promise<Results>}
 */
export async function fetchResults(job, request, source) {
  const stem = source?.replace(/(-(edit|move|rotate|camera|generate)-\d+)?\.\w+$/, "");
  const pictures = await Promise.all(
    job.images.map(async (_, number) => {
      const blob = await getImage(job.part?.job ?? job.id, job.part?.number ?? number);
      const name = `${stem ? `${stem}-` : ""}${job.kind}-${(job.seed ?? 0) + number}.png`;
      return restorePicture({ id: newId(), blob, width: job.width ?? 1, height: job.height ?? 1, name });
    }),
  );
  return { job, request, pictures, selected: 0 };
}

/**
 * Fetch what went into a job that another page asked for.
 *
 * @param {Job} job
 * @returns {Promise<Picture[]>} None where the server no longer has it.
 */
export async function fetchInputs(job) {
  try {
    return await Promise.all(
      (job.inputs ?? []).map(async (_, number) => {
        const blob = await getInput(job.part?.job ?? job.id, number);
        const type = blob.type.split("/")[1]?.replace("jpeg", "jpg") ?? "png";
        return restorePicture({ id: newId(), blob, width: 0, height: 0, name: number ? `reference-${number}.${type}` : `input.${type}` });
      }),
    );
  } catch (error) {
    if (error instanceof ServerError) return [];
    throw error;
  }
}

/** @param {Workspace} workspace @param {Pending} pending @returns {string | null} */
function pictureName(workspace, pending) {
  return workspace.find(pending.request.pictures[0])?.name ?? null;
}

/** Put any failure into a sentence. @param {unknown} error @returns {string} */
export function sentence(error) {
  if (error instanceof ServerError && error.code === "not_found") return "The server no longer knows this job; run it again.";
  return error instanceof Error && error.message ? error.message : "Something failed for an unknown reason.";
}

/** @param {number} ms */
function about(ms) {
  const seconds = Math.ceil(ms / 1000);
  if (seconds < 60) return `about ${seconds} s`;
  return `about ${Math.round(seconds / 60)} min`;
}
