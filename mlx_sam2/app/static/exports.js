// What goes out: mask PNGs, cut-outs, COCO, overlays and the project, each made by a job of the server.
import * as api from "./api.js";
import { chooseFormat } from "./datasets.js";
import { announce, byId, handOver, openMenu, toast } from "./dom.js";
import { Edges } from "./edges.js";
import { Film } from "./film.js";

const WITH_EDGES = ["masks", "cutouts", "film", "matte", "picture"];
const FILMS = ["film", "matte", "overlay"]; // between the in and out points

export class Exports {
  constructor(app) {
    this.app = app;
    this.button = byId("export");
    this.button.addEventListener("click", () => this.menu());
    this.edges = new Edges(app);
    this.film = new Film(app);
    this.note = null; // the message that shows how far it is
  }

  menu() {
    const { session } = this.app;
    if (!session || this.button.disabled) return;
    const many = session.video;
    const hidden = session.doc.objects.filter(({ visible }) => !visible).length;
    openMenu(this.button, [
      ...(hidden ? [{ label: `Without ${hidden === 1 ? "the hidden object" : `${hidden} hidden objects`}`, note: "What is hidden is in no export but the project." }, null] : []),
      ...(session.isCut ? [{ label: `Films of frames ${session.range.first + 1} to ${session.range.last + 1}`, note: "Between the in and out points" }, null] : []),
      ...(session.hasMask ? [{ label: "Copy cut-out", note: "The active object, to paste anywhere", act: () => this.app.cutouts.copy() }, null] : []),
      { label: "Mask PNGs", note: many ? "One picture for each object and frame" : "One black and white picture for each object", act: () => this.make("masks") },
      { label: "Cut-outs", note: "The objects on a transparent ground", act: () => this.make("cutouts") },
      { label: "COCO JSON", note: "Run lengths, boxes and areas", act: () => this.make("coco") },
      { label: "Data set…", note: "YOLO, COCO video, Label Studio, CVAT, …", act: () => chooseFormat(this.app, this.button) },
      many ? { label: "Overlay video", note: "MP4 with the masks drawn in", act: () => this.make("overlay") }
        : { label: "Overlay picture", note: "PNG with the masks drawn in", act: () => this.make("overlay") },
      ...(many ? [{ label: "Overlay of this frame", note: "PNG", act: () => this.make("overlay", session.frame) }] : []),
      null,
      many ? { label: "Film…", note: "ProRes, HEVC, WebM, files with alpha; mattes; other backgrounds", act: () => this.film.open() }
        : { label: "Effect…", note: "Blur, pixelate or replace the background or the objects", act: () => this.film.open() },
      { label: "Edges…", note: this.edges.text(), act: () => this.edges.open() },
      null,
      { label: "Project", note: "Everything, to open again later", act: () => this.make("project") },
    ]);
  }

  async make(format, frame = null, more = {}) {
    const { session } = this.app;
    if (!session) return;
    if (session.job) {
      toast("Something is still running. Stop it or wait until it is done, then export.", { error: true });
      return;
    }
    const { objects } = session.doc;
    if (format !== "project" && !objects.some(({ visible }) => visible)) {
      toast(objects.length ? "Every object is hidden, and what is hidden is not exported: show one first." : "There is nothing to export yet: click an object first.", { error: true });
      return;
    }
    this.note = toast("Preparing the export", { stay: true, action: ["Cancel", () => session.cancel()], key: "export" });
    const edges = WITH_EDGES.includes(format) ? this.edges.settings : {};
    const range = FILMS.includes(format) && session.isCut && frame === null ? session.range : {};
    await session.start("export", { format, frame, edges, ...more, ...range });
  }

  /** The job went on or ended. */
  show(ended) {
    const { session } = this.app;
    const job = session.job?.kind === "export" ? session.job : null;
    this.button.disabled = !session.ready;
    if (job?.total > 1) this.note?.progress(job.done / job.total);
    if (job) return;
    this.note?.close();
    this.note = null;
    if (ended?.kind !== "export" || !ended.isOurs) return;
    if (ended.status === "done") this.#save(session, ended.id);
    if (ended.status === "cancelled") announce("Export cancelled");
  }

  async #save(session, job) {
    try {
      const { blob, name } = await api.exported(session.id, job);
      handOver(blob, name);
      toast(`${name} is made: your browser saves it, or asks you where.`, { action: ["Save again", () => handOver(blob, name)] });
    } catch (error) {
      session.problem(error);
    }
  }
}
