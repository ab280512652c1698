// Brings the server's document to the page's: one request at a time, always towards the newest document.
import * as api from "./api.js";
import { difference, withLooks, withObject, withoutObject, withPrompts, find } from "./document.js";

/** The document after a step of `difference` was taken. */
function after(doc, step) {
  if (step.what === "delete") return withoutObject(doc, step.object);
  const known = find(doc, step.object) ? doc : withObject(doc, step.object);
  const seen = step.looks ? withLooks(known, step.object, step.looks) : known;
  return step.what === "prompts" ? withPrompts(seen, step.object, step.frame, step.prompts) : seen;
}

export class Sync {
  /**
   * `answered(step, result)` after each request; `refused(error, step, doc)` when the server says no, with the document
   * that it has; `waiting(true or false)` while requests are under way; `offline()` when it can't be reached.
   */
  constructor(id, doc, { answered, refused, waiting, offline }) {
    Object.assign(this, { id, done: doc, target: doc, answered, refused, waiting, offline });
    this.running = false;
    this.bare = new Set(); // objects that the server has made for their first prompt: their looks are still owed
  }

  /** Makes this document the goal. What is under way is finished first, what has become needless is left out. */
  want(doc) {
    this.target = doc;
    this.#run();
  }

  /** Tries again after the connection came back. */
  resume() {
    this.#run();
  }

  get idle() { return !this.running && this.target === this.done && !this.bare.size; }

  async #run() {
    if (this.running || this.stopped) return;
    this.running = true;
    this.waiting(true);
    try {
      for (;;) {
        const step = this.#next();
        if (!step) break;
        const result = await this.#take(step);
        this.done = after(this.done, step);
        if (step.what === "prompts" && step.looks) this.bare.add(step.object);
        else if (step.what !== "prompts") this.bare.delete(step.object);
        this.answered(step, result);
      }
      this.done = this.target;
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      if (error.offline) {
        this.offline();
      } else {
        this.target = this.done;
        this.refused(error, this.done);
      }
    } finally {
      this.running = false;
      this.waiting(false);
    }
  }

  /** The next request. A new object's prompt goes before its looks: somebody is waiting for the mask. */
  #next() {
    const steps = difference(this.done, this.target);
    const [first] = steps;
    if (first?.what === "object" && !find(this.done, first.object)) {
      const prompts = steps.find(({ what, object }) => what === "prompts" && object === first.object);
      if (prompts) return { ...prompts, looks: first.looks };
    }
    for (const object of this.bare) {
      const wanted = find(this.target, object);
      if (wanted) return { what: "object", object, looks: { name: wanted.name, color: wanted.color, visible: wanted.visible } };
    }
    return first;
  }

  #take(step) {
    if (step.what === "delete") return api.deleteObject(this.id, step.object);
    if (step.what === "object") return api.putObject(this.id, step.object, step.looks);
    const { points, box, choice, mask, score, refine } = step.prompts;
    return api.putPrompts(this.id, step.object, step.frame, { points, box, choice, mask, score, refine });
  }
}
