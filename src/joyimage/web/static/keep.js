/**
 * What survives a reload. Projects and their images are in the browser's own database. What a tab looks like, with every
 * letter in its fields, is written to localStorage at once, which no reload can interrupt.
 *
 * A lock says which tabs are open, so that a tab that was duplicated takes a state of its own, and a browser that was
 * closed continues with its last.
 */

import { newId } from "./dom.js";
import { merged } from "./history.js";

/** @import { Base, Form, Project } from "./history.js" */
/** @import { Step } from "./plan.js" */
/** @import { Pending, Picture } from "./types.js" */

/**
 * @typedef {object} TabState
 * @property {number} at When it was written, in ms.
 * @property {string | null} project
 * @property {string} place
 * @property {Base} base
 * @property {Step[]} [plan] Missing from what older versions wrote.
 * @property {string[]} references
 * @property {Pending[]} queue
 * @property {Form} form
 *
 * @typedef {Pick<Picture, "id" | "blob" | "width" | "height" | "name">} StoredPicture
 * @typedef {Project & {bytes: number, isUnsaved?: boolean}} StoredProject `isUnsaved` where its newest state is in this tab only.
 */

/** Most bytes of images that are stored, of all projects together. */
export const MOST_BYTES = 1e9;
const TAB = "joyimage-session";
const STATE = "joyimage-tab-";
const LONGEST_MS = 7 * 24 * 3600 * 1000; // how long the state of a closed tab is kept; projects stay until deleted

/** @type {IDBDatabase | null} Null where the browser has none, as in some private windows. */
let database = null;
let session = "";

/** Find this tab's state. @returns {Promise<TabState | null>} Null where there is none. */
export async function openTab() {
  database = await open();
  const [own, last] = [sessionStorage.getItem(TAB), localStorage.getItem(TAB)];
  if (own && (await lock(own, leaveLimit()))) session = own;
  else if (last && (await lock(last))) session = last;
  else {
    session = newId();
    await lock(session);
  }
  sessionStorage.setItem(TAB, session);
  localStorage.setItem(TAB, session);
  forgetOldTabs();
  const text = localStorage.getItem(STATE + session);
  return text ? JSON.parse(text) : null;
}

/** Write this tab's state, done when this returns. @param {Omit<TabState, "at">} state */
export function keepTab(state) {
  if (session) localStorage.setItem(STATE + session, JSON.stringify({ ...state, at: Date.now() }));
}

/** What is to be stored would be more than may be. */
export class LimitError extends Error {}

/**
 * Store a project with those of its images that are not stored yet, all or nothing.
 *
 * @param {Project} project
 * @param {StoredPicture[]} pictures
 * @returns {Promise<Project>} The project with what other tabs have added to it.
 * @throws {LimitError} Nothing was stored: it would be more than `MOST_BYTES`.
 * @throws {DOMException} Nothing was stored: the browser has no room, or its database failed.
 */
export async function storeProject(project, pictures) {
  if (!database) return project;
  const change = database.transaction(["projects", "pictures"], "readwrite");
  const done = finishAll(change);
  done.catch(() => undefined); // what is thrown below says why
  const [projects, images] = [change.objectStore("projects"), change.objectStore("pictures")];
  /** @type {StoredProject | undefined} */
  const stored = await finish(projects.get(project.id));
  const both = stored ? merged(stored, project) : project;
  const fresh = [];
  for (const picture of pictures) if (!(await finish(images.count(`${project.id}/${picture.id}`)))) fresh.push(picture);
  const added = fresh.reduce((sum, { blob }) => sum + blob.size, 0);
  /** @type {StoredProject[]} */
  const all = await finish(projects.getAll());
  if (added && sizeOf(all) + added > MOST_BYTES) {
    change.abort();
    throw new LimitError(`Projects may take ${MOST_BYTES / 1e9} GB.`);
  }
  for (const { id, blob, width, height, name } of fresh) images.put({ id, blob, width, height, name }, `${project.id}/${id}`);
  projects.put({ ...both, bytes: (stored?.bytes ?? 0) + added }, project.id);
  await done;
  return both;
}

