// The edges of exported masks, cut-outs and films: a dialog of settings, named as those of the commands.
import * as api from "./api.js";
import { byId, make } from "./dom.js";

const PLAIN = { edge: "hard", width: 8, feather: 0, grow: 0, fill_holes: 0, min_area: 0, decontaminate: false, smooth: 0 };
const SIDE = 560, SETTLED = 250; // pixels of the preview; ms without a change before it is asked for
const FIELDS = [ // name, label, least, most, step
  ["width", "Width of soft edges, logits", 0.1, 100, "any"],
  ["feather", "Feather, pixels", 0, 200, "any"],
  ["grow", "Grow, pixels (negative: shrink)", -200, 200, 1],
  ["fill_holes", "Fill holes up to, pixels", 0, 2147483647, 1],
  ["min_area", "Remove specks up to, pixels", 0, 2147483647, 1],
  ["smooth", "Films: average frames before and after", 0, 8, 1],
];

export class Edges {
  constructor(app) {
    this.app = app;
    this.settings = { ...PLAIN };
    this.dialog = byId("edges-dialog");
    const row = (label, input) => make("label", { class: "row" }, make("span", {}, label), input);
    this.edge = make("select", { name: "edge" }, make("option", { value: "hard" }, "Hard"), make("option", { value: "soft" }, "Soft, as sure as the model is"), make("option", { value: "guided" }, "Guided by the picture"));
    this.numbers = FIELDS.map(([name, , min, max, step]) => make("input", { type: "number", name, min, max, step, required: "" }));
    this.decontaminate = make("input", { type: "checkbox", name: "decontaminate" });
    this.preview = make("img", { class: "checker", alt: "The active object with these edges", hidden: "" });
    this.form = make("form", { method: "dialog", class: "edges" },
      make("h2", { id: "edges-title" }, "Edges of exports"),
      this.preview,
      row("Edge", this.edge),
      ...FIELDS.map(([, label], n) => row(label, this.numbers[n])),
      row("Take the background's colour out of cut-outs", this.decontaminate),
      make("div", { class: "row" },
        make("button", { type: "button", onclick: () => { this.#fill(PLAIN); this.#soon(); } }, "Reset"),
        make("button", { type: "submit", class: "primary" }, "Use")));
    this.form.addEventListener("submit", () => { this.settings = this.#given(); });
    this.form.addEventListener("input", () => this.#soon());
    this.dialog.addEventListener("close", () => this.#forget());
    this.dialog.append(this.form);
  }

  open() {
    this.#fill(this.settings);
    this.dialog.showModal();
    this.#show();
  }

  /** The settings that differ from the model's own masks. */
  get changed() { return this.#differing(this.settings); }

  #differing(settings) {
    return Object.fromEntries(Object.entries(settings).filter(([name, value]) => value !== PLAIN[name]));
  }

  // ---- the preview

  #soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#show(), SETTLED);
  }

  async #show() {
    const { session } = this.app;
    if (!session?.hasMask || !this.form.checkValidity()) return;
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    try {
      const settings = { ...this.#differing(this.#given()), side: SIDE };
      const picture = await api.cutout(session.id, session.active, session.frame, settings, asking.signal);
      if (asking.signal.aborted) return;
      this.#drop();
      this.preview.src = URL.createObjectURL(picture);
      this.preview.hidden = false;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#drop(); // these edges leave nothing of it, say
    }
  }

  #drop() {
    if (this.preview.src) URL.revokeObjectURL(this.preview.src);
    this.preview.removeAttribute("src");
    this.preview.hidden = true;
  }

  #forget() {
    clearTimeout(this.timer);
    this.asking?.abort();
    this.#drop();
  }

  /** What differs from the model's own masks, in words. */
  text() {
    const set = Object.keys(PLAIN).filter((name) => this.settings[name] !== PLAIN[name]);
    return set.length ? set.map((name) => `${name.replace("_", " ")}: ${this.settings[name] === true ? "on" : this.settings[name]}`).join(", ") : "As the model gives them";
  }

  #fill(settings) {
    this.edge.value = settings.edge;
    for (const input of this.numbers) input.value = settings[input.name];
    this.decontaminate.checked = settings.decontaminate;
  }

  #given() {
    const given = { edge: this.edge.value, decontaminate: this.decontaminate.checked };
    for (const input of this.numbers) given[input.name] = input.valueAsNumber;
    return given;
  }
}
