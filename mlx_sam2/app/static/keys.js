// Keyboard shortcuts and the dialog that lists them. Inside a field letters are letters.
import { byId, icon, make } from "./dom.js";

const MAC = /Mac|iPhone|iPad/.test(navigator.platform);
const CMD = MAC ? "⌘" : "Ctrl";
const ALT = MAC ? "⌥" : "Alt";

const HELP = [
  ["Pointing", [
    [["Click"], "Include what is under the pointer"], [[ALT, "Click"], "Exclude it (or right-click)"], [["Drag"], "Box around the object"],
    [["I"], "Include"], [["E"], "Exclude"], [["B"], "Box"], [["A"], "Everything"], [["P"], "Brush"],
    [["Drag"], "a point to move it; click it to remove it; drag a corner of the box"], [["⇧", "Click"], "Select the object there"], [["1", "2", "3"], `The part, the object or the whole; with ${ALT} where there are classes`],
  ]],
  ["Objects", [
    [["N"], "New object"], [["[", "]"], "Previous, next object"], [["1", "9"], "The classes, where there are some"], [["V"], "Show or hide"], [["⌫"], "Delete the object"],
    [[CMD, "Z"], "Undo"], [["⇧", CMD, "Z"], "Redo"],
  ]],
  ["Files", [
    [["O"], "Open"], [["X"], "Export"], [[CMD, "C"], "Copy the cut-out"], [[CMD, "S"], "Save as a project"], [["?"], "This list"],
  ]],
  ["Many pictures", [
    [[",", "."], "Previous, next picture"], [["D"], "Done, and on to the next"],
  ]],
  ["Without a pointer", [
    [["Tab"], "Go to the picture, then"], [["←", "↑", "→", "↓"], "Move the crosshair; with ⇧ farther"],
    [["Enter"], "Click there, or set a corner of a box"], [[ALT, "Enter"], "Exclude there"],
  ]],
  ["View", [
    [["M"], "Next view of masks"], [["0"], "Fit"], [["⇧", "1"], "Actual pixels"], [["+", "−"], "Zoom"], [["Space", "Drag"], "Move; in a video with H"],
    [["Scroll"], "Move or zoom; pinch to zoom"],
  ]],
  ["Video", [
    [["Space"], "Play, pause"], [[",", "."], "Previous, next frame"], [["<", ">"], "Previous, next prompt"],
    [["U"], "Next doubtful frame; with ⇧ the one before"], [["K"], "Keep this frame whatever is tracked; with ⇧ of the active object alone"], [["T"], "Track forward"], [["⇧", "T"], "Track backward"],
    [["⇧", "I"], "In point here"], [["⇧", "O"], "Out point here"], [["⇧", "X"], "The whole video"], [["Esc"], "Stop tracking"],
  ]],
];
const TOUCH = ["Fingers", [
  [["Tap"], "Include what is there; with the Exclude tool, exclude it"], [["Drag"], "Box around the object; zoomed in, move the picture"], [["Two"], "Zoom and move"],
  [["Tap", "Tap"], "Fit a picture that is zoomed in"],
]];

const CHOICE = "single keys";

function keptChoice() {
  try {
    return localStorage.getItem(CHOICE) !== "off";
  } catch {
    return true; // storage is off
  }
}

function keepChoice(on) {
  try {
    localStorage.setItem(CHOICE, on ? "on" : "off");
  } catch {
    // as above: until the page is reloaded
  }
}