/** @param {StoredProject[]} projects @returns {number} Bytes of their images. */
export function sizeOf(projects) {
  return projects.reduce((sum, one) => sum + one.bytes, 0);
}

/** @param {string} id @returns {Promise<StoredProject | null>} */
export async function findProject(id) {
  return database ? ((await finish(table("projects", "readonly").get(id))) ?? null) : null;
}

/** List the projects, newest first. @returns {Promise<StoredProject[]>} */
export async function listProjects() {
  /** @type {StoredProject[]} */
  const all = database ? await finish(table("projects", "readonly").getAll()) : [];
  return all.sort((one, other) => other.at - one.at);
}

/** Delete a project and its images. @param {string} id */
export async function deleteProject(id) {
  if (!database) return;
  const change = database.transaction(["projects", "pictures"], "readwrite");
  change.objectStore("projects").delete(id);
  change.objectStore("pictures").delete(IDBKeyRange.bound(`${id}/`, `${id}/~`));
  await finishAll(change);
}

/** @param {string} owner Id of a project. @param {string} id @returns {Promise<StoredPicture | null>} */
export async function findPicture(owner, id) {
  return database ? ((await finish(table("pictures", "readonly").get(`${owner}/${id}`))) ?? null) : null;
}

/** Store images that belong to this tab and to no project yet. @param {StoredPicture[]} pictures */
export async function storeLoose(pictures) {
  if (!database) return;
  for (const { id, blob, width, height, name } of pictures) {
    await finish(table("pictures", "readwrite").put({ id, blob, width, height, name }, `${session}/${id}`));
  }
}

/** @param {string} id @returns {Promise<StoredPicture | null>} An image of this tab. */
export function findLoose(id) {
  return findPicture(session, id);
}

/** @returns {Promise<IDBDatabase | null>} */
async function open() {
  try {
    const request = indexedDB.open("joyimage", 2);
    request.onupgradeneeded = () => {
      for (const name of request.result.objectStoreNames) request.result.deleteObjectStore(name);
      request.result.createObjectStore("projects");
      request.result.createObjectStore("pictures");
    };
    return await finish(request);
  } catch {
    return null;
  }
}

/** @returns {number} Most ms that the page which is being left may take to give up this tab's lock. */
function leaveLimit() {
  const [navigation] = performance.getEntriesByType("navigation");
  // A reload's lock is always on its way; that of a tab which was duplicated stays with the other tab.
  return navigation instanceof PerformanceNavigationTiming && navigation.type === "reload" ? 10_000 : 1000;
}

/**
 * Take a tab's lock until this tab goes.
 *
 * @param {string} name
 * @param {number} [limit] Most ms to wait for it.
 * @returns {Promise<boolean>} Whether it was free.
 */
function lock(name, limit = 0) {
  // Plain http from elsewhere has no locks: then tabs are told apart by their sessionStorage alone.
  if (!navigator.locks) return Promise.resolve(name === sessionStorage.getItem(TAB));
  const options = limit ? { signal: AbortSignal.timeout(limit) } : { ifAvailable: true };
  return new Promise((resolve) => {
    navigator.locks
      .request(`joyimage ${name}`, options, (held) => {
        resolve(held !== null);
        return held && new Promise(() => {});
      })
      .catch(() => resolve(false));
  });
}

function forgetOldTabs() {
  for (const key of Object.keys(localStorage)) {
    if (!key.startsWith(STATE) || key === STATE + session) continue;
    const { at } = JSON.parse(localStorage.getItem(key) ?? "{}");
    if (!(Date.now() - at < LONGEST_MS)) localStorage.removeItem(key);
  }
}

/** @param {string} name @param {IDBTransactionMode} mode */
function table(name, mode) {
  return /** @type {IDBDatabase} */ (database).transaction(name, mode).objectStore(name);
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function finish(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("The browser's database failed."));
  });
}

/** @param {IDBTransaction} change @returns {Promise<void>} */
function finishAll(change) {
  return new Promise((resolve, reject) => {
    change.oncomplete = () => resolve();
    change.onabort = () => reject(change.error ?? new Error("The browser's database failed."));
  });
}
