// Masks made by hand: a brush, an eraser, and what two objects give together. What comes out is a prompt: a mask.
import { find, NO_PROMPTS, withLooks, withoutObject, withPrompts } from "./document.js";
import { announce, byId, openMenu } from "./dom.js";
import { cellsOf, combine, maskOf, paintStroke } from "./raster.js";

const WORDS = { add: "Add", subtract: "Subtract", intersect: "Intersect with" };
const MOST = 8; // other objects in the menu

export class Brush {
  constructor(app) {
    this.app = app;
    this.size = byId("brush-size");
    this.eraser = byId("brush-erase");
    this.size.addEventListener("input", () => this.show());
    byId("combine").addEventListener("click", () => this.menu());
  }

  /** The width of a stroke in pixels of the picture: the slider is in pixels of the screen. */
  get width() { return Math.max(1, Number(this.size.value) / this.app.view.scale); }

  show() {
    const { session, tools } = this.app;
    byId("brush-value").textContent = `${this.size.value} px`;
    byId("brush").hidden = tools.tool !== "brush";
    byId("combine").disabled = !session?.hasMask;
  }

  /** Begins a stroke: what follows the pointer. */
  begin(x, y, event) {
    const { session, painter, tools } = this.app;
    if (!this.app.canPrompt()) return null;
    tools.hold();
    const erases = this.eraser.checked || event.altKey || event.button === 2;
    if (erases && !session.hasMask) {
      this.app.say("There is nothing to erase yet.");
      return null;
    }
    const places = [[x, y]], { width } = this;
    painter.stroke = { places, width, erases };
    painter.marks();
    return {
      move: (toX, toY) => {
        places.push([toX, toY]);
        painter.marks();
      },
      end: () => {
        painter.stroke = null;
        this.#paint(places, width, erases);
      },
      cancel: () => {
        painter.stroke = null;
        painter.marks();
      },
    };
  }

  #paint(places, width, erases) {
    const { session } = this.app;
    const { doc, id } = session.withActive();
    const cells = this.#cells(id);
    paintStroke(cells, session.width, session.height, places, width, erases ? 0 : 1);
    this.#put(doc, id, cells, erases ? "Erase" : "Brush");
  }

  #cells(id) {
    const { session } = this.app;
    return cellsOf(session.masks.get(session.frame)?.get(id), session.width, session.height);
  }

  /** Makes cells the mask of an object on this frame; the answer is known before the server gives it. */
  #put(doc, id, cells, label) {
    const { session } = this.app, { frame } = session;
    const mask = maskOf(cells, session.width, session.height);
    if (!mask.area) {
      this.app.say("Nothing is left of it: delete the object instead.");
      this.app.painter.marks();
      return;
    }
    const prompts = { ...NO_PROMPTS, mask: { size: mask.size, counts: mask.counts } };
    session.remember(id, frame, prompts, { masks: [mask], chosen: 0 });
    const shown = find(doc, id).visible ? doc : withLooks(doc, id, { visible: true });
    session.change(withPrompts(shown, id, frame, prompts), label);
    announce(label);
  }

  // ---- two objects

  menu() {
    const { session } = this.app;
    const masks = session.masks.get(session.frame);
    const others = session.doc.objects.filter(({ id }) => id !== session.active && masks?.get(id)?.area).slice(0, MOST);
    openMenu(byId("combine"), [
      { label: "Invert", act: () => this.invert() },
      ...others.flatMap((other) => [null,
        ...Object.entries(WORDS).map(([how, word]) => ({ label: `${word} ${other.name}`, act: () => this.with(other.id, how) })),
        { label: `Merge with ${other.name}`, act: () => this.with(other.id, "add", true) }]),
    ]);
  }

  invert() {
    const { session } = this.app;
    const cells = this.#cells(session.active);
    for (let place = 0; place < cells.length; place++) cells[place] = 1 - cells[place];
    this.#put(session.doc, session.active, cells, "Invert");
  }

  with(other, how, removes = false) {
    const { session } = this.app, id = session.active;
    const cells = this.#cells(id), { name } = find(session.doc, other);
    combine(cells, this.#cells(other), how);
    this.#put(removes ? withoutObject(session.doc, other) : session.doc, id, cells, removes ? `Merge with ${name}` : `${WORDS[how]} ${name}`);
  }
}
