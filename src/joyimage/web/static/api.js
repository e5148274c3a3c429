/** The server: requests, and sentences for whatever goes wrong with them. */

import { newId, pause } from "./dom.js";
import { multipart } from "./multipart.js";

/** @import { Health, Job, JobEvent, Model, Parsed, Picture, Request, Schemas } from "./types.js" */

const KEY = "joyimage-key";
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;
// A stream that is silent for longer than its keepalives (10 s) is dead, whatever the network says.
const SILENCE_MS = 25_000;

/** A request that the server rejected or failed to process. */
export class ServerError extends Error {
  /**
   * @param {string} message One sentence.
   * @param {number} status
   * @param {string | null} code
   * @param {number} retryAfterS 0 where coming back is no use.
   */
  constructor(message, status, code, retryAfterS) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/** There is no answer at all. */
export class GoneError extends Error {
  constructor() {
    super("The server is not responding.");
  }
}

/** Hooks that the page hangs its own answers on. */
export const on = {
  /** @type {(isWrong: boolean) => Promise<{key: string, isKept: boolean}>} Ask for a key. */
  keyNeeded: () => Promise.reject(new Error("An API key is needed.")),
  /** @type {(isThere: boolean) => void} Told whenever the server went or came back. */
  reach: () => {},
};

let key = localStorage.getItem(KEY) ?? sessionStorage.getItem(KEY) ?? "";
/** @type {Promise<void> | null} */
let asking = null;

/** Ask for a key, once however many requests want one. @param {boolean} isWrong */
function askForKey(isWrong) {
  asking ??= on.keyNeeded(isWrong).then((given) => {
    key = given.key;
    localStorage.removeItem(KEY);
    (given.isKept ? localStorage : sessionStorage).setItem(KEY, key);
    asking = null;
  });
  return asking;
}

/**
 * Send a request.
 *
 * @param {string} path
 * @param {RequestInit} [init]
 * @returns {Promise<Response>} A success.
 */
async function send(path, init = {}) {
  for (;;) {
    await asking;
    const used = key;
    const headers = new Headers(init.headers);
    if (used) headers.set("Authorization", `Bearer ${used}`);
    let response;
    try {
      response = await fetch(path, { ...init, headers, cache: "no-store" });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      on.reach(false);
      throw new GoneError();
    }
    on.reach(true);
    if (response.ok) return response;
    if (response.status === 401) {
      // Another request may have asked for a new key while this one was under way.
      if (used === key) await askForKey(Boolean(used));
      continue;
    }
    throw await readError(response);
  }
}

/** @param {Response} response @returns {Promise<ServerError>} */
async function readError(response) {
  const wait = Number(response.headers.get("retry-after") ?? 0);
  try {
    const { error } = await response.json();
    return new ServerError(String(error.message), response.status, error.code ?? null, wait);
  } catch {
    return new ServerError(`The server answered ${response.status} without a reason.`, response.status, null, wait);
  }
}

/** Return how the server is; open to those without a key. @returns {Promise<Health>} */
export async function getHealth() {
  const health = await (await send("/healthz")).json();
  if (health.needs_key && !key) await askForKey(false);
  return health;
}

/** Have the server read an image that this browser can't. @param {Blob} file @param {string} name @returns {Promise<Blob>} PNG. */
export async function convertImage(file, name) {
  const body = new FormData();
  body.append("image", file, name);
  return (await send("/v1/images/convert", { method: "POST", body })).blob();
}

/** Fetch one of the page's own pictures. @param {string} name @returns {Promise<Blob>} */
export async function getExample(name) {
  return (await send(`/examples/${name}.png`)).blob();
}

/** List the models. @returns {Promise<Model[]>} */
export async function listModels() {
  return (await (await send("/v1/models")).json()).data;
}

/** Return the JSON Schema of every kind of edit. @returns {Promise<Schemas>} */
export async function getSchemas() {
  return (await send("/v1/edits/schema")).json();
}

/** Have a prompt checked. @param {string} prompt @param {AbortSignal} signal @returns {Promise<Parsed>} */
export async function parsePrompt(prompt, signal) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ prompt });
  return (await send("/v1/spatial/parse", { method: "POST", headers, body, signal })).json();
}

/**
 * Queue a job; the same key never makes a second one.
 *
 * @param {Request} request
 * @param {Picture[]} pictures
 * @param {string} idempotencyKey
 * @param {Blob | null} mask
 * @returns {Promise<Job>}
 */
export async function postJob(request, pictures, idempotencyKey, mask) {
  const files = pictures.map(({ blob, name }) => ({ field: "image", blob, name }));
  if (mask) files.push({ field: "mask", blob: mask, name: "mask.png" });
  const body = multipart({ kind: request.kind, ...request.fields }, files, newId());
  const headers = { "Idempotency-Key": idempotencyKey };
  return (await send("/v1/jobs", { method: "POST", headers, body })).json();
}

