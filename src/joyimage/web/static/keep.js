/**
 * What survives a reload: pictures and the state of this tab, in the browser's own database.
 *
 * Each tab has a session of its own. A lock says which sessions are open, so that a tab that was duplicated
 * takes a new one, and a browser that was closed goes on with its last.
 */

import { newId } from "./dom.js";

/** @import { Pending, Picture, Request, Job } from "./types.js" */

/**
 * @typedef {object} KeptResults
 * @property {Job} job
 * @property {Request | null} request
 * @property {string[]} pictures
 * @property {number} selected
 *
 * @typedef {object} Kept
 * @property {string} id
 * @property {number} at When it was kept, in ms.
 * @property {{picture: string, results: KeptResults | null}[]} chain
 * @property {number} current
 * @property {KeptResults | null} loose
 * @property {string[]} references
 * @property {Pending | null} pending
 * @property {Record<string, string | boolean>} form
 *
 * @typedef {Pick<Picture, "id" | "blob" | "width" | "height" | "name">} KeptPicture
 */

const TAB = "joyimage-session";
const LONGEST_MS = 7 * 24 * 3600 * 1000;

/** @type {IDBDatabase | null} Null where the browser has none, as in some private windows. */
let database = null;
let session = "";
/** @type {Set<string>} Ids of pictures that are stored. */
const stored = new Set();

/**
 * Open the database and find this tab's session.
 *
 * @returns {Promise<Kept | null>} What was kept; null where nothing was.
 */
export async function openSession() {
  database = await open();
  const candidates = [sessionStorage.getItem(TAB), localStorage.getItem(TAB)];
  session = "";
  for (const candidate of candidates) {
    if (!session && candidate && (await lock(candidate))) session = candidate;
  }
  if (!session) {
    session = newId();
    await lock(session);
  }
  sessionStorage.setItem(TAB, session);
  localStorage.setItem(TAB, session);
  if (!database) return null;
  await forgetOld();
  return (await finish(table("sessions", "readonly").get(session))) ?? null;
}

/**
 * Keep the state of this tab.
 *
 * @param {Omit<Kept, "id" | "at">} state
 * @param {Picture[]} pictures All that the state names.
 */
export async function keepSession(state, pictures) {
  if (!database) return;
  for (const { id, blob, width, height, name } of pictures) {
    if (stored.has(id)) continue;
    await finish(table("pictures", "readwrite").put({ id, blob, width, height, name }, `${session}/${id}`));
    stored.add(id);
  }
  await finish(table("sessions", "readwrite").put({ ...state, id: session, at: Date.now() }, session));
  const named = new Set(pictures.map((picture) => picture.id));
  for (const id of stored) {
    if (named.has(id)) continue;
    await finish(table("pictures", "readwrite").delete(`${session}/${id}`));
    stored.delete(id);
  }
}

/** Return a picture that was kept. @param {string} id @returns {Promise<KeptPicture | null>} */
export async function findPicture(id) {
  if (!database) return null;
  const found = await finish(table("pictures", "readonly").get(`${session}/${id}`));
  if (found) stored.add(id);
  return found ?? null;
}

/** @returns {Promise<IDBDatabase | null>} */
async function open() {
  try {
    const request = indexedDB.open("joyimage", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("sessions");
      request.result.createObjectStore("pictures");
    };
    return await finish(request);
  } catch {
    return null;
  }
}

/** Take a session's lock until this tab goes. @param {string} name @returns {Promise<boolean>} Whether it was free. */
function lock(name) {
  // Plain http from elsewhere has no locks: then tabs are told apart by their sessionStorage alone.
  if (!navigator.locks) return Promise.resolve(name === sessionStorage.getItem(TAB));
  return new Promise((resolve) => {
    navigator.locks
      .request(`joyimage ${name}`, { ifAvailable: true }, (held) => {
        resolve(held !== null);
        return held && new Promise(() => {});
      })
      .catch(() => resolve(false));
  });
}

async function forgetOld() {
  const keys = await finish(table("sessions", "readonly").getAllKeys());
  for (const key of keys) {
    const kept = await finish(table("sessions", "readonly").get(key));
    if (key === session || Date.now() - kept.at < LONGEST_MS) continue;
    await finish(table("pictures", "readwrite").delete(IDBKeyRange.bound(`${key}/`, `${key}/~`)));
    await finish(table("sessions", "readwrite").delete(key));
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
