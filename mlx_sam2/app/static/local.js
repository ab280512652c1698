// The picture of a file that is being opened: painted from the file itself, before the server has it.
import { byId, make } from "./dom.js";
import { fitScale } from "./canvas/view.js";

const LONGEST = 4096; // pixels of a side that are kept

/** The file as the browser decodes it, turned by its EXIF orientation: {bitmap, width, height}; null where it can't. */
async function decode(file) {
  try {
    const whole = await createImageBitmap(file, { imageOrientation: "from-image" });
    const { width, height } = whole;
    const part = LONGEST / Math.max(width, height);
    if (part >= 1) return { bitmap: whole, width, height };
    const size = { resizeWidth: Math.round(width * part), resizeHeight: Math.round(height * part), resizeQuality: "medium" };
    const bitmap = await createImageBitmap(whole, size);
    whole.close();
    return { bitmap, width, height };
  } catch {
    return null; // HEIC, TIFF, a damaged file: the server reads it, or says why not
  }
}

/** One file that is being opened. End it with `give` or `end`. */
export class LocalPicture {
  constructor(app, file) {
    this.app = app;
    this.session = null;
    this.isOver = false;
    this.painted = this.#begin(file);
  }

  /** Lends the picture to the session that has opened, until the server's own comes. */
  give(session) {
    this.session = session;
    if (this.picture) this.#lend();
    this.end();
  }

  end() {
    this.isOver = true;
    this.canvas?.remove();
    this.picture?.bitmap.close();
    this.picture = null;
  }

  async #begin(file) {
    this.picture = await decode(file);
    if (!this.picture) return;
    if (!this.isOver) this.#paint();
    else if (this.session) this.give(this.session);
    else this.end();
  }

  #lend() {
    const { session, picture: { bitmap, width, height } } = this;
    if (session.closed || session.pictures.has(0) || width !== session.width || height !== session.height) return;
    session.pictures.lend(0, bitmap);
    this.picture = null;
  }

  #paint() {
    const { view } = this.app;
    const { bitmap, width, height } = this.picture;
    const ratio = window.devicePixelRatio;
    this.canvas = make("canvas", { id: "local", width: Math.round(view.width * ratio), height: Math.round(view.height * ratio), "aria-hidden": "true" });
    const scale = Math.min(fitScale(view, { width, height }), 8);
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (view.width - width * scale) / 2, (view.height - height * scale) / 2, width * scale, height * scale);
    byId("empty").after(this.canvas);
    performance.mark("local picture");
  }
}