/**
 * Queue several edits as one job; the same key never makes a second one.
 *
 * @param {Record<string, string>[]} steps
 * @param {Picture} picture What the first one works on.
 * @param {string} idempotencyKey
 * @returns {Promise<Job>}
 */
export async function postPlan(steps, { blob, name }, idempotencyKey) {
  const body = multipart({ kind: "plan", steps: JSON.stringify(steps) }, [{ field: "image", blob, name }], newId());
  const headers = { "Idempotency-Key": idempotencyKey };
  return (await send("/v1/jobs", { method: "POST", headers, body })).json();
}

/** Return a job's record. @param {string} id @returns {Promise<Job>} */
export async function getJob(id) {
  return (await send(`/v1/jobs/${id}`)).json();
}

/** Cancel a job. @param {string} id @returns {Promise<Job>} */
export async function cancelJob(id) {
  return (await send(`/v1/jobs/${id}`, { method: "DELETE" })).json();
}

/**
 * List jobs, newest first.
 *
 * @param {{state?: string, after?: string, limit?: number}} query
 * @returns {Promise<{data: Job[], has_more: boolean}>}
 */
export async function listJobs({ state = "", after = "", limit = 20 }) {
  const query = new URLSearchParams({ limit: String(limit) });
  if (state) query.set("state", state);
  if (after) query.set("after", after);
  return (await send(`/v1/jobs?${query}`)).json();
}

/** Fetch a result. @param {string} id @param {number} number @returns {Promise<Blob>} */
export async function getImage(id, number) {
  return (await send(`/v1/jobs/${id}/images/${number}`)).blob();
}

/** Fetch an image that went into a job. @param {string} id @param {number} number @returns {Promise<Blob>} */
export async function getInput(id, number) {
  return (await send(`/v1/jobs/${id}/inputs/${number}`)).blob();
}

/**
 * Follow a job to its end, over lost connections and restarts of the server.
 *
 * Not an EventSource: it can't carry a key.
 *
 * @param {string} id
 * @param {(event: JobEvent) => void} tell
 * @param {AbortSignal} signal
 * @param {(event: JobEvent) => boolean} [isEnough] Whether an event ends it before the job has ended.
 * @returns {Promise<Job>} The job as it is then.
 */
export async function follow(id, tell, signal, isEnough = () => false) {
  let last = "";
  for (let wait = FIRST_PAUSE_MS; ; wait = Math.min(2 * wait, LONGEST_PAUSE_MS)) {
    try {
      for await (const { event, number } of readEvents(id, last, signal)) {
        last = number;
        wait = FIRST_PAUSE_MS;
        tell(event);
        if (event.job) return event.job;
        if (isEnough(event)) return await getJob(id);
      }
      const job = await getJob(id);
      if (isFinished(job)) return job;
    } catch (error) {
      if (signal.aborted || !mayComeBack(error)) throw error;
    }
    await pause(wait, signal);
    if (signal.aborted) throw new DOMException("The job is no longer followed.", "AbortError");
  }
}

/** Tell whether a job has ended. @param {Job} job */
export function isFinished(job) {
  return job.state === "succeeded" || job.state === "failed" || job.state === "cancelled";
}

/** Tell whether the same request may succeed later. @param {unknown} error */
export function mayComeBack(error) {
  return error instanceof GoneError || (error instanceof ServerError && error.retryAfterS > 0);
}

/**
 * Try until the server is there and has room.
 *
 * @template T
 * @param {() => Promise<T>} attempt
 * @param {(error: Error, waitS: number) => void} wait Told before each pause.
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
export async function insist(attempt, wait, signal) {
  for (let ms = FIRST_PAUSE_MS; ; ms = Math.min(2 * ms, LONGEST_PAUSE_MS)) {
    try {
      return await attempt();
    } catch (error) {
      if (signal.aborted || !mayComeBack(error)) throw error;
      const seconds = error instanceof ServerError ? error.retryAfterS : ms / 1000;
      wait(/** @type {Error} */ (error), seconds);
      await pause(1000 * seconds, signal);
      if (signal.aborted) throw error;
    }
  }
}

/**
 * Read a job's events off the stream.
 *
 * @param {string} id
 * @param {string} last Number of the last event that is known.
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<{event: JobEvent, number: string}>}
 */
async function* readEvents(id, last, signal) {
  const silence = new AbortController();
  const headers = last ? { "Last-Event-ID": last } : undefined;
  const either = AbortSignal.any([signal, silence.signal]);
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const response = await send(`/v1/jobs/${id}/events`, { headers, signal: either });
    if (!response.body) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
        if (fields.data) yield { event: JSON.parse(fields.data), number: fields.id ?? "" };
      }
    }
  } catch (error) {
    if (error instanceof ServerError || error instanceof GoneError || signal.aborted) throw error;
    throw new GoneError(); // the connection broke while it was read
  } finally {
    clearTimeout(timer);
  }
}
