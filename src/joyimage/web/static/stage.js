/** The stage: the picture that is edited, the one that forms, a result beside what it was made of. */

import { byId, choose, chosen, tell } from "./dom.js";
import { alignTo } from "./picture.js";
import { nameOf } from "./history.js";
import { state } from "./store.js";
import { Viewer } from "./viewer.js";

/** @import { Kind, Picture } from "./types.js" */
/** @import { RegionTool } from "./regiontool.js" */
/** @import { Spatial } from "./spatial.js" */
/** @import { View } from "./viewer.js" */
/** @import { Workspace } from "./workspace.js" */

export class Stage {
  /**
   * @param {Workspace} workspace
   * @param {RegionTool} region
   * @param {Spatial} space
   * @param {{mode: () => Kind, isForming: () => boolean}} state
   */
  constructor(workspace, region, space, state) {
    this.space = space;
    this.workspace = workspace;
    this.box = space.box;
    this.region = region;
    this.regionStage = byId("region-stage", HTMLElement);
    this.state = state;
    this.viewer = new Viewer(() => this.tool);
    this.panes = byId("panes", HTMLElement);
    this.beforeTag = /** @type {HTMLElement} */ (document.querySelector(".tag-before"));
    this.boxLayer = byId("box-layer", HTMLElement);
    /** @type {{for: string, url: string} | null} */
    this.aligned = null;
    /** @type {View | null} The view to come back to. */
    this.peekedFrom = null;
    this.isAiming = false; // whether a drag moves the camera
    this.isNew = false; // whether the result has only just come
  }

  /** @returns {View} */
  get view() {
    return /** @type {View} */ (chosen("view"));
  }

  /** @returns {"region" | "object" | null} What is marked or selected on the image now. */
  get marks() {
    return this.isDrawing ? "object" : this.regionStage.hidden ? null : "region";
  }

  /** @returns {import("./viewer.js").Tool | null} What a drag on the image does beside panning. */
  get tool() {
    if (this.isDrawing) return this.space.objectTool.isSketching ? this.space.objectTool : this.box;
    if (!this.regionStage.hidden) return this.region;
    if (!this.space.ring.layer.hidden) return this.space.ring;
    return this.isAiming ? this.space.gizmo : null;
  }

  get isDrawing() {
    return !this.boxLayer.hidden;
  }

  /** Show the picture as it forms. @param {string} address */
  preview(address) {
    this.panes.hidden = false;
    byId("drop", HTMLElement).hidden = true;
    this.boxLayer.hidden = this.regionStage.hidden = true;
    this.renderSpace(false, false);
    this.box.render();
    this.panes.classList.add("forming");
    this.viewer.setView("after");
    const image = new Image();
    image.src = address;
    void image.decode().then(() => {
      if (!this.state.isForming()) return;
      // As large as the picture itself, so that the zoom says the same all along.
      const scale = (this.workspace.source?.width ?? image.naturalWidth) / image.naturalWidth;
      const size = { width: scale * image.naturalWidth, height: scale * image.naturalHeight };
      this.viewer.show(address, null, size, "Preview of the picture");
    });
  }

  /** Bring the stage into sight, also where it has been scrolled away. */
  reveal() {
    const canvas = byId("canvas", HTMLElement);
    const { top, bottom } = canvas.getBoundingClientRect();
    if (top < 0 || bottom > innerHeight) canvas.scrollIntoView({ block: "nearest" });
  }

  /** Show the next result from its most telling side. */
  expectResult() {
    if (!this.workspace.input) return;
    choose("view", "slider");
    this.isNew = true;
  }

  /** Show the image that the next run starts from, alone: it is drawn on, or asked about. */
  chooseSource() {
    if (this.workspace.results) choose("view", this.startsFromInput ? "before" : "after");
  }

  /** @returns {boolean} Whether the next run starts from what the shown result was made of. */
  get startsFromInput() {
    return state.value.base === "original" && this.workspace.input !== null;
  }

  /** Show what was before for as long as a key is held. @param {boolean} isHeld */
  peek(isHeld) {
    if (isHeld === (this.peekedFrom !== null) || (isHeld && byId("views", HTMLElement).hidden)) return;
    const back = this.peekedFrom;
    this.peekedFrom = isHeld ? this.view : null;
    choose("view", back ?? "before");
    this.render();
  }

