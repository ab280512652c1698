// Undo and redo: a line of documents and a place on it, kept over a reload of the page. Each knows the revision of the
// server that had its masks too, as soon as it is left.

const LONGEST = 200;

const entry = (doc, label) => ({ doc, label, revision: null, tracked: false });

export class History {
  /** `key`: the session's id; what an earlier page of this tab kept is taken up, with `doc` on top if it is another one. */
  constructor(doc, key) {
    this.key = `history ${key}`;
    this.line = [entry(doc, "")];
    this.at = 0;
    const kept = this.#kept();
    if (!kept) return;
    Object.assign(this, kept);
    if (JSON.stringify(this.doc) === JSON.stringify(doc)) this.line[this.at].doc = doc;
    else this.push(doc, "Edit in another tab");
  }

  get now() { return this.line[this.at]; }
  get doc() { return this.now.doc; }
  /** What undo would undo, "" when nothing. */
  get undoLabel() { return this.now.label; }
  get redoLabel() { return this.line[this.at + 1]?.label ?? ""; }
  /** The largest object number on the whole line, so that a new object never takes one that redo may bring back. */
  get taken() { return Math.max(0, ...this.line.flatMap(({ doc }) => doc.objects.map(({ id }) => id))); }

  /** Notes where the server has the present document, and whether masks hang on it that prompts alone don't give. */
  note(revision, tracked) {
    Object.assign(this.now, { revision, tracked });
  }

  push(doc, label) {
    this.line = [...this.line.slice(0, this.at + 1), entry(doc, label)].slice(-LONGEST);
    this.at = this.line.length - 1;
    this.#keep();
  }

  /** One place back; what is there now. */
  undo() {
    this.at = Math.max(0, this.at - 1);
    this.#keep();
    return this.now;
  }

  redo() {
    this.at = Math.min(this.line.length - 1, this.at + 1);
    this.#keep();
    return this.now;
  }

  /** Takes back the newest step as if it had never been: the server refused it. */
  drop(doc) {
    this.line = this.line.slice(0, Math.max(this.at, 1));
    this.at = this.line.length - 1;
    if (JSON.stringify(this.doc) === JSON.stringify(doc)) this.#keep();
    else this.push(doc, "Change");
  }

  #kept() {
    try {
      const { masks, line, at } = JSON.parse(sessionStorage.getItem(this.key));
      const filled = JSON.parse(JSON.stringify(line), (key, value) => (key === "counts" ? masks[value] : value));
      return filled[at] ? { line: filled, at } : null;
    } catch {
      return null; // written by another version, or storage is off
    }
  }

  #keep() {
    for (const many of [60, 10, 2]) if (this.#store(many)) return; // storage is 5 MB; off: undo works until a reload
  }

  /** Stores so many documents around the present one, each mask once; whether there was room. */
  #store(many) {
    const first = Math.max(0, Math.min(this.at - many / 2, this.line.length - many));
    const masks = new Map(); // counts -> number
    const number = (counts) => masks.get(counts) ?? masks.set(counts, masks.size).get(counts);
    const line = JSON.stringify(this.line.slice(first, first + many), (key, value) => (key === "counts" ? number(value) : value));
    try {
      sessionStorage.setItem(this.key, `{"line":${line},"masks":${JSON.stringify([...masks.keys()])},"at":${this.at - first}}`);
      return true;
    } catch {
      return false;
    }
  }
}
