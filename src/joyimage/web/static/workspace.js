/** What this tab works on: the chain of pictures, results, the run that goes on; kept over reloads. */

import { findPicture, keepSession, openSession } from "./keep.js";
import { notify } from "./notices.js";
import { releasePicture, restorePicture } from "./picture.js";

/** @import { Link, Pending, Picture, Results } from "./types.js" */
/** @import { KeptResults } from "./keep.js" */

const KEEP_AFTER_MS = 400;

export class Workspace {
  /** @param {() => Record<string, string | boolean>} readForm */
  constructor(readForm) {
    this.readForm = readForm;
    /** @type {Link[]} The picture that came in, and what was made of it, edit after edit. */
    this.chain = [];
    this.current = 0;
    /** @type {Results | null} Results that belong to no picture of the chain. */
    this.loose = null;
    this.isCreating = false; // elsewhere, what was created steps back behind the picture that is edited
    /** @type {Picture[]} Further pictures for checkpoints that take several. */
    this.references = [];
    /** @type {Pending | null} */
    this.pending = null;
    this.timer = 0;
    /** @type {Promise<void>} */
    this.keeping = Promise.resolve();
  }

  /** @returns {Picture | null} What is edited. */
  get source() {
    return this.chain[this.current]?.picture ?? null;
  }

  /** @returns {Results | null} What is shown beside it. */
  get results() {
    return this.looseShown ?? this.chain[this.current]?.results ?? null;
  }

  /** @returns {Results | null} Those that are shown and belong to no picture of the chain. */
  get looseShown() {
    return this.loose?.job.kind === "generate" && this.source && !this.isCreating ? null : this.loose;
  }

  /** @returns {Picture | null} */
  get result() {
    return this.results?.pictures[this.results.selected] ?? null;
  }

  /** Begin a new chain. @param {Picture} picture */
  open(picture) {
    const old = this.pictures;
    this.chain = [{ picture, results: null }];
    this.current = 0;
    this.loose = null;
    this.release(old);
    this.keepSoon();
  }

  /** Make the chosen result what is edited next. */
  takeResult() {
    const picture = this.result;
    if (!picture) return;
    if (this.looseShown) this.open(picture);
    else {
      const old = this.pictures;
      this.chain.splice(this.current + 1);
      this.chain.push({ picture, results: null });
      this.current += 1;
      this.release(old);
    }
    this.keepSoon();
  }

  /** Go to a picture of the chain. @param {number} place */
  goTo(place) {
    this.current = Math.min(this.chain.length - 1, Math.max(0, place));
    this.loose = null;
    this.keepSoon();
  }

  /** Put results beside the picture that they were made of. @param {Results} results */
  setResults(results) {
    const old = this.pictures;
    const source = results.request?.kind === "generate" ? undefined : results.request?.pictures[0];
    const place = this.chain.findIndex((link) => link.picture.id === source);
    if (place < 0) this.loose = results;
    else {
      // What came after it in the chain was made of other results; these are the newer ones.
      this.chain.splice(place + 1);
      this.chain[place].results = results;
      this.current = place;
      this.loose = null;
    }
    this.release(old);
    this.keepSoon();
  }

  /** Find a picture. @param {string} id */
  find(id) {
    return this.pictures.find((picture) => picture.id === id) ?? null;
  }

  /** @returns {Picture[]} All that are held. */
  get pictures() {
    const held = this.chain.flatMap((link) => [link.picture, ...(link.results?.pictures ?? [])]);
    return [...new Set([...held, ...(this.loose?.pictures ?? []), ...this.references])];
  }

  /** Free pictures that are no longer held. @param {Picture[]} old */
  release(old) {
    const held = new Set(this.pictures);
    const sent = new Set(this.pending?.request.pictures ?? []);
    for (const picture of old) if (!held.has(picture) && !sent.has(picture.id)) releasePicture(picture);
  }

  /** Keep everything in a moment, once however much changes until then. */
  keepSoon() {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.keep(), KEEP_AFTER_MS);
  }

  /** Keep everything now. @returns {Promise<void>} */
  keep() {
    clearTimeout(this.timer);
    this.keeping = this.keeping.then(() => this.write());
    return this.keeping;
  }

  async write() {
    const state = {
      chain: this.chain.map(({ picture, results }) => ({ picture: picture.id, results: results && toKept(results) })),
      current: this.current,
      loose: this.loose && toKept(this.loose),
      references: this.references.map((picture) => picture.id),
      pending: this.pending,
      form: this.readForm(),
    };
    try {
      await keepSession(state, this.pictures);
    } catch {
      notify("storage", "This browser has no room left, so a reload would lose the pictures here. Download what you need.");
    }
  }

  /**
   * Take up what was kept.
   *
   * @returns {Promise<Record<string, string | boolean> | null>} The form's fields; null where nothing was kept.
   */
  async restore() {
    const kept = await openSession();
    if (!kept) return null;
    /** @type {Map<string, Promise<Picture | null>>} */
    const found = new Map();
    const get = (/** @type {string} */ id) => {
      if (!found.has(id)) found.set(id, findPicture(id).then((one) => one && restorePicture(one)));
      return /** @type {Promise<Picture | null>} */ (found.get(id));
    };
    const fromKept = async (/** @type {KeptResults | null} */ one) => {
      const pictures = one ? await Promise.all(one.pictures.map(get)) : [];
      return one && pictures.every(Boolean) ? { ...one, pictures: /** @type {Picture[]} */ (pictures) } : null;
    };
    for (const link of kept.chain) {
      const picture = await get(link.picture);
      if (!picture) break;
      this.chain.push({ picture, results: await fromKept(link.results) });
    }
    this.current = Math.max(0, Math.min(kept.current, this.chain.length - 1));
    this.loose = await fromKept(kept.loose);
    const references = await Promise.all(kept.references.map(get));
    this.references = /** @type {Picture[]} */ (references.filter(Boolean));
    this.pending = kept.pending;
    return kept.form;
  }
}

/** @param {Results} results @returns {KeptResults} */
function toKept(results) {
  return { ...results, pictures: results.pictures.map((picture) => picture.id) };
}
