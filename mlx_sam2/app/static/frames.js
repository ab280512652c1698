// Pictures of the frames: fetched when somebody looks, a few at a time, the newest wish first.
import * as api from "./api.js";

const AT_ONCE = 2; // of the six connections that a browser opens
const KEPT_BYTES = 256e6;

export class Frames {
  /** `arrived(number)` when a picture is there; `failed(error)` when it can't be had. */
  constructor(session, arrived, failed) {
    Object.assign(this, { session, arrived, failed });
    this.side = session.kind === "video" ? 1600 : 4096;
    this.kept = new Map(); // number -> ImageBitmap, in order of use
    this.wishes = []; // newest last
    this.busy = new Map(); // number -> AbortController
    this.bytes = 0;
  }

  get any() { return this.kept.size > 0; }

  has(number) { return this.kept.has(number); }

  /** The picture if it is there. */
  get(number) {
    const bitmap = this.kept.get(number);
    if (bitmap) {
      this.kept.delete(number);
      this.kept.set(number, bitmap);
    }
    return bitmap;
  }

  /** Asks for a picture; of many wishes the newest few are kept. */
  want(number) {
    if (this.kept.has(number) || this.busy.has(number) || this.closed) return;
    this.wishes = [...this.wishes.filter((other) => other !== number), number].slice(-12);
    this.#next();
  }

  /** Forgets wishes that were not begun: the user has scrubbed on. */
  drop() {
    this.wishes = [];
  }

  close() {
    this.closed = true;
    for (const abort of this.busy.values()) abort.abort();
    for (const bitmap of this.kept.values()) bitmap.close();
    this.kept.clear();
  }

  async #next() {
    if (this.busy.size >= AT_ONCE || !this.wishes.length) return;
    const number = this.wishes.pop();
    const abort = new AbortController();
    this.busy.set(number, abort);
    try {
      const bitmap = await api.frame(this.session.id, number, this.side, abort.signal);
      if (this.closed) return;
      this.kept.set(number, bitmap);
      this.bytes += bitmap.width * bitmap.height * 4;
      this.#forget(number);
      this.arrived(number);
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error);
    } finally {
      this.busy.delete(number);
      if (!this.closed) this.#next();
    }
  }

  #forget(newest) {
    for (const [number, bitmap] of this.kept) {
      if (this.bytes <= KEPT_BYTES || number === newest) return;
      this.kept.delete(number);
      this.bytes -= bitmap.width * bitmap.height * 4;
      bitmap.close();
    }
  }
}
