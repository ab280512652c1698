// Classes: names that the user gives once, and keys 1 to 9 then give to objects. Kept as long as the tab.
import { find, withLooks } from "./document.js";
import { announce, byId, make } from "./dom.js";

const KEY = "classes";
const MOST = 9; // a key each

/** The names in a line of words with commas, each once. */
const namesIn = (text) => [...new Set(text.split(",").map((name) => name.trim().slice(0, 100)).filter(Boolean))].slice(0, MOST);

export class Classes {
  constructor(app) {
    this.app = app;
    this.names = [];
    this.current = null; // of the objects that come
    this.field = byId("classes");
    this.box = byId("class-keys");
    this.field.addEventListener("change", () => this.set(namesIn(this.field.value)));
    this.field.addEventListener("keydown", ({ key }) => key === "Enter" && this.field.blur());
    this.set(this.#kept());
  }

  #kept() {
    try {
      return namesIn(sessionStorage.getItem(KEY) ?? "");
    } catch {
      return []; // storage is off
    }
  }

  set(names) {
    this.names = names;
    this.field.value = names.join(", ");
    if (!names.includes(this.current)) this.current = null;
    try {
      sessionStorage.setItem(KEY, names.join(","));
    } catch {
      // as above: they last until a reload
    }
    this.show();
    if (this.app.session) this.app.objects.show();
  }

  /** The key of a class, "" if a name is none. */
  keyOf(name) {
    const at = this.names.indexOf(name);
    return at < 0 ? "" : String(at + 1);
  }

  /** Makes the active object one of a class, and those that come after it. */
  label(index) {
    const name = this.names[index];
    if (!name) return;
    const { session } = this.app;
    this.current = name;
    const object = session && find(session.doc, session.active);
    if (object && object.name !== name) session.change(withLooks(session.doc, object.id, { name }), `Class ${name}`);
    announce(name);
    this.show();
  }

  /** Another document: its objects begin without a class, unless it is the next picture of many. */
  opened() {
    if (!this.app.gallery.isOpen) this.current = null;
    this.show();
  }

  show() {
    const { session } = this.app;
    if (session) session.nextName = this.current;
    this.box.replaceChildren(...this.names.map((name, index) => make("button", {
      "aria-pressed": String(name === this.current), title: `Key ${index + 1}`, onclick: () => this.label(index),
    }, make("kbd", {}, String(index + 1)), name)));
  }
}
