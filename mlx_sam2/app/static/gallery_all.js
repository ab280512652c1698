// What is done to all pictures of the gallery at once: one box, everything, and the export as a data set.
import * as api from "./api.js";
import { colourName, find, NO_PROMPTS } from "./document.js";
import { byId, openMenu, toast } from "./dom.js";
import { handOver } from "./exports.js";

const FORMATS = [
  ["coco", "COCO", "One JSON file, and the pictures"], ["yolo", "YOLO", "Outlines for training segmentation"],
  ["voc", "Pascal VOC", "Pictures of classes and objects"], ["masks", "Mask PNGs", "One black and white picture for each object"],
];
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
      ...FORMATS.map(([format, label, note]) => ({ label: `Export all: ${label}`, note, act: () => this.export(format) })),
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

  async export(format) {
    const { classes, gallery, session } = this.app;
    await session?.sync.edit(async () => ({})); // the last clicks have arrived
    if (!(await this.#each("Preparing the export", async () => {}))) return;
    const note = toast("Preparing the export", { stay: true, key: "all" });
    try {
      const sessions = gallery.pictures.map(({ id }) => id);
      const blob = await api.collection({ sessions, format, classes: classes.names });
      handOver(blob, `${format}.zip`);
      this.app.say(`${format}.zip is made: your browser saves it, or asks you where.`);
    } catch (error) {
      this.app.problem(error);
    } finally {
      note.close();
    }
  }
}
