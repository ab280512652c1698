// The strip under a video: small pictures, a row for every object, and the playhead (an input of type range).
import * as api from "./api.js";
import { byId, themed } from "./dom.js";
import { DOUBTFUL } from "./doubts.js";
import { Lanes } from "./lanes.js";
import { NOTHING, TRACKED } from "./tracks.js";

const FILM = 30; // height of the small pictures, CSS pixels
const HEAT = 9; // of the line of doubt under them
const TOP = FILM + HEAT + 5; // where rows begin
const PAD = 18; // on the right, and at least on the left: room to touch the first and the last frame

export class Timeline {
  constructor(app) {
    this.app = app;
    this.strip = byId("strip");
    this.canvas = byId("strip-canvas");
    this.input = byId("playhead");
    this.lanes = new Lanes(app, this, TOP);
    this.film = new Map(); // frame -> ImageBitmap, or null while it is fetched
    this.input.addEventListener("input", () => {
      app.transport.stop();
      app.session.show(Number(this.input.value));
    });
    this.strip.addEventListener("pointerdown", (event) => this.#grab(event));
    this.strip.addEventListener("pointermove", (event) => event.buttons && this.#move(event));
    this.strip.addEventListener("lostpointercapture", () => app.session?.pictures.hurry(false));
    new ResizeObserver(() => this.draw()).observe(this.strip);
  }

  #grab(event) {
    if (!event.isPrimary) return;
    event.preventDefault();
    this.input.focus({ preventScroll: true });
    this.strip.setPointerCapture(event.pointerId);
    const { session } = this.app;
    const [x, y] = this.#place(event);
    const named = x < this.lanes.left - 8 ? this.lanes.at(y) : null;
    this.scrolls = Boolean(named);
    const prompted = named ? null : this.lanes.promptAt(x, y);
    if (named ?? prompted) session.select((named ?? prompted).id);
    if (named) return;
    this.app.transport.stop();
    session.show(prompted ? prompted.frame : this.#frameAt(x));
  }

  #move(event) {
    if (!event.isPrimary) return;
    if (this.scrolls) {
      this.lanes.scrollBy(-event.movementY);
      return;
    }
    this.app.transport.stop();
    this.app.session.pictures.hurry(true);
    this.app.session.show(this.#frameAt(this.#place(event)[0]));
  }

  #place(event) {
    const bounds = this.strip.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  /** The frame at a place; the input alone would reckon with the width of its thumb. */
  #frameAt(x) {
    return Math.round(((x - this.lanes.left) / (this.right - this.lanes.left)) * (this.app.session.frames - 1));
  }

  open() {
    for (const bitmap of this.film.values()) bitmap?.close();
    this.film.clear();
    const { session } = this.app;
    this.input.max = session.frames - 1;
    this.input.value = session.frame;
    this.#fit();
  }

  #fit() {
    const height = TOP + 5 + this.lanes.height;
    if (this.strip.style.height !== `${height}px`) this.strip.style.height = `${height}px`;
  }