export class Keys {
  constructor(app) {
    this.app = app;
    this.dialog = byId("help-dialog");
    this.#fill();
    byId("help").addEventListener("click", () => this.dialog.showModal());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    addEventListener("keydown", (event) => this.#down(event));
    addEventListener("keydown", ({ key }) => { if (/^(Tab|Enter|Arrow)/.test(key)) document.body.dataset.input = "keys"; }, true);
    addEventListener("pointerdown", () => { document.body.dataset.input = "pointer"; }, true);
    addEventListener("keyup", (event) => {
      if (event.key !== " ") return;
      app.tools.space = false;
      app.tools.cursor();
    });
  }

  #fill() {
    const fingers = matchMedia("(pointer: coarse)").matches;
    const keys = !fingers || matchMedia("(any-pointer: fine)").matches;
    const all = [...(fingers ? [TOUCH] : []), ...(keys ? HELP : [])];
    const groups = all.map(([title, rows]) => make("div", {}, make("h3", {}, title), make("dl", {}, ...rows.flatMap(([keys, words]) => [
      make("dt", {}, ...keys.flatMap((key, index) => [index ? " " : "", make("kbd", {}, key)])), make("dd", {}, words)]))));
    const close = make("button", { class: "icon", "aria-label": "Close", onclick: () => this.dialog.close() }, icon("close"));
    this.dialog.replaceChildren(make("div", { class: "sheet" },
      make("header", {}, make("h2", { id: "help-title" }, !keys ? "Help" : fingers ? "Fingers and keys" : "Keyboard and mouse"), close),
      make("div", { class: "columns", tabindex: "0" }, ...groups), keys ? this.#choice() : ""));
    this.singleKeys = keptChoice();
  }

  /** Letters that act alone can be turned off: speech and a stray hand press them too (WCAG 2.1.4). */
  #choice() {
    const box = make("input", { type: "checkbox", id: "single-keys" });
    box.checked = keptChoice();
    box.addEventListener("change", () => {
      this.singleKeys = box.checked;
      keepChoice(box.checked);
    });
    return make("label", { class: "check" }, box, "Single keys act, without ", CMD);
  }

  #down(event) {
    const { target } = event;
    if (event.defaultPrevented || document.querySelector("dialog[open]") || byId("menu").matches(":popover-open")) return;
    if (target.matches("input:not([type=radio], [type=range], [type=checkbox]), textarea, select")) return;
    const command = event.metaKey || event.ctrlKey;
    const act = command ? this.#commands(event) : this.#plain(event, target);
    if (!act) return;
    event.preventDefault();
    act();
  }

  #commands(event) {
    const key = event.key.toLowerCase();
    if (key === "z") return () => this.app[event.shiftKey ? "redo" : "undo"]();
    if (key === "y") return () => this.app.redo();
    if (key === "s") return this.app.session && (() => this.app.exports.make("project"));
    if (key === "c") return this.app.session && !String(getSelection()) && (() => this.app.cutouts.copy());
    if (key === "o") return () => this.app.files.pick("file");
    return null;
  }

  #plain(event, target) {
    const { app } = this;
    const { tools, objects, transport, session, view, gallery, classes } = app;
    const digit = event.altKey && session ? /^Digit([1-3])$/.exec(event.code) : null; // ⌥1 is another letter on a Mac
    if (digit) return () => app.chooser.choose(digit[1] - 1);
    if (byId("local")) return null; // a file that is being opened hides the one that keys would change
    if (!this.singleKeys && event.key.length === 1 && event.key !== " ") return null;
    const general = { o: () => app.files.menu(), "?": () => this.dialog.showModal() }[event.key];
    if (general || !session || event.altKey) return general;
    const onControl = target.matches("button, input"); // there Space and Enter press it
    if (event.key === " " && onControl && target.type !== "range") return null; // a slider does nothing with it
    if (event.key.startsWith("Arrow") && onControl) return null; // radio buttons and sliders use them
    if (event.key === " ") return session.video ? () => !event.repeat && transport.toggle() : () => this.#hold();
    if (/^[1-9]$/.test(event.key)) return () => (classes.names.length ? classes.label(event.key - 1) : app.chooser.choose(event.key - 1));
    if (gallery.isOpen) {
      const turn = { ",": () => gallery.turn(-1), ".": () => gallery.turn(1), PageUp: () => gallery.turn(-1), PageDown: () => gallery.turn(1), d: () => gallery.finish() }[event.key];
      if (turn) return turn;
    }
    return {
      i: () => tools.choose("include"), e: () => tools.choose("exclude"), b: () => tools.choose("box"), a: () => tools.choose("everything"),
      p: () => tools.choose("brush"), m: () => app.looks.turn(),
      h: () => tools.choose("pan"), n: () => objects.begin(), "[": () => objects.step(-1), "]": () => objects.step(1),
      v: () => app.toggleVisible(), Backspace: () => objects.remove(), Delete: () => objects.remove(),
      0: () => view.fit(), "!": () => view.zoomTo(1), "+": () => view.zoomBy(1.25), "=": () => view.zoomBy(1.25), "-": () => view.zoomBy(0.8),
      ArrowLeft: () => session.video && transport.step(-1), ArrowRight: () => session.video && transport.step(1),
      ",": () => session.video && transport.step(-1), ".": () => session.video && transport.step(1),
      "<": () => transport.jump(-1), ">": () => transport.jump(1),
      k: () => transport.lock(), K: () => transport.lock({ active: true }), u: () => transport.doubt(1), U: () => transport.doubt(-1),
      I: () => app.trackMenu.mark("first", session.frame), O: () => app.trackMenu.mark("last", session.frame), X: () => app.trackMenu.whole(),
      t: () => transport.track("forward"), T: () => transport.track("backward"), x: () => app.exports.menu(), Escape: () => app.escape(),
    }[event.key];
  }

  #hold() {
    this.app.tools.space = true;
    this.app.tools.cursor();
  }
}
