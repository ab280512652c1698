// One open picture or video: its document, masks, tracking and jobs, kept in step with the server. The panels and
// the canvas listen to its events: doc, masks, frame, picture, tracks, job, status, waiting, connection, problem.
import * as api from "./api.js";
import { difference, find, freeColour, freeId, fromServer, isEmpty, promptsOf, withLooks, withObject } from "./document.js";
import { Doubts } from "./doubts.js";
import { Frames } from "./frames.js";
import { History } from "./history.js";
import { Jobs } from "./jobs.js";
import { Line } from "./line.js";
import { Regions } from "./regions.js";
import { Results } from "./results.js";
import { Sync } from "./sync.js";
import { TRACKED, Tracks } from "./tracks.js";

const MASKS_AT_ONCE = 4; // requests, while the browser plays the file itself

export class Session extends EventTarget {
  constructor(info) {
    super();
    for (const key of ["id", "kind", "name", "width", "height", "frames", "fps", "status", "oldest", "saving"]) this[key] = info[key];
    this.message = info.message ?? "";
    this.doc = fromServer(info);
    this.history = new History(this.doc, this.id);
    this.sync = new Sync(info, this.doc, {
      answered: (step, result) => this.#answered(step, result),
      refused: (error, doc) => this.#refused(error, doc),
      moved: (moved, doc, names, before) => this.#moved(moved, doc, names, before),
      tooOld: () => this.tell("said", "That is too long ago for its masks: the prompts have come back, track again for the rest."),
      waiting: (waiting) => this.tell("waiting", waiting),
      offline: () => this.line.lost(),
    });
    this.tracks = new Tracks(this.frames);
    this.tracks.read(info.timeline);
    this.doubts = new Doubts(this);
    this.range = { first: 0, last: this.frames - 1 }; // in and out points
    this.frame = 0; // that is wanted
    this.seen = null; // that is on the screen: the painter says so
    this.importing = false; // masks come in: an edit of the server's that is ours
    this.nextName = null; // of new objects, where the gallery has classes
    this.active = this.doc.objects[0]?.id ?? null; // null: the next click begins a new object
    this.#takePlace();
    this.results = new Results();
    this.pictures = new Frames(this, {
      arrived: (number) => this.tell("picture", number), failed: (error) => this.problem(error),
      needed: () => (this.seen === null ? [this.frame] : [this.frame, this.seen]),
    });
    this.fetching = 0; // requests for masks under way
    this.jobs = new Jobs(this);
    this.regions = new Regions(info.id);
    this.line = new Line(this);
    this.jobs.take(info.jobs);
    if (this.video) this.doubts.load();
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  on(type, handler) {
    this.addEventListener(type, (event) => handler(event.detail));
    return this;
  }

  problem(error) {
    if (error instanceof api.ApiError && (error.offline || error.status === 404)) this.line.lost(); // 404: it may have been started again
    else this.tell("problem", error);
  }

  get video() { return this.kind === "video"; }
  get ready() { return this.status === "ready"; }
  get connected() { return this.line.connected; }
  get masks() { return this.results.frames; }
  get candidates() { return this.results.candidates; }
  get prompts() { return promptsOf(this.doc, this.active, this.frame); }
  /** Whether the active object has a mask, or prompts for one, on this frame. */
  get hasMask() { return !isEmpty(this.prompts) || this.tracks.at(this.active, this.frame) === TRACKED; }
  /** Whether there are masks that no prompt gives: those of tracking. */
  get isTracked() { return this.doc.objects.some(({ id, frames }) => this.tracks.framesOf(id).some((frame) => !frames[frame])); }
  /** Whether the server has everything, and has it on disk. */
  get isSaved() { return this.sync.idle && this.connected && this.saving === "on"; }

  /** Whether in and out points leave out something. */
  get isCut() { return this.range.first > 0 || this.range.last < this.frames - 1; }

  /** Where the user is, kept over a reload of the page. */
  keepPlace() {
    try {
      sessionStorage.setItem(`place ${this.id}`, JSON.stringify({ frame: this.frame, active: this.active, range: this.range }));
    } catch {
      // storage is off: the page begins at the first frame
    }
  }

  #takePlace() {
    try {
      const { frame, active, range } = JSON.parse(sessionStorage.getItem(`place ${this.id}`)) ?? {};
      if (frame > 0 && frame < this.frames) this.frame = frame;
      if (find(this.doc, active)) this.active = active;
      if (range?.first >= 0 && range.last >= range.first && range.last < this.frames) this.range = { first: range.first, last: range.last };
    } catch {
      // as above
    }
  }

