// What is done to all pictures of the gallery at once: one box, everything, and the export as a data set.
import * as api from "./api.js";
import { exportSet, formatsOf } from "./datasets.js";
import { colourName, find, NO_PROMPTS } from "./document.js";
import { byId, openMenu, toast } from "./dom.js";

const AGAIN = 300; // ms between two looks at a job

const pause = () => new Promise((resolve) => setTimeout(resolve, AGAIN));

export class All {
  constructor(app) {
    this.app = app;
    this.button = byId("all-pictures");
    this.button.addEventListener("click", () => this.menu());
  }

  menu() {
    const { session } = this.app;
    const box = session?.prompts.box;
    openMenu(this.button, [
      { label: "Everything, in all pictures", note: "With the settings of the Everything tool", act: () => this.everything() },
      box ? { label: "This box, in all pictures", note: `As “${find(session.doc, session.active).name}”`, act: () => this.boxes() }
        : { label: "One box, in all pictures", note: "Draw it here first." },
      null,
      { label: "Import masks for all pictures…", note: "A COCO file, by the names of the pictures", act: () => this.app.imports.pick(true) },
      null,
      ...formatsOf(false).map(([format, label, note]) => ({ label: `Export all: ${label}`, note, act: () => this.export(format) })),
    ]);
  }

  /** Does something to each picture, the others opened first: `act(session as the server has it)`. Whether all were done. */
  async #each(label, act) {
    const { pictures } = this.app.gallery;
    let stopped = false;
    const note = toast(label, { stay: true, action: ["Stop", () => { stopped = true; }], key: "all" });
    try {
      for (const [at, picture] of pictures.entries()) {
        if (stopped) return false;
        await act(await this.#opened(picture));
        note.progress((at + 1) / pictures.length);
      }
      this.app.gallery.show();
      return true;
    } catch (error) {
      this.app.problem(error);
      return false;
    } finally {
      note.close();
    }
  }

  async #opened(picture) {
    if (picture.id) return api.open(picture.id);
    const info = await api.upload([picture.file], picture.name, () => {}).done;
    picture.id = info.id;
    return info;
  }

  async boxes() {
    const { session } = this.app;
    const { box } = session.prompts, { name, color } = find(session.doc, session.active);
    const here = session.id, across = box.map((value, index) => value / (index % 2 ? session.height : session.width));
    const done = await this.#each(`The box of “${name}” in all pictures`, async (info) => {
      if (info.id === here) return;
      const object = Math.max(0, ...info.objects.map(({ id }) => id)) + 1;
      const there = across.map((value, index) => value * (index % 2 ? info.height : info.width));
      await api.putPrompts(info.id, object, 0, { ...NO_PROMPTS, box: there }, {});
      await api.putObject(info.id, object, { name, color }, {});
    });
    if (done) this.app.say(`Every picture has the box now, ${colourName(color).toLowerCase()}.`);
  }

  async everything() {
    const options = this.app.everything.options();
    let found = 0;
    const done = await this.#each("Everything in all pictures", async (info) => {
      let job = await api.everything(info.id, { ...options, frame: 0, as_objects: true }, {});
      while (job.status === "queued" || job.status === "running") {
        await pause();
        job = await api.job(info.id, job.id);
      }
      if (job.status === "failed") throw new Error(`${info.name}: ${job.message}`);
      const { objects } = await api.session(info.id);
      found += objects.length - info.objects.length;
    });
    if (done) this.app.say(`${found} objects were found in ${this.app.gallery.pictures.length} pictures.`);
  }

  /** The pictures that a file of annotations names get its masks. */
  async importMasks(file) {
    let found = 0, last = null;
    const done = await this.#each("Importing masks", async (info) => {
      try {
        await api.importMasks(info.id, file, 0);
        found++;
      } catch (error) {
        if (error.code !== "empty") throw error;
        last = error; // of another picture
      }
    });
    if (!done) return;
    if (!found && last) this.app.problem(last);
    else this.app.say(`${found} of ${this.app.gallery.pictures.length} pictures have got masks.`);
  }

  async export(format) {
    if (!(await this.#each("Preparing the export", async () => {}))) return;
    await exportSet(this.app, this.app.gallery.pictures.map(({ id }) => id), format);
  }
}
