// What a click, a drag and the keyboard's crosshair mean with the tool that is chosen, and the preview under the pointer.
import * as api from "./api.js";
import { find, freeId, isEmpty, NO_PROMPTS, promptsOf, withBox, withLooks, withPoint } from "./document.js";
import { contains } from "./rle.js";

const round = (value) => Math.round(value * 100) / 100;

/** A mask that was found, as the prompts of an object. */
const asPrompts = ({ size, counts, score }) => ({ ...NO_PROMPTS, mask: { size, counts }, score });

export class Tools {
  constructor(app) {
    this.app = app;
    this.tool = "include";
    this.space = false; // held down: the picture moves
    this.asking = false;
    this.wish = null; // where the next preview is wanted
    this.serial = 0;
    this.corner = null; // first corner of a box that the keyboard makes
    for (const input of document.querySelectorAll('input[name="tool"]')) {
      input.addEventListener("change", () => {
        this.choose(input.value);
        if (document.body.dataset.input === "pointer") app.stage.focus({ preventScroll: true }); // Space and arrows act there
      });
    }
    this.refine = document.getElementById("refine");
    app.stage.addEventListener("keydown", (event) => this.#key(event));
    app.stage.addEventListener("blur", () => this.#hideCrosshair());
  }

  choose(tool) {
    this.tool = tool;
    document.querySelector(`input[name="tool"][value="${tool}"]`).checked = true;
    document.body.dataset.tool = tool;
    this.corner = null;
    this.app.painter.draft = null;
    this.app.painter.region = null;
    this.app.painter.showsRegions = tool === "everything";
    this.forgetPreview();
    this.cursor();
    this.app.toolChanged(tool);
  }

  get pans() { return this.tool === "pan" || this.space; }

  cursor() {
    const { stage, session } = this.app;
    stage.dataset.cursor = !session ? "" : this.pans ? "grab" : this.tool === "everything" ? "pick" : "cross";
  }

  // ---- gestures, in pixels of the picture

  hover(x, y, event) {
    const { session, view, painter } = this.app;
    this.cursor();
    if (!session || this.pans || !view.holds(x, y)) return this.forgetPreview();
    if (painter.crosshair) this.#hideCrosshair();
    if (painter.regions.length) return this.#hoverRegion(x, y);
    const fresh = isEmpty(promptsOf(session.doc, session.active, painter.frame));
    if (this.tool !== "include" || event?.altKey || !fresh || !session.ready || session.job) return this.forgetPreview();
    this.wish = [x, y];
    return this.#preview();
  }

  leave() {
    this.forgetPreview();
    if (this.app.painter.region) {
      this.app.painter.region = null;
      this.app.painter.marks();
    }
  }

  /** What follows the pointer from here instead of a click or a box: a stroke of the brush, or a prompt that is there. */
  take(x, y, event) {
    const { session, view } = this.app;
    if (!session || event.shiftKey || !view.holds(x, y)) return null;
    this.forgetPreview();
    return this.tool === "brush" ? this.app.brush.begin(x, y, event) : this.app.grips.take(x, y, event);
  }

  /** Selects the object that is seen at a place. */
  #select(x, y) {
    const { session, painter } = this.app;
    const masks = session.masks.get(painter.frame);
    const under = session.doc.objects.filter(({ id, visible }) => visible && masks?.get(id)?.area && contains(masks.get(id), x, y));
    const [first] = under.sort((a, b) => masks.get(a.id).area - masks.get(b.id).area); // the smallest: it may lie on a larger one
    if (!first) return;
    session.select(first.id);
    this.app.announce(first.name);
  }

  tap(x, y, event) {
    const { session, view, painter } = this.app;
    if (!session || !view.holds(x, y)) return;
    if (event.shiftKey) this.#select(x, y);
    else if (painter.regions.length) this.keepRegion(this.#regionAt(x, y));
    else if (this.tool === "everything") this.app.say("Press “Find everything” first, or choose another tool.");
    else this.point(x, y, this.tool !== "exclude" && !event.altKey && !event.ctrlKey && event.button !== 2);
  }

  drag(box) {
    const { painter, session } = this.app;
    if (!session || this.tool === "everything" || this.tool === "brush") return;
    painter.draft = box;
    this.forgetPreview();
    painter.marks();
  }

  drop([x0, y0, x1, y1]) {
    const { painter, session } = this.app;
    painter.draft = null;
    painter.marks();
    if (session && this.tool !== "everything" && this.tool !== "brush" && x1 - x0 >= 1 && y1 - y0 >= 1) this.box([x0, y0, x1, y1]);
  }

  // ---- prompts

  /** Whoever points means what is on the screen: playing stops, and a frame that is still on its way is let go. */
  hold() {
    const { session, painter, transport } = this.app;
    transport.stop();
    session.show(painter.frame);
  }

  point(x, y, include) {
    const { session, painter } = this.app;
    if (!this.app.canPrompt()) return;
    this.hold();
    if (!include && !session.hasMask) {
      this.app.say("Include something first: excluding takes away from a mask, and there is none yet.");
      return;
    }
    const promise = include ? this.#seenAt(round(x), round(y)) : null;
    this.#prompt(include ? "Include" : "Exclude", (doc, id) => withPoint(doc, id, session.frame, round(x), round(y), include, this.refine.checked));
    if (promise) painter.promised = { id: session.active, frame: session.frame, prompts: session.prompts, mask: promise };
    this.app.grips.placed = performance.now();
    this.app.announce(include ? "Included" : "Excluded");
  }

  box(box) {
    const { session } = this.app;
    if (!this.app.canPrompt()) return;
    this.hold();
    this.#prompt("Box", (doc, id) => withBox(doc, id, session.frame, box.map(round), this.refine.checked));
    this.app.announce("Box");
  }

  /** One step for undo: the prompt, and the object in sight if it was hidden. */
  #prompt(label, change) {
    const { session } = this.app;
    this.forgetPreview();
    const { doc, id } = session.withActive();
    session.change(change(find(doc, id).visible ? doc : withLooks(doc, id, { visible: true }), id), label);
  }

  // ---- preview: one request at a time, the newest place wins

  forgetPreview() {
    this.wish = null;
    this.serial++; // an answer on its way comes too late
    if (this.app.painter.hover) {
      this.app.painter.hover = null;
      this.app.painter.marks();
    }
  }

  /** The mask of the latest preview, if that was for a first click at this place: it is the click's answer. */
  #seenAt(x, y) {
    const { session, painter } = this.app;
    const was = this.previewed;
    const isIt = was?.session === session && was.frame === painter.frame && was.x === x && was.y === y && isEmpty(session.prompts);
    return isIt ? was.mask : null;
  }