  /** Nobody looks any more; what has not arrived at the server is still sent. */
  close() {
    this.closed = true;
    this.line.close();
    this.pictures.close();
  }

  // ---- the document

  change(doc, label) {
    if (doc === this.doc) return;
    this.noteMasks();
    this.history.push(doc, label);
    this.#show(doc);
  }

  /** Notes where the server has the present masks, before they are left: undo brings them back from there. */
  noteMasks() {
    if (this.sync.idle) this.history.note(this.sync.revision, this.isTracked);
  }

  undo() { return this.#turn(this.history.undoLabel, () => this.history.undo()); }
  redo() { return this.#turn(this.history.redoLabel, () => this.history.redo()); }

  #turn(label, move) {
    if (!label) return "";
    if (this.job && this.job.kind !== "export") {
      this.tell("said", "Stop what is running first (Esc); then it can be undone.");
      return "";
    }
    this.noteMasks();
    const left = this.history.now;
    const { doc, revision, tracked } = move();
    const needsMasks = this.video && (tracked || left.tracked) && revision !== null && revision >= this.oldest;
    this.#show(doc, needsMasks ? revision : null);
    return label;
  }

  /** The active object, made if there is none: {doc, id, color}. */
  withActive() {
    if (find(this.doc, this.active)) return { doc: this.doc, id: this.active };
    const id = freeId(this.doc, this.history.taken);
    this.active = id;
    return { doc: this.begun(this.doc, id), id };
  }

  /** The document with a new object, of the class that is chosen. */
  begun(doc, id, prompts = {}) {
    const begun = withObject(doc, id, prompts);
    return this.nextName ? withLooks(begun, id, { name: this.nextName }) : begun;
  }

  get activeColour() { return find(this.doc, this.active)?.color ?? freeColour(this.doc); }

  select(id) {
    if (id === this.active) return;
    this.active = id;
    this.tell("doc");
    if (this.ready) this.askAgain();
  }

  /** Shows a document and has it brought to the server, on top of an older revision of it if one is given. */
  #show(doc, revision = null) {
    const before = this.doc;
    this.doc = doc;
    const added = doc.objects.find(({ id }) => !find(before, id));
    if (added) this.active = added.id;
    else if (!find(doc, this.active)) this.active = doc.objects.at(-1)?.id ?? null;
    this.#showKnown(before, doc);
    this.tell("doc");
    this.sync.want(doc, revision);
  }

