// The list of objects: colour, name, shown or hidden, removed; one of them is active.
import { colourName, find, freeColour, PALETTE, withLooks, withoutObject } from "./document.js";
import { announce, byId, icon, make, setIcon, showBelow } from "./dom.js";

const whole = new Intl.NumberFormat("en");

/** Whether black is easier to read on a colour than white. */
function isLight(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18;
}

export class Objects {
  constructor(app) {
    this.app = app;
    this.list = byId("objects");
    this.rows = new Map(); // object -> li
    byId("object-new").addEventListener("click", () => this.begin());
    this.palette = byId("palette");
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row) this.app.session.select(Number(row.dataset.id));
    });
  }

  /** The next click begins a new object. */
  begin() {
    const { session } = this.app;
    if (!session) return;
    session.select(null);
    announce("New object: click in the picture");
  }

  /** Selects the object `by` places further in the list. */
  step(by) {
    const { session } = this.app;
    const { objects } = session.doc;
    if (!objects.length) return;
    const at = objects.findIndex(({ id }) => id === session.active);
    const next = objects[(at + by + objects.length) % objects.length];
    session.select(next.id);
    announce(next.name);
  }

  remove(id = this.app.session?.active) {
    const { session } = this.app;
    const object = session && find(session.doc, id);
    if (!object) return;
    session.change(withoutObject(session.doc, id), `Delete ${object.name}`);
    announce(`${object.name} deleted`);
  }

  show() {
    const { session } = this.app;
    const { objects } = session.doc;
    for (const [id, row] of this.rows) {
      if (find(session.doc, id)) continue;
      const focused = row.contains(document.activeElement);
      row.remove();
      this.rows.delete(id);
      if (focused) byId("object-new").focus(); // not to the top of the page
    }
    objects.forEach((object, index) => {
      const row = this.rows.get(object.id) ?? this.#row(object.id);
      this.#fill(row, object);
      if (this.list.children[index] !== row) this.list.insertBefore(row, this.list.children[index] ?? null);
    });
    const fresh = session.active === null;
    const note = byId("objects-empty");
    note.textContent = !objects.length ? "Click in the picture to begin." : fresh ? "The next click begins a new object." : "";
    note.hidden = !note.textContent;
    byId("object-new").disabled = fresh;
  }

  clear() {
    this.rows.clear();
    this.list.replaceChildren();
  }

  #row(id) {
    const change = (looks, label) => {
      const { session } = this.app;
      session.change(withLooks(session.doc, id, looks), label);
    };
    const name = make("input", { class: "name", maxlength: "100", spellcheck: "false", autocomplete: "off" });
    name.addEventListener("focus", () => this.app.session.select(id));
    name.addEventListener("change", () => {
      const object = find(this.app.session.doc, id);
      const given = name.value.trim();
      if (given && given !== object.name) change({ name: given }, "Rename");
      else name.value = object.name;
    });
    name.addEventListener("dblclick", () => name.select());
    name.addEventListener("keydown", (event) => {
      if (event.key === "Enter") name.blur();
      if (event.key === "Escape") {
        name.value = find(this.app.session.doc, id).name;
        name.blur();
      }
      event.stopPropagation(); // letters are no shortcuts here
    });
    const swatch = make("button", { class: "swatch", "aria-haspopup": "true", onclick: () => this.#choose(id, swatch, change) });
    const eye = make("button", {
      class: "icon eye", onclick: () => change({ visible: !find(this.app.session.doc, id).visible }, "Show or hide"),
    }, icon("eye"));
    const trash = make("button", { class: "icon trash", onclick: (event) => { event.stopPropagation(); this.remove(id); } }, icon("trash"));
    const body = make("div", { class: "body" }, name, make("small", { class: "about" }));
    const row = make("li", { "data-id": id }, swatch, this.app.cutouts.thumbnail(id), body, eye, trash);
    this.rows.set(id, row);
    return row;
  }

  #fill(row, { id, name, color, visible }) {
    const [swatch, thumbnail, body, eye, trash] = row.children;
    const [field, about] = body.children;
    about.replaceChildren(...this.#about(id, name));
    this.app.cutouts.draw(thumbnail, id);
    row.setAttribute("aria-current", String(id === this.app.session.active));
    row.dataset.hidden = String(!visible);
    swatch.style.setProperty("--colour", color);
    swatch.style.setProperty("--on-colour", isLight(color) ? "#000" : "#fff");
    swatch.dataset.number = id;
    swatch.setAttribute("aria-label", `Colour of ${name}: ${colourName(color)}`);
    swatch.title = colourName(color);
    if (document.activeElement !== field) field.value = name;
    field.setAttribute("aria-label", `Name of object ${id}`);
    eye.setAttribute("aria-label", visible ? `Hide ${name}` : `Show ${name}`);
    eye.title = visible ? "Hide" : "Show";
    setIcon(eye, visible ? "eye" : "eye-off");
    trash.setAttribute("aria-label", `Delete ${name}`);
    trash.title = "Delete";
  }

  /** The key of its class, its score in pictures, and its area here. */
  #about(id, name) {
    const { session, classes } = this.app;
    const mask = session.masks.get(session.frame)?.get(id);
    const key = classes.keyOf(name);
    const words = mask && (mask.area ? `${session.video ? "" : `${mask.score.toFixed(2)} · `}${whole.format(mask.area)} px` : "Not in this frame");
    return [key && make("kbd", { title: `Class ${key}` }, key), words].filter(Boolean);
  }

  #choose(id, swatch, change) {
    const now = find(this.app.session.doc, id).color;
    this.palette.replaceChildren(...PALETTE.map(([value, name]) => {
      const button = make("button", {
        "aria-label": name, title: name, "aria-pressed": String(value === now),
        onclick: () => {
          this.palette.hidePopover();
          swatch.focus();
          if (value !== now) change({ color: value }, "Colour");
        },
      });
      button.style.setProperty("--colour", value);
      return button;
    }));
    showBelow(this.palette, swatch);
    (this.palette.querySelector('[aria-pressed="true"]') ?? this.palette.firstChild).focus();
  }

  /** The colour a new object would get. */
  get nextColour() { return freeColour(this.app.session.doc); }
}
