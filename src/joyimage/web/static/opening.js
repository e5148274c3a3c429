/** Open an image: a file, or one of the examples. Each starts a project; the one before is kept. */

import { HEAD_BYTES, isAnimated } from "./animated.js";
import { getExample } from "./api.js";
import { byId, choose, tell } from "./dom.js";
import { askForFile, listenToFiles } from "./files.js";
import { EXAMPLES, findIdeas } from "./ideas.js";
import { currentMode, focusFirst } from "./mode.js";
import { notify, withdraw } from "./notices.js";
import { readPicture } from "./picture.js";
import { sentence } from "./run.js";
import { state } from "./store.js";

/** @import { Example } from "./ideas.js" */
/** @import { RegionTool } from "./regiontool.js" */
/** @import { Server } from "./server.js" */
/** @import { Spatial } from "./spatial.js" */
/** @import { Viewer } from "./viewer.js" */
/** @import { Workspace } from "./workspace.js" */

const READING_MS = 400; // a faster file needs no message

export class Opening {
  /**
   * @param {{workspace: Workspace, server: Server, spatial: Spatial, region: RegionTool, viewer: Viewer}} parts
   * @param {{opened: () => void, openProject: (id: string) => void, run: () => Promise<void>}} on
   */
  constructor({ workspace, server, spatial, region, viewer }, on) {
    this.workspace = workspace;
    this.server = server;
    this.spatial = spatial;
    this.region = region;
    this.viewer = viewer;
    this.on = on;
    const take = (/** @type {File} */ file) => void this.open(file, file.name || "pasted.png");
    listenToFiles(take);
    for (const id of ["choose", "replace"]) {
      byId(id, HTMLElement).addEventListener("click", () => askForFile(take));
    }
    for (const button of document.querySelectorAll("[data-example]")) {
      const name = /** @type {Example} */ (/** @type {HTMLElement} */ (button).dataset.example);
      button.addEventListener("click", () => void this.openExample(name));
    }
    byId("try", HTMLElement).addEventListener("click", () => void this.openExample("shapes").then(on.run));
  }

  /** @param {Blob} file @param {string} name */
  async open(file, name) {
    const left = state.value.project;
    notify("reading", `Reading ${name}…`, { kind: "news", afterMs: READING_MS });
    try {
      const picture = await readPicture(file, name, this.server.limits);
      withdraw("picture");
      this.server.advise(name); // before the image is seen: a message moves it
      this.workspace.commit();
      await this.workspace.leave();
      tell(byId("answer-text", HTMLElement), null);
      if (currentMode() === "generate") choose("mode", "edit");
      this.spatial.box.setSize(picture);
      this.spatial.box.set(null);
      this.region.setSize(picture);
      this.region.set("", "all");
      this.viewer.fit();
      this.workspace.open(picture);
      this.on.opened();
      this.workspace.commit();
      focusFirst();
      await this.adviseOnFrames(file, name);
      if (!left || left.attempts.length < 2) return withdraw("project");
      const action = { label: `Back to ${left.name}`, run: () => this.on.openProject(left.id) };
      notify("project", `${left.name} and its edits are saved under Projects.`, { kind: "news", action });
    } catch (error) {
      notify("picture", sentence(error));
    } finally {
      withdraw("reading");
    }
  }

  /** Say of an animation what becomes of it. @param {Blob} file @param {string} name */
  async adviseOnFrames(file, name) {
    const head = new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer());
    if (!isAnimated(head)) return withdraw("frames");
    notify("frames", `${name} is animated. Only its first frame is edited.`, { kind: "news" });
  }

  /** @param {Example} name */
  async openExample(name) {
    const { mode, object } = EXAMPLES[name];
    try {
      const file = await getExample(name);
      choose("mode", mode);
      byId("prompt-edit", HTMLTextAreaElement).value = findIdeas("edit", name, this.server.isTiny)[0] ?? "";
      this.spatial.setObject(object);
      await this.open(file, `${name}.png`);
    } catch (error) {
      notify("picture", sentence(error));
    }
  }
}
