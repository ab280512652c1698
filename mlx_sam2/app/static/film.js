// What leaves as a film, or as a picture with an effect: one dialog that asks what it is for.
import { make } from "./dom.js";

const FILMS = [ // for whom, the settings, what it is
  ["Final Cut Pro, Premiere Pro", { codec: "prores" }, "ProRes 4444 with alpha, MOV"],
  ["After Effects", { codec: "prores", alpha: "premultiplied" }, "ProRes 4444, multiplied: interpret it so, with black"],
  ["DaVinci Resolve", { format: "matte", codec: "prores" }, "A matte to lay over the film, ProRes MOV"],
  ["Keynote, iPhone", { codec: "hevc" }, "HEVC with alpha, MOV; needs a Mac"],
  ["A web page", { codec: "vp9" }, "VP9 with alpha, WebM"],
  ["Nuke", { codec: "exr" }, "OpenEXR files in a ZIP, a layer for each object"],
  ["Blender", { codec: "tiff" }, "TIFF files of 16 bits in a ZIP"],
  ["Anything with pictures", { codec: "png" }, "PNG files in a ZIP"],
  ["An archive", { codec: "ffv1" }, "FFV1, lossless, MKV"],
  ["Everybody", { codec: "h264", background: "blur" }, "H.264, MP4, opaque"],
  ["A grey matte", { format: "matte", codec: "h264" }, "H.264, MP4, white where the objects are"],
];
const LAYERS = [["blur", "Blurred"], ["pixelate", "Pixelated"], ["grey", "Grey"], ["checker", "A checkerboard"], ["colour", "A colour"]];

const choice = (name, options) => make("select", { name }, ...options.map(([value, label]) => make("option", { value }, label)));
const row = (label, ...inputs) => make("label", { class: "row" }, make("span", {}, label), ...inputs);

export class Film {
  constructor(app) {
    this.app = app;
    this.dialog = make("dialog", { id: "film-dialog", "aria-labelledby": "film-title" });
    document.body.append(this.dialog);
  }

  open() {
    const { video } = this.app.session;
    this.use = choice("use", FILMS.map(([label], index) => [index, label]));
    this.note = make("p", { class: "quiet" });
    this.layers = {
      background: this.#layer("background", video ? "Nothing: transparent" : "As it is", "#ffffff"),
      foreground: this.#layer("foreground", "As they are", "#000000"),
    };
    this.each = make("input", { type: "checkbox", name: "per-object" });
    this.sound = make("input", { type: "checkbox", name: "sound" });
    const form = make("form", { method: "dialog", class: "edges" },
      make("h2", { id: "film-title" }, video ? "Film" : "Effect"),
      ...(video ? [row("For", this.use), this.note] : []),
      row("Background", this.layers.background.select, this.layers.background.colour),
      row("The objects themselves", this.layers.foreground.select, this.layers.foreground.colour),
      ...(video ? [row("One file for each object", this.each), row("With its sound", this.sound)] : []),
      make("div", { class: "row" },
        make("button", { type: "button", onclick: () => this.dialog.close() }, "Cancel"),
        make("button", { type: "submit", class: "primary" }, "Export")));
    form.addEventListener("submit", () => this.#make());
    form.addEventListener("input", ({ target }) => this.#show(target === this.use));
    this.dialog.replaceChildren(form);
    if (!video) this.layers.background.select.value = "blur";
    this.#show(true);
    this.dialog.showModal();
  }

  #layer(name, plain, value) {
    return { select: choice(name, [["", plain], ...LAYERS]), colour: make("input", { type: "color", name: `${name}-colour`, value, "aria-label": `Colour of the ${name}` }) };
  }

  get #settings() { return this.app.session.video ? FILMS[this.use.value][1] : { format: "picture" }; }

  /** Shows what goes together; a new use brings its own background. */
  #show(isNew = false) {
    const settings = this.#settings, isMatte = settings.format === "matte";
    const { background, foreground } = this.layers;
    if (isNew && this.app.session.video) background.select.value = settings.background ?? "";
    for (const { select, colour } of [background, foreground]) {
      select.disabled = isMatte;
      if (isMatte) select.value = "";
      colour.hidden = select.value !== "colour";
    }
    this.each.disabled = Boolean(background.select.value || foreground.select.value);
    if (this.each.disabled) this.each.checked = false;
    this.sound.disabled = ["exr", "tiff", "png"].includes(settings.codec);
    if (this.sound.disabled) this.sound.checked = false;
    this.note.textContent = this.app.session.video ? FILMS[this.use.value][2] : "";
  }

  #make() {
    const layers = {};
    for (const [name, { select, colour }] of Object.entries(this.layers)) {
      if (select.value) layers[name] = select.value === "colour" ? colour.value : select.value;
    }
    const { format = "film", ...settings } = this.#settings;
    const ask = { ...settings, ...layers };
    if (Object.keys(layers).length) delete ask.alpha; // it is opaque
    if (format === "film" && !Object.keys(layers).length) delete ask.background;
    if (this.app.session.video) Object.assign(ask, { per_object: this.each.checked, audio: this.sound.checked });
    this.app.exports.make(format, null, ask);
  }
}
