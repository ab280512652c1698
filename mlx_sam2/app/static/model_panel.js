// The model: a panel while it is downloaded or cannot be loaded, and a dialog to choose another one.
import * as api from "./api.js";
import { announce, byId, icon, make } from "./dom.js";

const DEMO = "demo";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const mega = (bytes) => `${whole.format(bytes / 1e6)} MB`;

/** "81 million parameters · 323 MB, downloaded once · a picture takes 2.2 times as long as with tiny" */
function cost({ parameters, download_bytes: bytes, encode }) {
  const words = [parameters && `${whole.format(parameters / 1e6)} million parameters`, bytes && `${mega(bytes)}, downloaded once`];
  if (encode && encode !== 1) words.push(`opening a picture takes about ${encode} times as long as with tiny (modelled)`);
  return words.filter(Boolean).join(" · ");
}

export class Models {
  constructor(app) {
    this.app = app;
    this.panel = byId("model-panel");
    this.dialog = byId("model-dialog");
    for (const id of ["model-open", "model-choose"]) byId(id).addEventListener("click", () => this.open());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /** Shows the state of the model where it is neither ready nor loaded in a moment. */
  show(model) {
    const key = [model.status, model.name, model.message, Boolean(model.total)].join(" ");
    if (key !== this.key) {
      this.key = key;
      const parts = this.#parts(model);
      this.panel.replaceChildren(...parts);
      this.panel.hidden = !parts.length;
      if (model.status === "failed") this.panel.setAttribute("role", "alert");
      else this.panel.removeAttribute("role");
    }
    const bar = this.panel.querySelector("progress");
    if (!bar) return;
    bar.value = model.done / model.total;
    this.panel.querySelector("output").textContent = `${mega(model.done)} of ${mega(model.total)}`;
  }

  #parts(model) {
    if (model.status === "loading" && model.total) {
      return [make("h2", {}, `Downloading ${model.name}`), make("progress", { max: 1, value: 0, "aria-label": "Downloaded" }),
        make("output", { class: "figure" }), make("p", { class: "quiet" }, "Once; then it stays on this computer.")];
    }
    if (model.status === "failed") {
      return [make("h2", {}, `The model ${model.name} is not there`), make("p", { class: "quiet" }, "Nothing can be clicked without one."), this.#details(model),
        make("div", { class: "choices" }, make("button", { class: "primary", onclick: () => this.choose(model.name) }, "Try again"),
          ...(model.name === DEMO ? [] : [make("button", { onclick: () => this.choose(DEMO) }, "Use the demo")]),
          make("button", { onclick: () => this.open() }, "Others…"))];
    }
    if (!model.refused) return [];
    return [make("h2", {}, `The model ${model.refused} is not there`), make("p", { class: "quiet" }, `${model.name} goes on.`), this.#details(model),
      make("div", { class: "choices" }, make("button", { onclick: () => this.choose(model.refused) }, "Try again"),
        make("button", { onclick: () => { this.panel.hidden = true; } }, "Dismiss"))];
  }

  #details({ message }) {
    return make("details", {}, make("summary", {}, "Details"), make("p", {}, message || "No reason was given."));
  }

  /** Leads the eye to the panel: what was asked for needs a model. */
  point() {
    this.panel.scrollIntoView({ block: "nearest" });
    this.panel.querySelector("button")?.focus();
  }

  async open() {
    let choices;
    try {
      choices = await api.models();
    } catch (error) {
      this.app.problem(error);
      return;
    }
    const now = this.app.status.model;
    const items = choices.map((choice) => make("button", {
      class: "model", "aria-pressed": String(choice.name === now.name), onclick: () => { this.dialog.close(); this.choose(choice.name); },
    }, make("span", {}, make("b", {}, choice.name), ` ${choice.about}`), make("small", {}, cost(choice))));
    const close = make("button", { class: "icon", "aria-label": "Close", onclick: () => this.dialog.close() }, icon("close"));
    this.dialog.replaceChildren(make("div", { class: "sheet models" }, make("header", {}, make("h2", { id: "model-title" }, "Model"), close),
      make("p", { class: "quiet" }, "Your masks stay. What is clicked or tracked from then on is the new one's."), ...items));
    this.dialog.showModal();
    this.dialog.querySelector('[aria-pressed="true"]')?.focus();
  }

  async choose(name) {
    const { status } = this.app;
    if (name === status.model.name && status.model.status === "ready") return;
    try {
      const state = await api.chooseModel(name);
      if (!this.app.session) this.app.takeModel(state); // else an event has told, and perhaps already how it ended
      announce(`Loading ${name}`);
    } catch (error) {
      this.app.problem(error);
    }
  }
}
