// Brings the server's document to the page's: one request at a time, always towards the newest document. Every edit
// says which revision it knows; where another tab was faster, its document comes first and ours is put on top. It has a
// number of ours too: when an answer is lost, the session's `clients` say whether the edit was made.
import * as api from "./api.js";
import { applied, carried, difference, find, fromServer } from "./document.js";

export class Sync {
  /**
   * `info` is the session as the server has it, `doc` its document. `answered(step, result)` after each request;
   * `refused(error, doc)` when the server says no, with the document that it has; `moved(info, doc, names, before)` when
   * another tab has edited: what the document is now, objects of ours that got other numbers, and our last revision
   * if all of it had arrived; `tooOld()` when masks of long ago can't come back; `waiting(true or false)`; `offline()`.
   */
  constructor(info, doc, listeners) {
    Object.assign(this, { id: info.id, revision: info.revision, done: doc, target: doc, listeners });
    this.running = false;
    this.restoring = null; // the revision to go back to before all else
    this.behind = 0; // the newest revision of another tab that we have heard of
    this.queue = []; // other edits, such as jobs: they wait until the document has arrived
    this.open = new Map(); // steps without an answer by their number: {step, doc (that was the goal)}
  }

  /** Makes this document the goal, on top of an older revision if one is given. What has become needless is left out. */
  want(doc, revision = null) {
    this.target = doc;
    if (revision !== null) this.restoring = revision;
    this.#run();
  }

  /** Sends another edit once the document has arrived: `send(edit)` gets {revision, client}. Its answer. */
  edit(send) {
    return new Promise((resolve, reject) => {
      this.queue.push({ send, resolve, reject });
      this.#run();
    });
  }

  /** Another tab has edited. */
  heard(revision) {
    this.behind = Math.max(this.behind, revision);
    this.#run();
  }

  /** The session after the connection came back: goes on from there. */
  meet(info) {
    if (this.running) {
      this.heard(info.revision);
    } else {
      if (info.revision === this.revision) this.#settle(fromServer(info));
      else this.#rebase(info);
      this.#run();
    }
  }

  /** Whether the server has all that was asked for. */
  get arrived() { return this.target === this.done && this.restoring === null; }
  get idle() { return !this.running && this.arrived && !this.queue.length && this.behind <= this.revision; }

  async #run() {
    if (this.running) return;
    this.running = true;
    this.listeners.waiting(true);
    try {
      while (await this.#step());
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      if (error.offline || error.status === 404) {
        this.listeners.offline(); // or the session is not open any more: the same
      } else {
        Object.assign(this, { target: this.done, restoring: null });
        this.listeners.refused(error, this.done);
      }
    } finally {
      this.running = false;
      this.listeners.waiting(false);
    }
  }

  /** One request; whether there was something to do. */
  async #step() {
    const step = this.#next();
    if (!step) this.done = this.target;
    if (this.behind > this.revision) await this.#catchUp();
    else if (step) await this.#take(step);
    else if (this.queue.length) await this.#other(this.queue[0]);
    else return false;
    return true;
  }

  /** The next step. A new object's prompt goes before its looks: somebody is waiting for the mask. */
  #next() {
    if (this.restoring !== null) return { what: "restore", revision: this.restoring };
    const steps = difference(this.done, this.target);
    const [first] = steps;
    if (first?.what === "object" && !find(this.done, first.object)) {
      const prompts = steps.find(({ what, object }) => what === "prompts" && object === first.object);
      if (prompts) return { ...prompts, looks: first.looks };
    }
    return first;
  }

  async #take(step) {
    let result;
    try {
      result = await this.#send(step);
    } catch (error) {
      if (error.session) return this.#rebase(error.session);
      if (step.what !== "restore" || error.status !== 404 || !(await this.#isOpen())) throw error;
      this.restoring = null; // its prompts come back one by one
      return this.listeners.tooOld();
    }
    this.revision = result.revision;
    if (step.what === "restore") {
      this.restoring = this.restoring === step.revision ? null : this.restoring;
      this.#settle(fromServer(result));
    } else {
      const { name, color, visible } = result.object ?? {}; // an object that its first prompt has made looks as the server likes
      this.#settle(applied(this.done, result.object ? { ...step, looks: { name, color, visible } } : step));
    }
    return this.listeners.answered(step, result);
  }

  async #isOpen() {
    try {
      return Boolean(await api.session(this.id));
    } catch {
      return false; // the error before says why
    }
  }

  /** Goes on from what the server has: nothing that was sent is in doubt any more. */
  #settle(doc) {
    this.done = doc;
    this.open.clear();
  }

  #send(step) {
    const edit = { revision: this.revision, client: api.CLIENT, edit: api.nextEdit() };
    this.open.set(edit.edit, { step, doc: this.target });
    if (step.what === "restore") return api.restore(this.id, step.revision, edit);
    if (step.what === "delete") return api.deleteObject(this.id, step.object, edit);
    if (step.what === "lock") return api.putLock(this.id, step.object, step.frame, step.locked, edit);
    if (step.what === "object") return api.putObject(this.id, step.object, step.looks, edit);
    return api.putPrompts(this.id, step.object, step.frame, step.prompts, edit);
  }

  async #other(item) {
    try {
      item.number ??= api.nextEdit();
      const result = await item.send({ revision: this.revision, client: api.CLIENT, edit: item.number });
      this.revision = result.revision ?? this.revision;
      item.resolve(result);
    } catch (error) {
      if (error.code === "repeated") item.number = null; // its answer was lost: it is asked for again
      if (error.session) return this.#rebase(error.session);
      if (error.offline || (error.status === 404 && !(await this.#isOpen()))) throw error; // it is sent when the server is back
      item.reject(error);
    }
    return this.queue.shift();
  }

  async #catchUp() {
    const heard = this.behind;
    const info = await api.session(this.id);
    if (this.behind === heard) this.behind = info.revision; // else another one was heard of meanwhile
    this.#rebase(info);
  }

  /** The newest document that we know the server had, by the number of our last edit that it has made. */
  #base(info, theirs) {
    const made = this.open.get(info.clients[api.CLIENT]);
    if (!made) return this.done;
    if (info.revision === this.revision + 1) return theirs; // nobody else has edited since
    return made.step.what === "restore" ? made.doc : applied(this.done, made.step);
  }

  /** Goes on from the server's document with what we have changed. */
  #rebase(info) {
    const theirs = fromServer(info);
    const before = this.arrived ? this.revision : null;
    const base = this.#base(info, theirs);
    // a server that has forgotten our last edits (its disk was full when it was killed) gets them again
    const { doc, names } = info.revision < this.revision ? { doc: this.target, names: new Map() } : carried(base, this.target, theirs);
    Object.assign(this, { revision: info.revision, restoring: null });
    this.#settle(theirs);
    this.target = difference(theirs, doc).length ? doc : theirs;
    this.listeners.moved(info, this.target, names, before);
  }
}