  draw() {
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      if (this.app.session?.video) this.#paint();
    });
  }

  get right() { return this.width - PAD; }

  /** Where a frame lies. */
  x(frame) {
    const { session } = this.app;
    return this.lanes.left + (this.right - this.lanes.left) * (session.frames > 1 ? frame / (session.frames - 1) : 0);
  }

  #paint() {
    const { session } = this.app;
    this.#fit();
    const ratio = window.devicePixelRatio;
    const { clientWidth, clientHeight } = this.strip;
    this.width = clientWidth;
    if (!clientWidth) return;
    const width = Math.round(clientWidth * ratio), height = Math.round(clientHeight * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, clientWidth, clientHeight);
    this.#paintFilm(context);
    this.#paintDoubt(context);
    this.#paintRange(context, clientHeight);
    this.lanes.paint(context);
    this.#paintHead(context, clientHeight);
    this.#describe();
  }

  #paintFilm(context) {
    const { session } = this.app;
    const wide = (FILM * session.width) / session.height;
    const { left } = this.lanes, room = this.right - left;
    const many = Math.max(1, Math.round(room / wide));
    const each = room / many;
    for (let i = 0; i < many; i++) {
      const frame = Math.round(((i + 0.5) / many) * (session.frames - 1));
      const bitmap = this.film.get(frame);
      if (bitmap) {
        const seen = Math.min(bitmap.width, (bitmap.height * each) / FILM);
        context.drawImage(bitmap, (bitmap.width - seen) / 2, 0, seen, bitmap.height, left + i * each, 0, each + 0.5, FILM);
      } else if (bitmap === undefined && session.ready && !this.fetching && !this.app.transport.playing) {
        this.#fetch(frame); // one after the other: a browser opens six connections, and clicks need one
      }
    }
  }

  /** Bars that are the higher the more doubtful a frame is; filled where it is one to look at. */
  #paintDoubt(context) {
    const { session } = this.app;
    const step = (this.right - this.lanes.left) / Math.max(session.frames - 1, 1);
    const bottom = FILM + HEAT + 1;
    const bars = new Map(); // pixel -> doubt: a long video has more frames than pixels
    for (let frame = 0; frame < session.frames; frame++) {
      const doubt = session.doubts.at(frame);
      const left = Math.round(this.x(frame) - step / 2);
      if (doubt > (bars.get(left) ?? 0.02)) bars.set(left, doubt);
    }
    for (const [left, doubt] of bars) {
      const height = Math.max(1, doubt * HEAT);
      context.fillStyle = themed(doubt >= DOUBTFUL ? "--doubt" : "--quiet");
      context.fillRect(Math.max(left, this.lanes.left - 2), bottom - height, Math.max(1, step - 0.5), height);
    }
  }

  /** What lies outside of the in and out points is veiled, with a bracket at each. */
  #paintRange(context, height) {
    const { range: { first, last }, frames } = this.app.session;
    context.fillStyle = themed("--canvas");
    context.globalAlpha = 0.7;
    const from = this.lanes.left - 8;
    if (first > 0) context.fillRect(from, 0, this.x(first) - from, height);
    if (last < frames - 1) context.fillRect(this.x(last), 0, this.width - this.x(last), height);
    context.globalAlpha = 1;
    context.fillStyle = themed("--text");
    for (const [frame, way] of [[first, 1], [last, -1]]) {
      if (frame === (way > 0 ? 0 : frames - 1)) continue;
      const x = this.x(frame);
      context.fillRect(x - 1, 0, 2, FILM + HEAT);
      for (const y of [0, FILM + HEAT - 2]) context.fillRect(Math.min(x, x + 6 * way), y, 6, 2);
    }
  }

  async #fetch(frame) {
    const { session } = this.app;
    this.film.set(frame, null);
    this.fetching = true;
    try {
      const bitmap = await api.frame(session.id, frame, 128);
      if (session === this.app.session) this.film.set(frame, bitmap);
    } catch (error) {
      session.problem(error);
    } finally {
      this.fetching = false;
      this.draw();
    }
  }

  #paintHead(context, height) {
    const x = Math.round(this.x(this.app.session.frame)) + 0.5;
    for (const [width, style] of [[4, themed("--canvas")], [2, themed("--text")]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, height);
      context.stroke();
    }
    context.fillStyle = themed("--text");
    context.beginPath();
    context.roundRect(x - 5, -4, 10, 12, 4);
    context.fill();
  }

  /** The same in words, for screen readers. */
  #describe() {
    const { session } = this.app;
    const count = { prompted: 0, tracked: 0, gone: 0 };
    for (const { id, frames } of session.doc.objects) {
      const value = session.tracks.at(id, session.frame);
      if (frames[session.frame]) count.prompted++;
      else if (value === TRACKED) count.tracked++;
      else if (value !== NOTHING) count.gone++;
    }
    const words = Object.entries({ prompted: "prompted", tracked: "tracked", gone: "not in the frame" })
      .filter(([key]) => count[key]).map(([key, word]) => `${count[key]} ${word}`);
    if (session.doubts.at(session.frame) >= DOUBTFUL) words.push("doubtful");
    if (session.doc.objects.some(({ locked }) => locked?.includes(session.frame))) words.push("kept");
    this.input.value = session.frame;
    this.input.setAttribute("aria-valuetext", [`Frame ${session.frame + 1} of ${session.frames}`, ...words].join(", "));
  }
}
