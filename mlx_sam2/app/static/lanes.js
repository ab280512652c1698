// The rows of the timeline: one for each object, with its picture and name, and what is known of its frames. Where there
// are more than fit, they are scrolled: by the wheel, or by a drag over the names.
import { themed } from "./dom.js";
import { GONE, TRACKED } from "./tracks.js";

const PITCH = 16; // of rows, CSS pixels
const NAMES = 132; // wide
const NUMBERS = 18; // where there is no room for names
const THUMBNAIL = 13;
const TAKEN = 6; // CSS pixels beside a diamond that still mean it
const FONT = "11px system-ui, sans-serif";

export class Lanes {
  /** `top`: where rows begin. */
  constructor(app, timeline, top) {
    Object.assign(this, { app, timeline, top, scroll: 0, shown: null });
    timeline.strip.addEventListener("wheel", (event) => {
      const by = event.shiftKey ? 0 : event.deltaY;
      if (!by || !this.#most) return;
      event.preventDefault();
      this.scrollBy(by);
    }, { passive: false });
  }

  get #objects() { return this.app.session.doc.objects; }
  get #room() { return this.timeline.strip.clientHeight - this.top - 3; }
  get #most() { return Math.max(0, this.#objects.length * PITCH - this.#room); }
  get pitch() { return PITCH; }
  get small() { return window.innerWidth <= 760; }
  /** Where frames begin. */
  get left() { return this.small ? NUMBERS : NAMES; }
  get height() { return Math.min(Math.max(this.#objects.length, 2), this.small ? 3 : 6) * PITCH; }

  scrollBy(by) {
    this.scroll = Math.max(0, Math.min(this.#most, this.scroll + by));
    this.timeline.draw();
  }

  /** The object whose row is at a height. */
  at(y) {
    return y < this.top ? null : this.#objects[Math.floor((y - this.top + this.scroll) / PITCH)] ?? null;
  }

  /** The diamond at a place: {id, frame} or null. */
  promptAt(x, y) {
    const object = this.at(y);
    const far = (frame) => Math.abs(this.timeline.x(frame) - x);
    const frames = Object.keys(object?.frames ?? {}).map(Number).filter((frame) => far(frame) <= TAKEN);
    return frames.length ? { id: object.id, frame: frames.reduce((best, frame) => (far(frame) < far(best) ? frame : best)) } : null;
  }

  /** What is selected elsewhere comes into sight. */
  #follow() {
    const { session } = this.app;
    const key = `${session.id} ${session.active}`;
    if (key !== this.shown) {
      this.shown = key;
      const row = this.#objects.findIndex(({ id }) => id === session.active);
      if (row >= 0) this.scroll = Math.max(Math.min(this.scroll, row * PITCH), (row + 1) * PITCH - this.#room);
    }
    this.scroll = Math.max(0, Math.min(this.scroll, this.#most));
  }

  paint(context) {
    this.#follow();
    const { width } = this.timeline;
    context.save();
    context.beginPath();
    context.rect(0, this.top - 1, width, this.#room + 2);
    context.clip();
    this.#objects.forEach((object, row) => {
      const y = this.top + PITCH * (row + 0.5) - this.scroll;
      if (y < this.top - PITCH || y > this.top + this.#room + PITCH) return;
      this.#paintName(context, object, y);
      this.#paintFrames(context, object, y);
    });
    context.restore();
    this.#paintBar(context, width);
  }

  /** How far the rows are scrolled, where there are more than fit. */
  #paintBar(context, width) {
    const most = this.#most;
    if (!most) return;
    const room = this.#room, size = Math.max(14, room * room / (room + most));
    context.fillStyle = themed("--quiet");
    context.beginPath();
    context.roundRect(width - 6, this.top + (room - size) * (this.scroll / most), 4, size, 2);
    context.fill();
  }

  #paintName(context, object, y) {
    const isActive = object.id === this.app.session.active;
    context.globalAlpha = object.visible ? 1 : 0.55;
    context.textBaseline = "middle";
    if (isActive) {
      context.fillStyle = themed("--tint");
      context.fillRect(0, y - PITCH / 2, this.left - 10, PITCH);
      context.fillStyle = themed("--text");
      context.fillRect(0, y - PITCH / 2, 2, PITCH); // a mark beside the tint
    }
    const ink = context.fillStyle = themed(isActive ? "--text" : "--quiet");
    context.textAlign = "center";
    context.font = "600 9px system-ui, sans-serif";
    context.fillText(object.id, this.small ? 7 : 11, y + 0.5, this.small ? 10 : 14); // as in the list: colour alone tells nobody enough
    if (!this.small) {
      this.#paintThumbnail(context, object, 21, y - THUMBNAIL / 2);
      context.fillStyle = ink;
      context.textAlign = "left";
      context.font = `${isActive ? "600 " : ""}${FONT}`;
      context.fillText(fitted(context, object.name, this.left - 54), 39, y + 0.5);
    }
    context.globalAlpha = 1;
  }

  /** As the list of objects shows it, framed in the object's colour. */
  #paintThumbnail(context, object, x, y) {
    const picture = this.app.objects.rows.get(object.id)?.querySelector("canvas.thumb");
    context.fillStyle = object.color;
    context.fillRect(x, y, THUMBNAIL, THUMBNAIL);
    if (!picture?.dataset.key || !picture.width) return;
    context.fillStyle = themed("--canvas");
    context.fillRect(x + 1, y + 1, THUMBNAIL - 2, THUMBNAIL - 2);
    context.drawImage(picture, x + 1, y + 1, THUMBNAIL - 2, THUMBNAIL - 2);
  }

  #paintFrames(context, object, y) {
    const { session } = this.app;
    const { timeline: { width, right }, left } = this;
    const half = 3, step = (right - left) / Math.max(session.frames - 1, 1);
    context.globalAlpha = object.visible ? 1 : 0.4;
    context.fillStyle = themed("--quiet");
    context.fillRect(left, y - 0.5, right - left, 1);
    context.lineWidth = 1;
    context.strokeStyle = themed("--quiet");
    for (const [value, from, to] of session.tracks.stretches(object.id)) {
      const begin = Math.max(left - 2, this.timeline.x(from) - step / 2), end = Math.min(right + 2, this.timeline.x(to - 1) + step / 2, width);
      if (value === TRACKED) {
        context.fillStyle = object.color;
        context.fillRect(begin, y - half, end - begin, 2 * half);
      } else if (value === GONE) {
        context.clearRect(begin, y - half, end - begin, 2 * half);
        context.setLineDash([3, 3]);
      }
      context.strokeRect(begin + 0.5, y - half + 0.5, end - begin - 1, 2 * half - 1); // seen on every ground, whatever the colour
      context.setLineDash([]);
    }
    for (const frame of object.locked ?? []) paintLock(context, this.timeline.x(frame), y, 4);
    for (const frame of Object.keys(object.frames)) paintPrompt(context, this.timeline.x(Number(frame)), y, 5.5);
    context.globalAlpha = 1;
  }
}

/** A text, cut to a width. */
function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length--;
  return `${text.slice(0, length).trimEnd()}…`;
}

/** A padlock. */
function paintLock(context, x, y, size) {
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

function paintPrompt(context, x, y, size) {
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
