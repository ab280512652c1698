// Draws the picture on one canvas and everything above it on another, at most once a screen refresh.
import { find, PALETTE, promptsOf } from "../document.js";
import { strokeLine } from "../raster.js";
import { drawThrough, drawVeil } from "./looks.js";
import { drawBox, drawCrosshair, drawPoint } from "./marks.js";

export class Painter {
  constructor(view, pool) {
    this.view = view;
    this.pool = pool;
    this.base = document.getElementById("base");
    this.over = document.getElementById("over");
    this.session = null;
    this.hover = null; // mask of the preview
    this.promised = null; // the preview that was clicked, until the answer comes: {id, frame, prompts, mask}
    this.candidate = null; // mask that the pointer is over in the inspector
    this.showsRegions = false; // while the tool of everything-mode is chosen
    this.region = null; // the one of them under the pointer
    this.draft = null; // box that is being dragged
    this.stroke = null; // of the brush: {places, width, erases}
    this.grip = null; // the prompts while one of them is being moved
    this.look = "tint"; // one of LOOKS
    this.opacity = 1; // of tints
    this.crosshair = null; // [x, y] of the keyboard's crosshair
    this.stale = { base: false, over: false };
    this.passing = null; // a frame that has arrived while another is waited for
    this.before = new Map(); // object -> what was drawn for it last
    view.addEventListener("change", () => this.all());
  }

  open(session) {
    Object.assign(this, { session, hover: null, promised: null, candidate: null, region: null, draft: null, crosshair: null, passing: null });
    this.before.clear();
    this.all();
  }

  all() {
    this.#schedule("base");
    this.#schedule("over");
  }

  /** Has the masks of the frame decoded now, before the panels ask for others. */
  prepare() {
    const masks = this.session.masks.get(this.session.frame);
    for (const { id, color } of this.session.doc.objects) this.#drawing(masks?.get(id), color);
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
    const turned = this.#turn(); // both layers, together
    if (base || turned) this.#paintBase(this.#prepare(this.base));
    if (over || turned) this.#paintOver(this.#prepare(this.over));
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

  /** The frame on the screen: the one that is wanted, or another until its picture and its masks are there. */
  get frame() { return this.session.seen ?? this.session.frame; }

  /** The regions on the screen: those of its frame. */
  get regions() { return this.showsRegions && this.session ? this.session.regionsAt(this.frame) : []; }

  /** Takes the wanted frame to the screen if all of it is there, else one that came by; whether anything changed. */
  #turn() {
    const { session, passing } = this;
    this.passing = null;
    const before = session?.seen;
    if (session && this.#complete(session.frame)) session.seen = session.frame;
    else if (session && passing !== null) session.seen = passing;
    const isLate = Boolean(session) && session.seen !== null && session.seen !== session.frame;
    this.view.stage.dataset.late = String(isLate); // dimmed
    return session?.seen !== before;
  }

  /** Whether the picture of a frame and its masks, as far as they are known, can be drawn. */
  #complete(frame) {
    const { session } = this;
    if (!session.pictures.has(frame)) return false;
    if (frame === session.seen) return true; // a mask that changes does not take the picture away
    const masks = session.masks.get(frame);
    return session.doc.objects.every(({ id, color }) => {
      const mask = masks?.get(id);
      return !mask || this.pool.peek(mask, color, () => this.all()) !== undefined;
    });
  }

  /** A picture has arrived; while scrubbing the newest is shown until the one that is wanted comes. */
  arrived(number) {
    if (!this.session.pictures.has(this.session.frame) && this.#complete(number)) this.passing = number;
    this.all();
  }

  #paintBase(context) {
    const { view, session } = this;
    const bitmap = session && session.pictures.get(this.frame);
    if (!bitmap) return;
    const width = view.picture.width * view.scale, height = view.picture.height * view.scale;
    context.imageSmoothingEnabled = view.scale * (view.picture.width / bitmap.width) < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, view.x, view.y, width, height);
  }

  #paintOver(context) {
    const { session, view } = this;
    if (!session) return;
    context.save();
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    drawVeil(context, this.look, view.picture.width, view.picture.height, view.scale);
    this.#paintRegions(context);
    for (const object of session.doc.objects) {
      if (object.visible && object.id !== session.active) this.#paintObject(context, object, this.#maskOf(object.id), false);
    }
    const active = find(session.doc, session.active);
    if (active?.visible) this.#paintObject(context, active, this.candidate ?? this.#maskOf(active.id) ?? this.#promiseOf(active.id), true);
    if (this.hover) this.#paintMask(context, this.#drawing(this.hover, session.activeColour), session.activeColour, true, true);
    this.#paintStroke(context);
    context.restore();
    this.#paintPrompts(context);
  }

  /** What a click was promised, while it is what the object's prompts say. */
  #promiseOf(object) {
    const { promised, session } = this;
    const holds = promised?.id === object && promised.frame === this.frame && promptsOf(session.doc, object, this.frame) === promised.prompts;
    return holds ? promised.mask : undefined;
  }

  #maskOf(object) {
    return this.session.masks.get(this.frame)?.get(object);
  }

  #drawing(mask, colour) {
    return mask && this.pool.peek(mask, colour, () => this.marks());
  }

  /** The mask of an object; while it is being decoded the one before stays, so that nothing flickers. */
  #paintObject(context, { id, color }, mask, strong) {
    let drawing = this.#drawing(mask, color);
    if (drawing === undefined && mask) drawing = this.before.get(id);
    else if (mask && strong && this.before.get(id) !== drawing) performance.mark("mask drawn");
    this.before.set(id, mask ? drawing : null);
    if (!drawing?.bitmap.width) return;
    if (this.look === "tint" || this.look === "outline") this.#paintMask(context, drawing, color, strong);
    else drawThrough(context, this.look, drawing, this.session.pictures.get(this.frame), this.view.picture.width, this.view.picture.height);
  }

  #paintStroke(context) {
    if (!this.stroke) return;
    const { places, width, erases } = this.stroke;
    context.globalAlpha = 0.6;
    context.strokeStyle = erases ? "#fff" : this.session.activeColour;
    strokeLine(context, places, width);
    context.globalAlpha = 1;
  }

  #paintRegions(context) {
    this.regions.forEach((mask, index) => {
      const colour = PALETTE[index % PALETTE.length][0];
      this.#paintMask(context, this.#drawing(mask, colour), colour, mask === this.region, mask !== this.region);
    });
  }

  /** Fill and outline of a mask. */
  #paintMask(context, drawing, colour, strong, faint = false) {
    if (!drawing?.bitmap.width) return; // empty, not decoded yet, or given up to make room
    const unit = 1 / this.view.scale;
    context.globalAlpha = this.opacity * (faint ? 0.32 : strong ? 0.48 : 0.38);
    context.imageSmoothingEnabled = true;
    if (this.look !== "outline") context.drawImage(drawing.bitmap, drawing.x, drawing.y, drawing.width, drawing.height);
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
    const { box, points } = this.grip ?? promptsOf(session.doc, session.active, this.frame);
    if (this.draft) drawBox(context, view, this.draft, session.activeColour, true);
    else if (box && active?.visible) drawBox(context, view, box, active.color, false);
    if (active?.visible) for (const [x, y, include] of points) drawPoint(context, ...view.toStage(x, y), include === 1);
    if (this.crosshair) drawCrosshair(context, ...view.toStage(...this.crosshair));
  }
}
