// Regions that everything-mode has found. They belong to their frame; one that is kept as an object is listed no more,
// and comes back when that is undone. They are kept over a reload of the page.
const NONE = Object.freeze([]);

export class Regions {
  /** `id`: the session's. */
  constructor(id) {
    this.key = `regions ${id}`;
    this.found = new Map(); // frame -> masks, the largest first
    this.last = {}; // what `at` said, for equal questions
    try {
      this.found = new Map(JSON.parse(sessionStorage.getItem(this.key)) ?? []);
    } catch {
      // written by another version, or storage is off
    }
  }

  /** What was found on a frame; null or nothing forgets it. */
  set(frame, masks) {
    if (masks?.length) this.found.set(frame, [...masks].sort((a, b) => b.area - a.area));
    else this.found.delete(frame);
    this.last = {};
    try {
      sessionStorage.setItem(this.key, JSON.stringify([...this.found]));
    } catch {
      sessionStorage.removeItem(this.key); // too many for it, or storage is off: they last until a reload
    }
  }

  /** Those of a frame that are no objects of the document. */
  at(frame, doc) {
    const found = this.found.get(frame);
    if (!found) return NONE;
    if (this.last.frame !== frame || this.last.doc !== doc) {
      const kept = new Set(doc.objects.map(({ frames }) => frames[frame]?.mask?.counts));
      this.last = { frame, doc, masks: found.filter(({ counts }) => !kept.has(counts)) };
    }
    return this.last.masks;
  }
}
