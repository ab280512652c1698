// Undo and redo: a line of documents and a place on it, kept over a reload of the page.

const LONGEST = 200;

export class History {
  /** `key`: the session's id; what an earlier page of this tab kept is taken up if it ends in `doc`. */
  constructor(doc, key) {
    this.key = `history ${key}`;
    this.line = [{ doc, label: "" }];
    this.at = 0;
    const kept = this.#kept();
    if (kept && JSON.stringify(kept.line[kept.at].doc) === JSON.stringify(doc)) Object.assign(this, kept);
  }

  get doc() { return this.line[this.at].doc; }
  /** What undo would undo, "" when nothing. */
  get undoLabel() { return this.line[this.at].label; }
  get redoLabel() { return this.line[this.at + 1]?.label ?? ""; }
  /** The largest object number on the whole line, so that a new object never takes one that redo may bring back. */
  get taken() { return Math.max(0, ...this.line.flatMap(({ doc }) => doc.objects.map(({ id }) => id))); }

  push(doc, label) {
    this.line = [...this.line.slice(0, this.at + 1), { doc, label }].slice(-LONGEST);
    this.at = this.line.length - 1;
    this.#keep();
  }

  undo() {
    this.at = Math.max(0, this.at - 1);
    this.#keep();
    return this.doc;
  }

  redo() {
    this.at = Math.min(this.line.length - 1, this.at + 1);
    this.#keep();
    return this.doc;
  }

  /** Takes back the newest step as if it had never been: the server refused it. */
  drop(doc) {
    this.line = [...this.line.slice(0, this.at), { doc, label: this.line[this.at - 1]?.label ?? "" }];
    this.at = this.line.length - 1;
    this.#keep();
  }

  #kept() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key));
    } catch {
      return null; // written by another version, or storage is off
    }
  }

  #keep() {
    const masks = this.doc.objects.reduce((sum, { frames }) => sum + Object.values(frames).filter(({ mask }) => mask).length, 0);
    const many = masks > 8 ? 2 : 60; // masks are long; storage is 5 MB, and writing it takes time
    const first = Math.max(0, Math.min(this.at, this.line.length - many));
    try {
      sessionStorage.setItem(this.key, JSON.stringify({ line: this.line.slice(first, first + many), at: this.at - first }));
    } catch {
      // storage is off or full: undo works until the page is reloaded
    }
  }
}