  async #preview() {
    if (this.asking || !this.wish) return;
    const { session, painter, view } = this.app;
    const [x, y] = this.wish.map(round);
    const longest = Math.ceil(Math.max(session.width, session.height) * view.scale * window.devicePixelRatio);
    const side = Math.max(16, Math.min(4096, longest));
    this.wish = null;
    this.asking = true;
    const serial = this.serial;
    try {
      const { frame } = painter;
      const { mask: small } = await api.preview(session.id, { frame, x, y, serial, side });
      const mask = { ...small, of: [session.height, session.width] };
      await painter.pool.get(mask, session.activeColour);
      if (serial === this.serial && session === this.app.session) {
        painter.hover = mask;
        this.previewed = { session, frame, x, y, mask };
        painter.marks();
      }
    } catch (error) {
      if (error.code !== "superseded" && error.code !== "cancelled") session.problem(error);
    } finally {
      this.asking = false;
      this.#preview();
    }
  }

  // ---- regions of everything-mode

  #regionAt(x, y) {
    return this.app.painter.regions.findLast((mask) => contains(mask, x, y)) ?? null; // the smallest is last
  }

  #hoverRegion(x, y) {
    const region = this.#regionAt(x, y);
    if (region === this.app.painter.region) return;
    this.app.painter.region = region;
    this.app.painter.marks();
  }

  keepRegion(mask) {
    const { session } = this.app;
    if (!mask) return;
    this.hold();
    const id = freeId(session.doc, session.history.taken);
    this.app.painter.region = null;
    session.change(session.begun(session.doc, id, { [session.frame]: asPrompts(mask) }), "Keep region");
    this.app.announce(`Kept as object ${id}`);
  }

  keepAll() {
    const { session, painter } = this.app;
    const { regions } = painter;
    this.hold();
    let { doc } = session;
    let id = freeId(doc, session.history.taken);
    const room = Math.max(0, (this.app.limits?.objects ?? Infinity) - doc.objects.length);
    const best = [...regions].sort((a, b) => b.score - a.score).slice(0, room);
    for (const mask of best) doc = session.begun(doc, id++, { [session.frame]: asPrompts(mask) });
    session.change(doc, "Keep all");
    if (best.length < regions.length) this.app.say(`A session holds ${this.app.limits.objects} objects: the ${best.length} with the best scores were kept.`);
  }

  // ---- the keyboard's way to point

  #key(event) {
    const { session, view, painter } = this.app;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!session || event.metaKey || event.ctrlKey) return;
    if (step) {
      const [x, y] = painter.crosshair ?? [view.picture.width / 2, view.picture.height / 2];
      const pixels = (event.shiftKey ? 40 : 8) / view.scale;
      painter.crosshair = view.clamp(x + step[0] * pixels, y + step[1] * pixels);
      view.reveal(...painter.crosshair);
      if (this.corner) painter.draft = this.#cornered();
      else this.hoverAt(...painter.crosshair, event);
      painter.marks();
    } else if (event.key === "Enter" && painter.crosshair) {
      this.#enter(event);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** A preview under the crosshair, which stays. */
  hoverAt(x, y, event) {
    const { crosshair } = this.app.painter;
    this.app.painter.crosshair = null;
    this.hover(x, y, event);
    this.app.painter.crosshair = crosshair;
  }

  #enter(event) {
    const [x, y] = this.app.painter.crosshair;
    if (this.tool === "brush") {
      this.app.brush.begin(x, y, event)?.end();
    } else if (this.tool !== "box") {
      this.tap(Math.min(x, this.app.session.width - 0.5), Math.min(y, this.app.session.height - 0.5), event);
    } else if (this.corner) {
      const box = this.#cornered();
      this.corner = null;
      this.drop(box);
    } else {
      this.corner = [x, y];
      this.app.announce("First corner set");
    }
  }

  #cornered() {
    const [ax, ay] = this.corner, [bx, by] = this.app.painter.crosshair;
    return [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
  }

  #hideCrosshair() {
    if (!this.app.painter.crosshair) return;
    this.app.painter.crosshair = null;
    this.cancelBox();
  }

  /** Ends a box that is half made; whether there was one. */
  cancelBox() {
    const { painter, pointer } = this.app;
    const was = Boolean(painter.draft || this.corner);
    if (was) pointer.cancel();
    this.corner = null;
    painter.draft = null;
    painter.marks();
    return was;
  }
}
