// Pictures of the frames: fetched when somebody looks, a few at a time; the frame that the user waits for goes first.
import * as api from "./api.js";

const AT_ONCE = 2; // of the six connections that a browser opens
const KEPT_BYTES = 256e6;
const SIDES = [640, 960, 1280, 1600, 2400, 4096]; // the longer side of pictures that are asked for, pixels
const FIRST_WAIT = 500, LONGEST_WAIT = 8000; // ms before a picture that did not come is asked for again

const bytesOf = (bitmap) => bitmap.width * bitmap.height * 4;

export class Frames {
  /**
   * `arrived(number)` when a picture is there; `failed(error)` when it can't be had; `needed()` gives the frames that
   * are shown and wanted, the wanted one first: they are fetched before all others and never dropped.
   */
  constructor(session, { arrived, failed, needed }) {
    Object.assign(this, { session, arrived, failed, needed });
    this.side = 1280; // of what is asked for: as large as it is shown
    this.hurries = false; // small pictures do, while the user drags
    this.rests = false; // while the browser plays the file itself
    this.kept = new Map(); // number -> ImageBitmap, in order of use
    this.sides = new Map(); // number -> the side that it was asked for with; 0: it was lent
    this.wishes = []; // newest last
    this.busy = new Map(); // number -> AbortController
    this.bytes = 0;
    this.limit = KEPT_BYTES;
    this.wait = FIRST_WAIT;
  }

  get any() { return this.kept.size > 0; }

  has(number) { return this.kept.has(number); }

  /** Whether a picture is there that is as large as it is shown. */
  isFine(number) { return this.has(number) && this.sides.get(number) >= (this.hurries ? SIDES[0] : this.side); }

  /** Says how many pixels of the screen a pixel of the picture has: what is shown is asked for again if it is too small. */
  shownAt(scale) {
    const { width, height } = this.session;
    const longest = Math.max(width, height) * Math.min(scale, 1);
    this.side = SIDES.find((side) => side >= longest) ?? SIDES.at(-1);
    if (this.any) this.#next();
  }

  /** The user drags, or has come to rest. */
  hurry(on) {
    this.hurries = on;
    if (!on) this.#next();
  }

  /** Others lend all pictures now, or do not any more. */
  rest(on) {
    this.rests = on;
    if (!on) this.#next();
  }

  /** Shows a picture that is not the server's until that comes. */
  lend(number, bitmap) { this.#keep(number, bitmap, 0); }

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
    if (this.closed) return;
    if (!this.isFine(number) && !this.busy.has(number)) {
      this.wishes = [...this.wishes.filter((other) => other !== number), number].slice(-12);
    }
    this.#next();
  }

  /** Forgets wishes that were not begun: the user has scrubbed on. */
  drop() {
    this.wishes = [];
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    for (const abort of this.busy.values()) abort.abort();
    for (const bitmap of this.kept.values()) bitmap.close();
    this.kept.clear();
  }

  /** The next frame to fetch: one that is needed, else the newest wish. */
  #choose() {
    const missing = this.needed().find((number) => !this.isFine(number) && !this.busy.has(number));
    if (missing !== undefined && !this.timer) return missing;
    let wish;
    do wish = this.wishes.pop();
    while (wish !== undefined && (this.isFine(wish) || this.busy.has(wish)));
    return wish;
  }

  async #next() {
    if (this.closed || this.rests || this.busy.size >= AT_ONCE) return;
    const number = this.#choose();
    if (number === undefined) return;
    const abort = new AbortController();
    this.busy.set(number, abort);
    const side = this.hurries ? Math.min(SIDES[0], this.side) : this.side;
    try {
      const bitmap = await api.frame(this.session.id, number, side, abort.signal);
      if (this.closed) bitmap.close();
      else this.#keep(number, bitmap, side);
    } catch (error) {
      if (error.name !== "AbortError") this.#missed(number, error);
    } finally {
      this.busy.delete(number);
      this.#next();
    }
  }

  #keep(number, bitmap, side) {
    this.wait = FIRST_WAIT;
    this.#remove(number);
    this.kept.set(number, bitmap);
    this.sides.set(number, side);
    this.bytes += bytesOf(bitmap);
    this.#forget(number);
    this.arrived(number);
  }

  /** A picture that somebody waits for is asked for again, after a while that grows; of others nothing is said. */
  #missed(number, error) {
    if (!this.needed().includes(number)) return;
    if (this.wait === FIRST_WAIT) this.failed(error);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = null;
      this.#next();
    }, this.wait);
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
  }

  #forget(newest) {
    const needed = this.needed();
    for (const number of this.kept.keys()) {
      if (this.bytes <= this.limit) return;
      if (number === newest || needed.includes(number)) continue;
      this.#remove(number);
    }
  }

  #remove(number) {
    const bitmap = this.kept.get(number);
    if (!bitmap) return;
    this.kept.delete(number);
    this.bytes -= bytesOf(bitmap);
    bitmap.close();
  }
}
