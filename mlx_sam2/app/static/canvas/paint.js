// Draws the picture on one canvas and everything above it on another, at most once a screen refresh.
import { find } from "../document.js";
import { drawBox, drawCrosshair, drawPoint } from "./marks.js";
import { PALETTE } from "../document.js";

export class Painter {
  constructor(view, pool) {
    this.view = view;
    this.pool = pool;
    this.base = document.getElementById("base");
    this.over = document.getElementById("over");
    this.session = null;
    this.hover = null; // mask of the preview
    this.candidate = null; // mask that the pointer is over in the inspector
    this.region = null; // the one of everything-mode under the pointer
    this.draft = null; // box that is being dragged
    this.crosshair = null; // [x, y] of the keyboard's crosshair
    this.stale = { base: false, over: false };
    this.drawn = null; // resolves the promise of `settled`
    view.addEventListener("change", () => this.all());
  }

  all() {
    this.#schedule("base");
    this.#schedule("over");
  }

  picture() { this.#schedule("base"); }
  marks() { this.#schedule("over"); }

  #schedule(layer) {
    this.stale[layer] = true;
    this.asked ??= requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    this.asked = null;
    const { base, over } = this.stale;
    this.stale = { base: false, over: false };
    if (base) this.#paintBase(this.#prepare(this.base));
    if (over) this.#paintOver(this.#prepare(this.over));
  }

  /** The context of a canvas of the window's size, empty, in CSS pixels. */
  #prepare(canvas) {
    const ratio = window.devicePixelRatio;
    const width = Math.round(this.view.width * ratio), height = Math.round(this.view.height * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.view.width, this.view.height);
    return context;
  }

  #paintBase(context) {
    const { view, session } = this;
    const bitmap = session?.pictures.get(session.frame) ?? this.lastPicture;
    if (!session || !bitmap) return;
    this.lastPicture = bitmap;
    const width = view.picture.width * view.scale, height = view.picture.height * view.scale;
    context.imageSmoothingEnabled = view.scale * (view.picture.width / bitmap.width) < 4;
    context.imageSmoothingQuality = "high";
    try {
      context.drawImage(bitmap, view.x, view.y, width, height);
    } catch {
      this.lastPicture = null; // it was closed to make room: the next one is on its way
    }
  }

  #paintOver(context) {
    const { session, view } = this;
    if (!session) return;
    context.save();
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    if (session.regions) this.#paintRegions(context);
    for (const object of session.doc.objects) {
      if (object.visible && object.id !== session.active) this.#paintMask(context, this.#maskOf(object.id), object.color, false);
    }
    const active = find(session.doc, session.active);
    if (active?.visible) this.#paintMask(context, this.candidate ?? this.#maskOf(active.id), active.color, true);
    if (this.hover) this.#paintMask(context, this.hover, session.activeColour, true, true);
    context.restore();
    this.#paintPrompts(context);
  }

  #maskOf(object) {
    return this.session.masks.get(this.session.frame)?.get(object);
  }

  #paintRegions(context) {
    const { regions } = this.session;
    regions.forEach((mask, index) => {
      const colour = PALETTE[index % PALETTE.length][0];
      this.#paintMask(context, mask, colour, mask === this.region, mask !== this.region);
    });
  }

  /** Fill and outline of a mask; the newest that is decoded, until the right one is. */
  #paintMask(context, mask, colour, strong, faint = false) {
    if (!mask) return;
    const drawing = this.pool.peek(mask, colour, () => this.marks());
    if (!drawing) return;
    const unit = 1 / this.view.scale;
    context.globalAlpha = faint ? 0.32 : strong ? 0.48 : 0.38;
    context.imageSmoothingEnabled = true;
    context.drawImage(drawing.bitmap, drawing.x, drawing.y, drawing.width, drawing.height);
    context.lineJoin = "round";
    context.setLineDash(faint ? [4 * unit, 4 * unit] : []);
    context.globalAlpha = faint ? 0.7 : 0.9;
    context.lineWidth = (strong ? 4 : 2.5) * unit;
    context.strokeStyle = "#fff";
    context.stroke(drawing.path);
    context.globalAlpha = 1;
    context.lineWidth = (strong ? 2 : 1.25) * unit;
    context.strokeStyle = colour;
    context.stroke(drawing.path);
    context.setLineDash([]);
  }

  #paintPrompts(context) {
    const { session, view } = this;
    const active = find(session.doc, session.active);
    const { box, points } = session.prompts;
    if (this.draft) drawBox(context, view, this.draft, session.activeColour, true);
    else if (box && active?.visible) drawBox(context, view, box, active.color, false);
    if (active?.visible) for (const [x, y, include] of points) drawPoint(context, ...view.toStage(x, y), include === 1);
    if (this.crosshair) drawCrosshair(context, ...view.toStage(...this.crosshair));
  }
}
