// The edges of exported masks, cut-outs and films: a dialog of settings, named as those of the commands.
import { byId, make } from "./dom.js";

const PLAIN = { edge: "hard", feather: 0, grow: 0, fill_holes: 0, min_area: 0, decontaminate: false };
const FIELDS = [ // name, label, least, most, step
  ["feather", "Feather, pixels", 0, 200, "any"],
  ["grow", "Grow, pixels (negative: shrink)", -200, 200, 1],
  ["fill_holes", "Fill holes up to, pixels", 0, 2147483647, 1],
  ["min_area", "Remove specks up to, pixels", 0, 2147483647, 1],
];

export class Edges {
  constructor() {
    this.settings = { ...PLAIN };
    this.dialog = byId("edges-dialog");
    const row = (label, input) => make("label", { class: "row" }, make("span", {}, label), input);
    this.edge = make("select", { name: "edge" }, make("option", { value: "hard" }, "Hard"), make("option", { value: "guided" }, "Guided by the picture"));
    this.numbers = FIELDS.map(([name, , min, max, step]) => make("input", { type: "number", name, min, max, step, required: "" }));
    this.decontaminate = make("input", { type: "checkbox", name: "decontaminate" });
    this.form = make("form", { method: "dialog", class: "edges" },
      make("h2", { id: "edges-title" }, "Edges of exports"),
      row("Edge", this.edge),
      ...FIELDS.map(([, label], n) => row(label, this.numbers[n])),
      row("Take the background's colour out of cut-outs", this.decontaminate),
      make("div", { class: "row" },
        make("button", { type: "button", onclick: () => this.#fill(PLAIN) }, "Reset"),
        make("button", { type: "submit", class: "primary" }, "Use")));
    this.form.addEventListener("submit", () => this.#take());
    this.dialog.append(this.form);
  }

  open() {
    this.#fill(this.settings);
    this.dialog.showModal();
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

  #take() {
    this.settings = { edge: this.edge.value, decontaminate: this.decontaminate.checked };
    for (const input of this.numbers) this.settings[input.name] = input.valueAsNumber;
  }
}
