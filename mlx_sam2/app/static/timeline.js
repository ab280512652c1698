// The strip under a video: small pictures, a row for every object, and the playhead (an input of type range).
import * as api from "./api.js";
import { byId, themed } from "./dom.js";
import { DOUBTFUL } from "./doubts.js";
import { GONE, NOTHING, TRACKED } from "./tracks.js";

const FILM = 30; // height of the small pictures, CSS pixels
const HEAT = 9; // of the line of doubt under them
const TOP = FILM + HEAT + 5; // where rows begin
const TAKEN = 6; // CSS pixels beside a diamond that still mean it
const PAD = 18; // left and right: room for the object's number, and to touch the first and last frame

export class Timeline {
  constructor(app) {
    this.app = app;
    this.strip = byId("strip");
    this.canvas = byId("strip-canvas");
    this.input = byId("playhead");
    this.film = new Map(); // frame -> ImageBitmap, or null while it is fetched
    this.input.addEventListener("input", () => {
      app.transport.stop();
      app.session.show(Number(this.input.value));
    });
    this.strip.addEventListener("pointerdown", (event) => this.#grab(event));
    this.strip.addEventListener("pointermove", (event) => event.buttons && this.#grab(event));
    new ResizeObserver(() => this.draw()).observe(this.strip);
  }

  /** The place of the pointer as a frame; the input alone would reckon with the width of its thumb. */
  #grab(event) {
    if (!event.isPrimary) return;
    event.preventDefault();
    this.input.focus({ preventScroll: true });
    if (event.type === "pointerdown") this.strip.setPointerCapture(event.pointerId);
    const bounds = this.strip.getBoundingClientRect();
    const part = (event.clientX - bounds.left - PAD) / (bounds.width - 2 * PAD);
    this.app.transport.stop();
    const prompted = event.type === "pointerdown" ? this.#promptAt(event.clientX - bounds.left, event.clientY - bounds.top) : null;
    if (prompted) this.app.session.select(prompted.id);
    this.app.session.show(prompted ? prompted.frame : Math.round(part * (this.app.session.frames - 1)));
  }

  /** The diamond under the pointer: its object is selected, and its frame shown. */
  #promptAt(x, y) {
    const { objects } = this.app.session.doc;
    const object = objects[Math.floor((y - TOP) / this.pitch)];
    const frames = Object.keys(object?.frames ?? {}).map(Number).filter((frame) => Math.abs(this.#x(frame) - x) <= TAKEN);
    if (!frames.length) return null;
    return { id: object.id, frame: frames.reduce((best, frame) => (Math.abs(this.#x(frame) - x) < Math.abs(this.#x(best) - x) ? frame : best)) };
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
    const { objects } = this.app.session.doc;
    const small = window.innerWidth <= 760;
    const rows = Math.min(Math.max(objects.length, 2), small ? 3 : 6);
    const height = TOP + 5 + rows * 14;
    if (this.strip.style.height !== `${height}px`) this.strip.style.height = `${height}px`;
  }

  draw() {
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      if (this.app.session?.video) this.#paint();
    });
  }

  #x(frame) {
    const { session } = this.app;
    return PAD + (this.width - 2 * PAD) * (session.frames > 1 ? frame / (session.frames - 1) : 0);
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
    const { objects } = session.doc;
    const pitch = this.pitch = Math.min(14, (clientHeight - TOP - 3) / Math.max(objects.length, 1));
    this.#paintDoubt(context);
    this.#paintRange(context, clientHeight);
    objects.forEach((object, index) => this.#paintRow(context, object, TOP + pitch * (index + 0.5), pitch));
    this.#paintHead(context, clientHeight);
    this.#describe();
  }

  #paintFilm(context) {
    const { session } = this.app;
    const wide = (FILM * session.width) / session.height;
    const many = Math.max(1, Math.round((this.width - 2 * PAD) / wide));
    const each = (this.width - 2 * PAD) / many;
    for (let i = 0; i < many; i++) {
      const frame = Math.round(((i + 0.5) / many) * (session.frames - 1));
      const bitmap = this.film.get(frame);
      if (bitmap) {
        const seen = Math.min(bitmap.width, (bitmap.height * each) / FILM);
        context.drawImage(bitmap, (bitmap.width - seen) / 2, 0, seen, bitmap.height, PAD + i * each, 0, each + 0.5, FILM);
      } else if (bitmap === undefined && session.ready && !this.fetching) {
        this.#fetch(frame); // one after the other: a browser opens six connections, and clicks need one
      }
    }
  }

  /** Bars that are the higher the more doubtful a frame is; filled where it is one to look at. */
  #paintDoubt(context) {
    const { session } = this.app;
    const step = (this.width - 2 * PAD) / Math.max(session.frames - 1, 1);
    const bottom = FILM + HEAT + 1;
    const bars = new Map(); // pixel -> doubt: a long video has more frames than pixels
    for (let frame = 0; frame < session.frames; frame++) {
      const doubt = session.doubts.at(frame);
      const left = Math.round(this.#x(frame) - step / 2);
      if (doubt > (bars.get(left) ?? 0.02)) bars.set(left, doubt);
    }
    for (const [left, doubt] of bars) {
      const height = Math.max(1, doubt * HEAT);
      context.fillStyle = themed(doubt >= DOUBTFUL ? "--doubt" : "--quiet");
      context.fillRect(Math.max(left, PAD - 2), bottom - height, Math.max(1, step - 0.5), height);
    }
  }

  /** What lies outside of the in and out points is veiled, with a bracket at each. */
  #paintRange(context, height) {
    const { range: { first, last }, frames } = this.app.session;
    context.fillStyle = themed("--canvas");
    context.globalAlpha = 0.7;
    if (first > 0) context.fillRect(0, 0, this.#x(first), height);
    if (last < frames - 1) context.fillRect(this.#x(last), 0, this.width - this.#x(last), height);
    context.globalAlpha = 1;
    context.fillStyle = themed("--text");
    for (const [frame, way] of [[first, 1], [last, -1]]) {
      if (frame === (way > 0 ? 0 : frames - 1)) continue;
      const x = this.#x(frame);
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

  #paintRow(context, object, y, pitch) {
    const { session } = this.app;
    const half = Math.min(3, pitch / 2 - 1);
    const step = (this.width - 2 * PAD) / Math.max(session.frames - 1, 1);
    context.globalAlpha = object.visible ? 1 : 0.4;
    context.fillStyle = themed("--quiet");
    context.fillRect(PAD, y - 0.5, this.width - 2 * PAD, 1);
    context.font = "600 9px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    if (pitch >= 9) context.fillText(object.id, 6, y + 0.5, 10); // as in the list: colour alone tells nobody enough
    context.lineWidth = 1;
    context.strokeStyle = themed("--quiet");
    for (const [value, from, to] of session.tracks.stretches(object.id)) {
      const left = Math.max(PAD - 2, this.#x(from) - step / 2), right = Math.min(this.width - PAD + 2, this.#x(to - 1) + step / 2);
      if (value === TRACKED) {
        context.fillStyle = object.color;
        context.fillRect(left, y - half, right - left, 2 * half);
      } else if (value === GONE) {
        context.clearRect(left, y - half, right - left, 2 * half);
        context.setLineDash([3, 3]);
      }
      context.strokeRect(left + 0.5, y - half + 0.5, right - left - 1, 2 * half - 1); // seen on every ground, whatever the colour
      context.setLineDash([]);
    }
    for (const frame of object.locked ?? []) this.#paintLock(context, this.#x(frame), y, Math.min(4, pitch / 2 - 1));
    for (const frame of Object.keys(object.frames)) this.#paintPrompt(context, this.#x(Number(frame)), y, Math.min(5.5, pitch / 2));
    context.globalAlpha = 1;
  }

  /** A padlock. */
  #paintLock(context, x, y, size) {
    context.lineWidth = 1.5;
    context.strokeStyle = themed("--text");
    context.fillStyle = themed("--canvas");
    context.beginPath();
    context.arc(x, y - size * 0.4, size * 0.7, Math.PI, 0);
    context.stroke();
    context.beginPath();
    context.roundRect(x - size, y - size * 0.4, 2 * size, size * 1.5, 1);
    context.fill();
    context.stroke();
  }

  #paintPrompt(context, x, y, size) {
    context.beginPath();
    context.moveTo(x, y - size);
    context.lineTo(x + size, y);
    context.lineTo(x, y + size);
    context.lineTo(x - size, y);
    context.closePath();
    context.fillStyle = "#fff";
    context.fill();
    context.lineWidth = 1.5;
    context.strokeStyle = "#1d1d1f"; // on the white of the diamond, in both themes
    context.stroke();
  }

  #paintHead(context, height) {
    const x = Math.round(this.#x(this.app.session.frame)) + 0.5;
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
