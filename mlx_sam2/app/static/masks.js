// Decoded masks, ready to draw: made in a worker, kept while they are used.

const KEPT = 160; // bitmaps, at least; each is cut to its object

/** Turns run lengths into {bitmap, path, x, y, width, height}, or null where the mask is empty. */
export class MaskPool {
  constructor() {
    this.worker = new Worker(new URL("./mask_worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.#arrived(data);
    this.waiting = new Map(); // id -> {resolve, reject}
    this.made = new Map(); // key -> {promise, value}; in order of use
    this.serial = 0;
    this.shown = 0; // how many are drawn at once: more are kept
  }

  /** The drawing if it is there already, undefined while it is being made; `then` runs when it is. */
  peek(rle, colour, then) {
    const entry = this.#entry(rle, colour);
    if (!entry.done && then) entry.promise.then(then, (error) => console.error(error));
    return entry.value;
  }

  /** A promise of the drawing. */
  get(rle, colour) {
    return this.#entry(rle, colour).promise;
  }

  #entry(rle, colour) {
    const key = `${colour} ${rle.size} ${rle.of ?? ""} ${rle.counts}`;
    let entry = this.made.get(key);
    if (entry) {
      this.made.delete(key); // and put it last
    } else {
      entry = { value: undefined, done: false };
      const made = entry;
      entry.promise = this.#ask(rle, colour).then((value) => {
        made.value = value;
        made.done = true;
        return value;
      });
    }
    this.made.set(key, entry);
    this.#forget();
    return entry;
  }

  #ask(rle, colour) {
    const id = ++this.serial;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, rle: { size: rle.size, counts: rle.counts, of: rle.of }, colour });
    });
  }

  #arrived({ id, empty, error, bitmap, loops, x, y, width, height }) {
    const { resolve, reject } = this.waiting.get(id);
    this.waiting.delete(id);
    if (error) return reject(new Error(error));
    if (empty) return resolve(null);
    const path = new Path2D();
    for (const loop of loops) {
      path.moveTo(loop[0], loop[1]);
      for (let i = 2; i < loop.length; i += 2) path.lineTo(loop[i], loop[i + 1]);
      path.closePath();
    }
    return resolve({ bitmap, path, x, y, width, height });
  }

  #forget() {
    for (const [key, entry] of this.made) {
      if (this.made.size <= KEPT + 2 * this.shown) return;
      if (!entry.done) continue;
      this.made.delete(key);
      entry.value?.bitmap.close();
    }
  }
}
