// One open picture or video: its document, masks, tracking and jobs, kept in step with the server. The panels and
// the canvas listen to its events: doc, masks, frame, picture, tracks, job, status, waiting, connection, problem.
import * as api from "./api.js";
import { find, freeColour, freeId, fromServer, isEmpty, promptsOf, withObject } from "./document.js";
import { Frames } from "./frames.js";
import { History } from "./history.js";
import { Jobs } from "./jobs.js";
import { Regions } from "./regions.js";
import { Sync } from "./sync.js";
import { TRACKED, Tracks } from "./tracks.js";

const answerKey = (object, frame, prompts) => `${object} ${frame} ${JSON.stringify(prompts)}`;

export class Session extends EventTarget {
  constructor(info) {
    super();
    for (const key of ["id", "kind", "name", "width", "height", "frames", "fps", "status"]) this[key] = info[key];
    this.message = info.message ?? "";
    this.doc = fromServer(info);
    this.history = new History(this.doc, this.id);
    this.sync = new Sync(this.id, this.doc, {
      answered: (step, result) => this.#answered(step, result),
      refused: (error, doc) => this.#refused(error, doc),
      waiting: (waiting) => this.tell("waiting", waiting),
      offline: () => this.#connected(false),
    });
    this.tracks = new Tracks(this.frames);
    this.tracks.read(info.timeline);
    this.frame = 0; // that is wanted
    this.seen = null; // that is on the screen: the painter says so
    this.active = this.doc.objects[0]?.id ?? null; // null: the next click begins a new object
    this.#takePlace();
    this.masks = new Map(); // frame -> Map of object -> mask
    this.candidates = new Map(); // "object frame" -> {masks, chosen}
    this.answers = new Map(); // what the server said to equal prompts: shown at once on undo
    this.pictures = new Frames(this, {
      arrived: (number) => this.tell("picture", number), failed: (error) => this.problem(error),
      needed: () => (this.seen === null ? [this.frame] : [this.frame, this.seen]),
    });
    this.fetching = 0; // requests for masks under way
    this.jobs = new Jobs(this);
    this.regions = new Regions();
    this.connected = true;
    this.#listen();
    this.jobs.take(info.jobs);
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  on(type, handler) {
    this.addEventListener(type, (event) => handler(event.detail));
    return this;
  }

  problem(error) {
    if (error instanceof api.ApiError && error.offline) this.#connected(false);
    else this.tell("problem", error);
  }

  get video() { return this.kind === "video"; }
  get ready() { return this.status === "ready"; }
  /** Whether the active object has a mask, or prompts for one, on this frame. */
  get hasMask() { return !isEmpty(this.prompts) || this.tracks.at(this.active, this.frame) === TRACKED; }
  get prompts() { return promptsOf(this.doc, this.active, this.frame); }

  /** Where the user is, kept over a reload of the page. */
  keepPlace() {
    try {
      sessionStorage.setItem(`place ${this.id}`, JSON.stringify({ frame: this.frame, active: this.active }));
    } catch {
      // storage is off: the page begins at the first frame
    }
  }

  #takePlace() {
    try {
      const { frame, active } = JSON.parse(sessionStorage.getItem(`place ${this.id}`)) ?? {};
      if (frame > 0 && frame < this.frames) this.frame = frame;
      if (find(this.doc, active)) this.active = active;
    } catch {
      // as above
    }
  }

  close() {
    this.closed = true;
    this.sync.stopped = true;
    this.stopListening();
    this.pictures.close();
  }

  // ---- the document

  change(doc, label) {
    if (doc === this.doc) return;
    this.history.push(doc, label);
    this.#show(doc);
  }

  undo() {
    const label = this.history.undoLabel;
    if (label) this.#show(this.history.undo());
    return label;
  }

  redo() {
    const label = this.history.redoLabel;
    if (label) this.#show(this.history.redo());
    return label;
  }

  /** The active object, made if there is none: {doc, id, color}. */
  withActive() {
    if (find(this.doc, this.active)) return { doc: this.doc, id: this.active };
    const id = freeId(this.doc, this.history.taken);
    this.active = id;
    return { doc: withObject(this.doc, id), id };
  }

  get activeColour() { return find(this.doc, this.active)?.color ?? freeColour(this.doc); }

  select(id) {
    if (id === this.active) return;
    this.active = id;
    this.tell("doc");
    if (this.ready) this.askAgain();
  }