  /** Show everything as it is now. */
  render() {
    const { compared: input, results, result, source } = this.workspace;
    const shown = result ?? source;
    // Nothing that was opened goes into what is created.
    byId("canvas", HTMLElement).dataset.mode = this.state.mode();
    const isCreating = this.state.mode() === "generate" && !(results?.job.kind === "generate");
    for (const id of isCreating ? ["result", "strip"] : []) byId(id, HTMLElement).hidden = true;
    this.renderEmpty(isCreating);
    byId("drop", HTMLElement).hidden = shown !== null && !isCreating;
    byId("stage-bar", HTMLElement).hidden = !shown || isCreating;
    this.panes.hidden = !shown || isCreating;
    if (this.state.isForming() && this.panes.classList.contains("forming")) return;
    this.panes.classList.remove("forming");
    this.boxLayer.hidden = this.regionStage.hidden = true;
    const canCompare = Boolean(result && input);
    byId("views", HTMLElement).hidden = !canCompare;
    const alone = !canCompare ? shown : this.view === "before" ? input : this.view === "after" ? result : null;
    if (!isCreating) this.boxLayer.hidden = !(alone && alone === source && this.state.mode() === "move");
    this.regionStage.hidden = !(alone && alone === source && this.state.mode() === "edit" && this.region.isUsed);
    if (source && !isCreating) for (const tool of [this.box, this.region, this.space.ring]) tool.setSize(source);
    this.space.ring.setProject(state.value.project?.id ?? "");
    if (source && !isCreating) this.space.objectTool.setImage(source.id);
    this.renderSpace(alone !== null && alone === source && !isCreating, canCompare && !alone);
    this.box.render();
    if (isCreating) return;
    if (alone) this.showAlone(alone, alone === result ? "The result" : alone.name);
    else if (input && result) void this.compare(input, result);
  }

  /** Show the ring and the wireframe. @param {boolean} isSource Whether what the next run starts from is shown alone. @param {boolean} isCompared */
  renderSpace(isSource, isCompared) {
    const { ring, gizmo, orbit, compass } = this.space;
    const mode = this.state.mode();
    ring.layer.hidden = !(isSource && mode === "rotate");
    ring.render(compass.view);
    this.isAiming = isSource && mode === "camera";
    const isMade = isCompared && this.workspace.results?.job.kind === "camera";
    gizmo.render(mode === "camera" && (this.isAiming || isMade) ? orbit.cameras : null, isCompared);
  }

  /** @param {boolean} isCreating */
  renderEmpty(isCreating) {
    byId("choose", HTMLElement).hidden = isCreating;
    byId("examples", HTMLElement).hidden = isCreating;
    for (const id of ["drop-model", "try"]) byId(id, HTMLElement).classList.toggle("aside", isCreating);
    tell(byId("drop-title", HTMLElement), isCreating ? "Start with a prompt" : "Start with a picture");
    tell(byId("drop-hint", HTMLElement), isCreating ? "Describe what the picture should show, or pick an idea." : "Drop one here, paste it, or choose a file.");
  }

  /** @param {Picture} picture @param {string} label */
  showAlone(picture, label) {
    this.name(picture);
    this.viewer.show(picture.url, null, picture, label);
    this.viewer.setView("after");
  }

  /** @param {Picture} source @param {Picture} result */
  async compare(source, result) {
    this.name(result);
    const { job, request } = this.workspace.results ?? {};
    const fields = /** @type {Record<string, unknown>} */ ({ ...request?.fields, ...job?.edit });
    const isPinned = source !== this.workspace.input;
    const before = isPinned && state.value.project && state.value.pinned ? nameOf(state.value.project, state.value.pinned) : "Before";
    tell(this.beforeTag, before);
    const isCropped = !isPinned && String(fields.restore) !== "true" && (fields.fit ?? "crop") === "crop";
    const pair = `${source.id} ${result.id}`;
    if (this.aligned?.for !== pair) {
      const url = await alignTo(source, result, isCropped);
      const old = this.aligned?.url;
      if (old && ![...this.workspace.pictures.values()].some((picture) => picture.url === old)) URL.revokeObjectURL(old);
      this.aligned = { for: pair, url };
    }
    if (this.workspace.result !== result || this.workspace.compared !== source || this.view === "before" || this.view === "after") return;
    this.viewer.show(result.url, this.aligned.url, result, "The result");
    this.viewer.setView(this.view);
    if (this.isNew) this.viewer.revealAfter();
    this.isNew = false;
    if (this.view === "difference") {
      const changed = await this.viewer.drawDifference();
      if (this.view !== "difference" || this.workspace.result !== result) return; // something else is shown by now
      tell(byId("picture-name", HTMLElement), `${(100 * changed).toFixed(changed < 0.1 ? 1 : 0)}% of the pixels differ`);
    }
  }

  /** @param {Picture} picture */
  name(picture) {
    tell(byId("picture-name", HTMLElement), `${picture.name} · ${picture.width} × ${picture.height}`);
  }
}
