// Masks that come in from other tools: annotations in JSON, or mask pictures. They become objects, as one edit.
import * as api from "./api.js";
import { make } from "./dom.js";

export class Imports {
  constructor(app) {
    this.app = app;
    this.picker = make("input", { type: "file", id: "pick-masks", hidden: "", accept: ".json,.png,.tif,.tiff,.bmp" });
    document.body.append(this.picker);
    this.all = false;
    this.picker.addEventListener("change", () => {
      const [file] = this.picker.files;
      this.picker.value = "";
      if (file) this.take(file);
    });
  }

  /** Asks for a file, for what is open or for all pictures of the gallery. */
  pick(all = false) {
    this.all = all;
    this.picker.click();
  }

  async take(file) {
    if (this.all) await this.app.all.importMasks(file);
    else await this.#one(file);
  }

  async #one(file) {
    const { app } = this, { session } = app;
    if (!session) return;
    try {
      const before = session.doc.objects.length;
      session.importing = true;
      await session.sync.edit(async () => ({})); // the last clicks have arrived
      session.noteMasks();
      await api.importMasks(session.id, file, session.frame);
      await session.refresh();
      await session.sync.edit(async () => ({})); // its objects are here
      const count = session.doc.objects.length - before;
      app.say(`${count === 1 ? "One object has" : `${count} objects have`} come in.`);
    } catch (error) {
      app.problem(error);
    } finally {
      session.importing = false;
    }
  }
}
