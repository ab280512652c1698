// Where the picture lies in the window: a scale (CSS pixels per pixel of the picture) and the place of its corner.

const LARGEST = 32; // CSS pixels per pixel
const MARGIN = 24;

/** The scale that fits a picture into a window with a margin. */
export function fitScale(room, picture) {
  const margin = room.width < 600 ? 8 : MARGIN;
  const scale = Math.min((room.width - 2 * margin) / picture.width, (room.height - 2 * margin) / picture.height);
  return Math.max(scale, 0.01);
}

export class View extends EventTarget {
  constructor(stage) {
    super();
    this.stage = stage;
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.fitted = true;
    this.picture = { width: 1, height: 1 };
    this.width = stage.clientWidth;
    this.height = stage.clientHeight;
    new ResizeObserver(() => this.#resized()).observe(stage);
  }

  /** A new picture, of this size. */
  reset({ width, height }) {
    this.picture = { width, height };
    this.fit();
  }

  get fitScale() { return fitScale(this, this.picture); }

  fit() {
    this.fitted = true;
    this.scale = Math.min(this.fitScale, 8);
    this.x = (this.width - this.picture.width * this.scale) / 2;
    this.y = (this.height - this.picture.height * this.scale) / 2;
    this.#changed();
  }

  /** Zooms so that the point (px, py) of the stage stays where it is. */
  zoomTo(scale, px = this.width / 2, py = this.height / 2) {
    const wanted = Math.min(LARGEST, Math.max(Math.min(this.fitScale, 1) / 2, scale));
    this.x = px - ((px - this.x) * wanted) / this.scale;
    this.y = py - ((py - this.y) * wanted) / this.scale;
    this.scale = wanted;
    this.fitted = false;
    this.#contain();
    this.#changed();
  }

  zoomBy(factor, px, py) {
    this.zoomTo(this.scale * factor, px, py);
  }

  panBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.#contain();
    this.#changed();
  }

  /** Moves the picture until its point (x, y) can be seen. */
  reveal(x, y) {
    const [px, py] = this.toStage(x, y);
    const dx = Math.max(40 - px, 0) || Math.min(this.width - 40 - px, 0);
    const dy = Math.max(40 - py, 0) || Math.min(this.height - 40 - py, 0);
    if (dx || dy) this.panBy(dx, dy);
  }

  toPicture(px, py) {
    return [(px - this.x) / this.scale, (py - this.y) / this.scale];
  }

  toStage(x, y) {
    return [this.x + x * this.scale, this.y + y * this.scale];
  }

  holds(x, y) {
    return x >= 0 && y >= 0 && x < this.picture.width && y < this.picture.height;
  }

  clamp(x, y) {
    return [Math.min(Math.max(x, 0), this.picture.width), Math.min(Math.max(y, 0), this.picture.height)];
  }

  /** Keeps a part of the picture in the window. */
  #contain() {
    const keep = 64;
    const width = this.picture.width * this.scale, height = this.picture.height * this.scale;
    this.x = Math.min(this.width - keep, Math.max(keep - width, this.x));
    this.y = Math.min(this.height - keep, Math.max(keep - height, this.y));
  }

  #resized() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (width === this.width && height === this.height) return;
    const [x, y] = this.toPicture(this.width / 2, this.height / 2);
    Object.assign(this, { width, height });
    if (this.fitted) {
      this.fit();
    } else {
      this.x = width / 2 - x * this.scale;
      this.y = height / 2 - y * this.scale;
      this.#contain();
      this.#changed();
    }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