  #show(doc) {
    const before = this.doc;
    this.doc = doc;
    const added = doc.objects.find(({ id }) => !find(before, id));
    if (added) this.active = added.id;
    else if (!find(doc, this.active)) this.active = doc.objects.at(-1)?.id ?? null;
    for (const { id } of before.objects) if (!find(doc, id)) this.#forget(id);
    for (const object of doc.objects) {
      for (const [frame, prompts] of Object.entries(object.frames)) {
        if (find(before, object.id)?.frames[frame] === prompts) continue;
        const known = this.answers.get(answerKey(object.id, frame, prompts));
        if (known) this.#place(object.id, Number(frame), known);
        else this.candidates.delete(`${object.id} ${frame}`);
      }
      for (const frame of Object.keys(find(before, object.id)?.frames ?? {})) {
        if (!object.frames[frame]) this.#place(object.id, Number(frame), { masks: [], chosen: null });
      }
    }
    this.tell("doc");
    this.sync.want(doc);
  }

  #forget(object) {
    for (const masks of this.masks.values()) masks.delete(object);
    for (const key of this.candidates.keys()) if (key.startsWith(`${object} `)) this.candidates.delete(key);
    this.tracks.rows.delete(object);
    this.tell("tracks");
  }

  #place(object, frame, { masks, chosen }) {
    const shown = this.masks.get(frame) ?? new Map();
    this.masks.set(frame, shown);
    if (masks.length) {
      shown.set(object, masks[chosen ?? 0]);
      this.candidates.set(`${object} ${frame}`, { masks, chosen: chosen ?? 0 });
    } else {
      shown.delete(object);
      this.candidates.delete(`${object} ${frame}`);
    }
    this.tell("masks", frame);
  }

  /** What the server will say to these prompts, where that is known. */
  remember(object, frame, prompts, answer) {
    this.answers.set(answerKey(object, frame, prompts), answer);
  }

  #answered(step, result) {
    if (step.what === "prompts" && !isEmpty(step.prompts)) {
      const answer = { masks: result.masks, chosen: result.chosen };
      this.remember(step.object, step.frame, step.prompts, answer);
      const now = promptsOf(this.doc, step.object, step.frame);
      if (JSON.stringify(now) === JSON.stringify(step.prompts)) this.#place(step.object, step.frame, answer);
    }
    const removed = step.what === "delete" || (step.what === "prompts" && isEmpty(step.prompts));
    if (removed && this.video) this.refresh();
  }

  #refused(error, doc) {
    this.history.drop(doc);
    this.#show(doc);
    this.tell("problem", error);
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
    if (this.ready && this.doc.objects.length && !asked) this.fetchMasks(frame);
  }

  /** Whether all that can be shown of a frame has arrived. */
  has(frame) {
    return this.pictures.has(frame) && (!this.doc.objects.length || Boolean(this.masks.get(frame)?.loaded));
  }

  async fetchMasks(frame) {
    const shown = this.masks.get(frame) ?? new Map();
    shown.asked = true;
    this.masks.set(frame, shown);
    this.fetching++;
    try {
      const { masks } = await api.masks(this.id, frame);
      for (const [object, mask] of Object.entries(masks)) if (find(this.doc, Number(object))) shown.set(Number(object), mask);
      shown.loaded = true;
      this.tell("masks", frame);
      await this.askAgain();
    } catch (error) {
      shown.asked = false;
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
      this.#answered({ what: "prompts", object, frame, prompts }, await api.putPrompts(this.id, object, frame, prompts));
    } catch (error) {
      this.problem(error);
    }
  }

  /** Asks the server for the timeline and the masks of this frame again. */
  async refresh() {
    try {
      this.#take(await api.session(this.id));
    } catch (error) {
      this.problem(error);
    }
  }

  #take(info) {
    this.tracks.read(info.timeline);
    if (!this.job) for (const masks of this.masks.values()) masks.asked = false;
    this.setStatus(info.status, info.message);
    this.look();
    this.tell("tracks");
  }

  // ---- jobs

  get job() { return this.jobs.current; }
  start(kind, ask) { return this.jobs.start(kind, ask); }
  cancel() { return this.jobs.cancel(); }
  track(direction) { return this.start("propagate", { frame: this.frame, direction }); }

  #listen() {
    this.stopListening = api.events(this.id, {
      state: (info) => this.#reconnected(info),
      lost: () => this.#connected(false),
      closed: () => this.tell("closed"),
      status: ({ status, message }) => this.setStatus(status, message),
      model: (model) => this.tell("model", model),
      progress: (step) => this.jobs.progressed(step),
      frame: ({ frame, masks }) => this.#tracked(frame, masks),
      job: (job) => this.jobs.changed(job),
      everything: ({ frame, masks }) => this.setRegions(frame, masks),
    });
  }

  #tracked(frame, masks) {
    const shown = this.masks.get(frame) ?? new Map();
    shown.asked = shown.loaded = true;
    this.masks.set(frame, shown);
    for (const [object, mask] of Object.entries(masks)) {
      if (!find(this.doc, Number(object))) continue;
      shown.set(Number(object), mask);
      this.tracks.set(Number(object), frame, mask.area);
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

  // ---- state of the session and the line to it

  setStatus(status, message = "") {
    if (status === this.status && message === this.message) return;
    Object.assign(this, { status, message });
    this.tell("status");
    if (this.ready) this.look();
  }

  #connected(connected) {
    if (connected === this.connected || this.closed) return;
    this.connected = connected;
    this.tell("connection", connected);
    if (!connected) this.#retry();
  }

  /** Asks until the server answers: the events may be alive although a request has failed. */
  async #retry() {
    while (!this.connected && !this.closed) {
      await new Promise((resolve) => setTimeout(resolve, 1500));
      try {
        this.#reconnected(await api.session(this.id));
      } catch (error) {
        if (error.status === 404) this.tell("closed");
        if (!error.offline) return;
      }
    }
  }

  #reconnected(info) {
    this.#connected(true);
    this.sync.resume();
    this.jobs.take(info.jobs);
    this.#take(info);
    this.tell("job");
  }
}
