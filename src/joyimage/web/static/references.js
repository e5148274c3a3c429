/** Further pictures, for checkpoints that take several. */

import { byId, make } from "./dom.js";
import { askForFile } from "./files.js";
import { notify } from "./notices.js";
import { readPicture } from "./picture.js";
import { sentence } from "./run.js";

/** @import { Limits } from "./types.js" */
/** @import { Workspace } from "./workspace.js" */

const USUAL_MOST = 16;

export class References {
  /** @param {Workspace} workspace @param {() => Limits | null} limits */
  constructor(workspace, limits) {
    this.workspace = workspace;
    this.limits = limits;
    byId("reference-add", HTMLElement).addEventListener("click", () => askForFile((file) => void this.add(file)));
  }

  /** @param {File} file */
  async add(file) {
    const { references } = this.workspace;
    const most = this.limits()?.max_images ?? USUAL_MOST;
    try {
      if (references.length + 1 >= most) throw new Error(`This server accepts at most ${most} pictures.`);
      const picture = await readPicture(file, file.name, this.limits());
      this.workspace.pictures.set(picture.id, picture);
      this.workspace.setReferences([...references.map(({ id }) => id), picture.id]);
    } catch (error) {
      notify("picture", sentence(error));
    }
  }

  render() {
    byId("reference-list", HTMLElement).replaceChildren(
      ...this.workspace.references.map((picture, place) => {
        const remove = () => {
          this.workspace.setReferences(this.workspace.references.filter((_, n) => n !== place).map(({ id }) => id));
          byId("reference-add", HTMLElement).focus();
        };
        return make(
          "li",
          {},
          make("img", { src: picture.thumbnail, alt: `Image ${place + 2}: ${picture.name}` }),
          make("button", { type: "button", class: "quiet icon", "aria-label": `Remove image ${place + 2}, ${picture.name}`, click: remove }, "✕"),
        );
      }),
    );
  }
}
