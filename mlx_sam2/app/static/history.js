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
      const kept = JSON.parse(sessionStorage.getItem(this.key));
      return kept?.line[kept.at] ? kept : null;
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
