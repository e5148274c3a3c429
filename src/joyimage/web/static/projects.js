/** All projects of this browser: open, export, delete. */

import { byId, make, save, tell } from "./dom.js";
import { inputOf, nameOf, picturesOf } from "./history.js";
import { MOST_BYTES, sizeOf } from "./keep.js";
import { layOut } from "./layers.js";
import { notify } from "./notices.js";
import { openRaster } from "./ora.js";
import { withRecord } from "./png.js";
import { digest } from "./recipe.js";
import { sentence } from "./run.js";
import { state } from "./store.js";
import { zip } from "./zip.js";

/** @import { Size } from "./geometry.js" */
/** @import { Attempt, Project } from "./history.js" */
/** @import { Place } from "./layers.js" */
/** @import { StoredPicture, StoredProject } from "./keep.js" */
/** @import { Server } from "./server.js" */
/** @import { Known } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

const THUMBNAIL_PX = 256;

export class Projects {
  /**
   * @param {Workspace} workspace
   * @param {Server} server
   * @param {{open: (id: string) => Promise<boolean>, deleted: () => void, makeRecord: (known: Known, attempt: Attempt, number: number, picture: StoredPicture, inputDigest: string | null) => object | null}} on
   */
  constructor(workspace, server, on) {
    this.workspace = workspace;
    this.server = server;
    this.on = on;
    this.dialog = byId("projects-dialog", HTMLDialogElement);
    /** @type {string[]} Addresses of thumbnails, while the list is open. */
    this.addresses = [];
    byId("projects-open", HTMLElement).addEventListener("click", () => void this.show());
    this.dialog.addEventListener("close", () => {
      for (const address of this.addresses.splice(0)) URL.revokeObjectURL(address);
    });
  }

  async show() {
    this.say(null);
    this.dialog.showModal();
    await this.render();
  }

  /** Say in the dialog what became of an export: the page's messages are behind it. @param {string | null} sentence */
  say(sentence) {
    tell(byId("projects-problem", HTMLElement), sentence);
  }

  async render() {
    await this.workspace.storeUnsaved(); // another tab may have made room
    const projects = await this.workspace.allProjects();
    const bytes = sizeOf(projects.filter(({ isUnsaved }) => !isUnsaved));
    tell(
      byId("projects-size", HTMLElement),
      projects.length ? `${inMegabytes(bytes)} of ${inMegabytes(MOST_BYTES)} stored in this browser. Projects stay until you delete them.` : "No projects yet. Each picture you open starts one.",
    );
    const list = byId("projects-list", HTMLElement);
    const focused = document.activeElement instanceof HTMLElement && list.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    list.replaceChildren(...projects.map((project) => this.makeRow(project)));
    if (focused) list.querySelector(/** @type {`button`} */ (`[data-act="${CSS.escape(focused)}"]`))?.focus();
  }

  /** @param {StoredProject} project */
  makeRow(project) {
    const picture = make("span", { class: "job-picture" });
    void this.addThumbnail(project, picture);
    const edits = project.attempts.length - 1;
    const about = [`${edits} ${edits === 1 ? "edit" : "edits"}`, inMegabytes(project.bytes), new Date(project.at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })];
    if (project.isUnsaved) about.push("not stored: in this tab only");
    const words = make("div", { class: "job-words" }, this.makeName(project), make("p", { class: "hint" }, about.join(" · ")));
    const isOpen = project.id === state.value.project?.id;
    const open = make("button", { type: "button", "data-act": `${project.id} open`, "aria-label": `Open ${project.name}`, click: () => void this.open(project) }, isOpen ? "Open now" : "Open");
    const zipped = make("button", { type: "button", "data-act": `${project.id} zip`, "aria-label": `Export ${project.name}`, title: "A ZIP of all images, each with how it was made", click: () => void this.export(project) }, "Export");
    const layers = make("button", { type: "button", "data-act": `${project.id} layers`, "aria-label": `Export the layers of ${project.name}`, title: "An ORA file for GIMP and Krita", click: () => void this.exportLayers(project) }, "Layers");
    const remove = make("button", { type: "button", "data-act": `${project.id} delete`, class: "quiet", "aria-label": `Delete ${project.name}` }, "Delete");
    remove.addEventListener("click", () => {
      if (remove.textContent === "Delete") return tell(remove, "Confirm delete");
      void this.workspace.deleteProject(project.id).then(() => (this.on.deleted(), this.render())).then(() => this.dialog.querySelector("button")?.focus());
    });
    remove.addEventListener("blur", () => tell(remove, "Delete"));
    return make("li", { class: "job" }, picture, words, make("div", { class: "actions job-actions" }, open, zipped, layers, remove));
  }

  /** Make the field that shows a project's name, and renames it. @param {StoredProject} project */
  makeName(project) {
    const field = make("input", { type: "text", class: "project-name", "data-act": `${project.id} name`, dir: "auto", "aria-label": `Name of ${project.name}`, title: "Rename", value: project.name, autocomplete: "off" });
    const rename = () => {
      const name = field.value.trim() || project.name;
      field.value = name;
      if (name !== project.name) void this.workspace.rename(project, name).then(() => this.render());
    };
    field.addEventListener("change", rename);
    field.addEventListener("keydown", ({ key }) => key === "Enter" && rename());
    return field;
  }

  /** @param {StoredProject} project */
  async open(project) {
    this.dialog.close();
    if (!(await this.on.open(project.id))) notify("project", `${project.name} was deleted in another tab.`);
  }

  /** @param {Project} project @param {HTMLElement} place */
  async addThumbnail(project, place) {
    const last = project.attempts.at(-1);
    const stored = last && (await this.workspace.findPicture(project.id, last.pictures[last.selected]));
    if (!stored) return;
    const address = URL.createObjectURL(stored.blob);
    this.addresses.push(address);
    place.replaceChildren(make("img", { src: address, alt: "", loading: "lazy" }));
  }

  /** Save a project for GIMP and Krita: what was opened, and the chosen result of each attempt above it. @param {Project} project */
  async exportLayers(project) {
    this.say(null);
    try {
      const stored = await Promise.all(project.attempts.map(({ pictures, selected }) => this.workspace.findPicture(project.id, pictures[selected])));
      const shown = stored.findLastIndex((one) => one !== null);
      if (shown < 0) throw new Error("There is no image in this project.");
      /** @type {Map<string, StoredPicture>} */
      const sizes = new Map();
      for (const [n, one] of stored.entries()) if (one) sizes.set(project.attempts[n].id, one);
      const { size, places } = layOut(project.attempts, sizes);
      const layers = [];
      for (const [n, { id }] of project.attempts.entries()) {
        const [one, place] = [stored[n], places.get(id)];
        if (!one || !place) continue;
        layers.push({ name: nameOf(project, id), data: await asPng(one.blob, place, { ...place, left: 0, top: 0 }), left: place.left, top: place.top, isVisible: n === shown });
      }
      const top = /** @type {typeof layers[number]} */ (layers.find(({ isVisible }) => isVisible));
      const place = /** @type {Place} */ (places.get(project.attempts[shown].id));
      const blob = new Blob([top.data], { type: "image/png" }); // scaled once: the merged image is the layer, pixel for pixel
      save(openRaster(size, layers, await asPng(blob, size, place), await asPng(blob, size, place, THUMBNAIL_PX)), `${project.name.replace(/\.\w+$/, "")}.ora`);
    } catch (error) {
      this.say(sentence(error));
    }
  }

  /** Save a project as a ZIP: every image with its record, and the tree as JSON. @param {Project} project */
  async export(project) {
    try {
      const isMade = project.attempts.some(({ job }) => job);
      this.say(isMade && !this.server.known ? "Waiting for the server, to write the settings into the images…" : null);
      const known = isMade ? await this.server.waitForKnown() : null;
      const name = `${project.name.replace(/\.\w+$/, "")}.zip`;
      save(await this.zip(project, known), name);
      const isBare = isMade && !known;
      this.say(isBare ? `The server has not answered, so the images in ${name} do not contain the settings that made them; project.json does. Export again once the server is back.` : null);
    } catch (error) {
      this.say(sentence(error));
    }
  }

  /** @param {Project} project @param {Known | null} known Null for images without records. @returns {Promise<Blob>} */
  async zip(project, known) {
    const files = [{ name: "project.json", data: new TextEncoder().encode(JSON.stringify(project, null, 1)) }];
    const named = new Set();
    for (const attempt of project.attempts) {
      for (const [number, id] of attempt.pictures.entries()) {
        const stored = await this.workspace.findPicture(project.id, id);
        if (!stored) continue;
        const source = inputOf(project, attempt.id);
        const before = source && (await this.workspace.findPicture(project.id, source.picture));
        const record = known && this.on.makeRecord(known, attempt, number, stored, before && (await digest(before.blob)));
        const file = record ? await withRecord(stored.blob, record) : stored.blob;
        const name = `${nameOf(project, attempt.id).toLowerCase().replace(" ", "-")}${attempt.pictures.length > 1 ? `-${number + 1}` : ""}${extension(stored.name)}`;
        named.add(id);
        files.push({ name, data: new Uint8Array(await file.arrayBuffer()) });
      }
    }
    for (const id of picturesOf(project)) {
      const stored = named.has(id) ? null : await this.workspace.findPicture(project.id, id);
      if (stored) files.push({ name: `reference-${named.size}-${stored.name}`, data: new Uint8Array(await stored.blob.arrayBuffer()) });
    }
    return zip(files);
  }
}

/**
 * @param {Blob} file
 * @param {Size} size Of what the image is laid on.
 * @param {Place} place Where, and how large.
 * @param {number} [longest] Pixels that the longer side of all is scaled down to.
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function asPng(file, { width, height }, place, longest = Infinity) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, longest / Math.max(width, height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  const pen = canvas.getContext("2d");
  if (pen) {
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, place.left * scale, place.top * scale, place.width * scale, place.height * scale);
  }
  bitmap.close();
  return new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
}

/** @param {string} name */
function extension(name) {
  return /\.\w+$/.exec(name)?.[0] ?? ".png";
}

/** @param {number} bytes */
function inMegabytes(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toLocaleString("en", { maximumFractionDigits: 1 })} GB`;
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3)} kB`;
  return `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: bytes < 1e7 ? 1 : 0 })} MB`;
}