  /** Takes away masks that have lost their prompts, and shows those that are known from before. */
  #showKnown(before, doc) {
    for (const { id } of before.objects) {
      if (find(doc, id)) continue;
      this.results.forget(id);
      this.tracks.rows.delete(id);
      this.doubts.rows.delete(id);
    }
    for (const object of doc.objects) {
      const old = find(before, object.id)?.frames ?? {};
      for (const [frame, prompts] of Object.entries(object.frames)) {
        if (old[frame] === prompts) continue;
        const known = this.results.recall(object.id, frame, prompts);
        if (known) this.#place(object.id, Number(frame), known);
        else this.candidates.delete(`${object.id} ${frame}`);
      }
      for (const frame of Object.keys(old)) {
        if (!object.frames[frame]) this.#place(object.id, Number(frame), { masks: [], chosen: null });
      }
    }
    this.tell("tracks");
  }

  #place(object, frame, answer) {
    this.results.place(object, frame, answer);
    this.tell("masks", frame);
  }

  remember(object, frame, prompts, answer) { this.results.remember(object, frame, prompts, answer); }

  #answered(step, result) {
    if (step.what === "restore") {
      this.take(result);
      return;
    }
    if (step.what === "prompts" && !isEmpty(step.prompts)) this.#take(step.object, step.frame, step.prompts, result);
    const removed = step.what === "delete" || (step.what === "prompts" && isEmpty(step.prompts));
    if (removed && this.video) this.refresh();
    this.tell("saving");
  }

  /** The masks of prompts: kept, and shown if the prompts are still those. */
  #take(object, frame, prompts, { masks, chosen }) {
    this.remember(object, frame, prompts, { masks, chosen });
    const now = promptsOf(this.doc, object, frame);
    if (JSON.stringify(now) === JSON.stringify(prompts)) this.#place(object, frame, { masks, chosen });
  }

  #refused(error, doc) {
    this.history.drop(doc);
    this.#show(doc);
    this.tell("problem", error);
  }

  /** Another tab has edited: what the document is now becomes a step that can be undone here too. */
  #moved(info, doc, names, before) {
    const active = names.get(this.active) ?? this.active;
    if (before !== null) this.history.note(before, this.isTracked);
    if (before !== null || difference(this.doc, doc).length) this.history.push(doc, this.importing ? "Import" : "Edit in another tab");
    this.#show(doc);
    if (find(doc, active)) this.active = active;
    this.take(info);
    this.tell("doc");
  }

  // ---- frames and their masks

  show(frame, { follow = false } = {}) {
    const wanted = Math.max(0, Math.min(this.frames - 1, Math.round(frame)));
    if (this.job && !follow) this.job.follow = false;
    if (wanted === this.frame) return;
    this.frame = wanted;
    this.pictures.drop();
    this.look();
    this.tell("frame", wanted);
  }

  /** Fetches what the current frame needs: its picture and its masks. */
  look(frame = this.frame) {
    if (this.status === "failed") return;
    this.pictures.want(frame);
    const asked = this.masks.get(frame)?.asked;
    const hurried = this.pictures.rests && this.fetching >= MASKS_AT_ONCE;
    if (this.ready && this.doc.objects.length && !asked && !hurried) this.fetchMasks(frame);
  }

  /** Whether all that can be shown of a frame has arrived. */
  has(frame) {
    return this.pictures.has(frame) && (!this.doc.objects.length || Boolean(this.masks.get(frame)?.loaded));
  }

  async fetchMasks(frame) {
    const asked = this.results.ask(frame);
    this.fetching++;
    try {
      const { masks } = await api.masks(this.id, frame);
      if (!this.results.take(frame, asked, masks, this.doc)) return;
      this.tell("masks", frame);
      await this.askAgain();
    } catch (error) {
      this.results.failed(frame, asked);
      this.problem(error);
    } finally {
      this.fetching--;
    }
  }

  /** After a reload: the three masks of a single click, to choose from. The same prompts always give the same masks. */
  async askAgain() {
    const { active: object, frame, prompts } = this;
    const single = prompts.points.length === 1 && !prompts.box && !prompts.mask;
    if (this.video || !single || this.candidates.has(`${object} ${frame}`) || !this.sync.idle) return;
    try {
      this.#take(object, frame, prompts, await this.sync.edit((edit) => api.putPrompts(this.id, object, frame, prompts, edit)));
    } catch (error) {
      this.problem(error);
    }
  }

  /** Asks the server for the timeline and the masks of this frame again. */
  async refresh() {
    try {
      const info = await api.session(this.id);
      this.take(info);
      if (info.revision > this.sync.revision) this.sync.heard(info.revision);
    } catch (error) {
      this.problem(error);
    }
  }

  /** Timeline, masks and state of the session as the server has them; its document is the business of `sync`. */
  take(info) {
    Object.assign(this, { name: info.name, oldest: info.oldest, saving: info.saving });
    this.tracks.read(info.timeline);
    if (this.video) this.doubts.load();
    this.results.outdate();
    this.setStatus(info.status, info.message);
    this.look();
    this.tell("tracks");
    this.tell("saving");
  }

  // ---- jobs

  get job() { return this.jobs.current; }
  start(kind, ask) { return this.jobs.start(kind, ask); }
  cancel() { return this.jobs.cancel(); }
  track(ask) { return this.start("propagate", ask); }

  tracked(frame, masks) {
    this.results.tracked(frame, masks, this.doc);
    for (const [object, mask] of Object.entries(masks)) {
      if (!find(this.doc, Number(object))) continue;
      this.tracks.set(Number(object), frame, mask.area);
      this.doubts.set(Number(object), frame, mask);
    }
    this.tell("tracks");
    if (this.job?.follow) {
      const way = Math.sign(frame - this.frame);
      this.show(frame, { follow: true });
      for (let ahead = 4; ahead > 0 && way; ahead--) if (frame + way * ahead >= 0 && frame + way * ahead < this.frames) this.pictures.want(frame + way * ahead);
    }
    if (frame === this.frame) this.tell("masks", frame);
  }

  setRegions(frame, masks) {
    this.regions.set(frame, masks);
    this.tell("regions", { frame, masks });
  }

  regionsAt(frame) { return this.regions.at(frame, this.doc); }

  setStatus(status, message = "") {
    if (status === this.status && message === this.message) return;
    Object.assign(this, { status, message });
    this.tell("status");
    if (this.ready) this.look();
  }
}
