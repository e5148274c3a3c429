/** The stage: the picture that is edited, the one that forms, a result beside what it was made of. */

import { byId, choose, chosen, tell } from "./dom.js";
import { alignTo } from "./picture.js";
import { Viewer } from "./viewer.js";

/** @import { BoxEditor } from "./box.js" */
/** @import { Kind, Picture } from "./types.js" */
/** @import { View } from "./viewer.js" */
/** @import { Workspace } from "./workspace.js" */

export class Stage {
  /**
   * @param {Workspace} workspace
   * @param {BoxEditor} box
   * @param {{mode: () => Kind, isGoing: () => boolean}} state
   */
  constructor(workspace, box, state) {
    this.workspace = workspace;
    this.box = box;
    this.state = state;
    this.viewer = new Viewer(() => (this.isDrawing ? this.box : null));
    this.panes = byId("panes", HTMLElement);
    this.boxLayer = byId("box-layer", HTMLElement);
    /** @type {{for: string, url: string} | null} */
    this.aligned = null;
    this.isNew = false; // whether the result has only just come
  }

  /** @returns {View} */
  get view() {
    return /** @type {View} */ (chosen("view"));
  }

  get isDrawing() {
    return !this.boxLayer.hidden;
  }

  /** Show the picture as it forms. @param {string} address */
  preview(address) {
    this.panes.hidden = false;
    byId("drop", HTMLElement).hidden = true;
    this.boxLayer.hidden = true;
    this.box.render();
    this.panes.classList.add("forming");
    this.viewer.setView("after");
    const image = new Image();
    image.src = address;
    void image.decode().then(() => {
      if (!this.state.isGoing()) return;
      // As large as the picture itself, so that the zoom says the same all along.
      const scale = (this.workspace.source?.width ?? image.naturalWidth) / image.naturalWidth;
      const size = { width: scale * image.naturalWidth, height: scale * image.naturalHeight };
      this.viewer.show(address, null, size, "The picture as it forms");
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
    if (!this.workspace.source || this.workspace.looseShown) return;
    choose("view", "slider");
    this.isNew = true;
  }

  /** Choose the source, not a result, where the box is to be seen. */
  chooseSource() {
    const { source, looseShown, current } = this.workspace;
    if (looseShown && source) this.workspace.goTo(current);
    if (this.workspace.results && !looseShown) choose("view", "before");
  }

  /** Show everything as it is now. */
  render() {
    const { source, results, result, looseShown } = this.workspace;
    const hasPicture = Boolean(source || result);
    // Nothing that is there already goes into what is created.
    const isCreating = this.state.mode() === "generate" && !looseShown;
    for (const id of isCreating ? ["result", "strip"] : []) byId(id, HTMLElement).hidden = true;
    this.renderEmpty(isCreating);
    byId("drop", HTMLElement).hidden = hasPicture && !isCreating;
    byId("stage-bar", HTMLElement).hidden = !hasPicture || isCreating;
    this.panes.hidden = !hasPicture || isCreating;
    if (this.state.isGoing() && this.panes.classList.contains("forming")) return;
    this.panes.classList.remove("forming");
    if (isCreating) return;
    const canCompare = Boolean(result && source && !looseShown);
    byId("views", HTMLElement).hidden = !canCompare;
    const isSource = Boolean(source) && (!result || (canCompare && this.view === "before"));
    // What was created or opened is edited where there is no other picture.
    const drawnOn = isSource ? source : source ? null : result;
    this.boxLayer.hidden = !(drawnOn && this.state.mode() === "move");
    if (drawnOn) this.box.setSize(drawnOn);
    this.box.render();
    if (isSource && source) this.showAlone(source, source.name);
    else if (canCompare && source && result) void this.compare(source, result);
    else if (result && results) this.showAlone(result, "The result");
  }

  /** @param {boolean} isCreating */
  renderEmpty(isCreating) {
    byId("choose", HTMLElement).hidden = isCreating;
    byId("examples", HTMLElement).hidden = isCreating;
    tell(byId("drop-title", HTMLElement), isCreating ? "From words alone" : "Start with a picture");
    tell(byId("drop-hint", HTMLElement), isCreating ? "Say what it should show, or take an idea." : "Drop one here, paste it, or choose a file.");
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
    const fields = this.workspace.results?.request?.fields ?? {};
    const isCropped = fields.restore !== "true" && (fields.fit ?? "crop") === "crop";
    const pair = `${source.id} ${result.id}`;
    if (this.aligned?.for !== pair) {
      const url = await alignTo(source, result, isCropped);
      const old = this.aligned?.url;
      if (old && !this.workspace.pictures.some((picture) => picture.url === old)) URL.revokeObjectURL(old);
      this.aligned = { for: pair, url };
    }
    if (this.workspace.result !== result || this.view === "before") return;
    this.viewer.show(result.url, this.aligned.url, result, "The result");
    this.viewer.setView(this.view);
    if (this.isNew) this.viewer.revealAfter();
    this.isNew = false;
    if (this.view === "difference") {
      const changed = await this.viewer.drawDifference();
      tell(byId("picture-name", HTMLElement), `${(100 * changed).toFixed(changed < 0.1 ? 1 : 0)} % of the pixels differ`);
    }
  }

  /** @param {Picture} picture */
  name(picture) {
    tell(byId("picture-name", HTMLElement), `${picture.name} · ${picture.width} × ${picture.height}`);
  }
}
