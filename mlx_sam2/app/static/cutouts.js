// The cut-out of an object as it leaves the page without a menu: copied, or dragged by its thumbnail.
import * as api from "./api.js";
import { find } from "./document.js";
import { announce, make } from "./dom.js";

const SIDE = 26; // CSS pixels of a thumbnail

export class Cutouts {
  constructor(app) {
    this.app = app;
  }

  /** Puts the active object on the clipboard as a PNG. */
  async copy() {
    const { session } = this.app;
    const object = session && find(session.doc, session.active);
    if (!object || !session.hasMask) {
      this.app.say("Click an object first: its cut-out is what is copied.");
      return;
    }
    const { frame } = session;
    try {
      const picture = session.sync.edit(() => api.cutout(session.id, object.id, frame, this.app.exports.edges.changed)); // once the clicks have arrived
      await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
      this.app.say(`${object.name} is copied: paste it anywhere.`);
    } catch (error) {
      if (error instanceof api.ApiError) session.problem(error);
      else this.app.say(`The browser did not let it be copied (${error.message}). Export gives a file.`);
    }
    announce(`${object.name} copied`);
  }

  /** A thumbnail of an object: the part of the picture around it. Dragged out, it is the cut-out. */
  thumbnail(id) {
    const canvas = make("canvas", { class: "thumb", draggable: "true", title: "Drag it out: a PNG with a transparent ground" });
    canvas.addEventListener("dragstart", (event) => {
      const { session } = this.app;
      const name = find(session.doc, id).name.replace(/[\\/:*?"<>|]/g, "_");
      const url = new URL(api.cutoutUrl(session.id, id, session.frame, this.app.exports.edges.changed), location.href).href;
      event.dataTransfer.effectAllowed = "copy";
      event.dataTransfer.setData("DownloadURL", `image/png:${name}.png:${url}`);
      event.dataTransfer.setData("text/uri-list", url);
    });
    return canvas;
  }

  /** Draws a thumbnail again if its mask or its frame has changed. */
  draw(canvas, id) {
    const { session } = this.app;
    const { frame } = session;
    const mask = session.masks.get(frame)?.get(id);
    const picture = session.pictures.get(frame);
    const key = mask?.area ? `${frame} ${mask.bbox} ${mask.area}` : "";
    if (key && !picture) return; // on its way
    if (canvas.dataset.key === key) return;
    canvas.dataset.key = key;
    const ratio = window.devicePixelRatio, side = Math.round(SIDE * ratio);
    canvas.width = canvas.height = side; // and empty again
    if (!key) return;
    const scale = picture.width / session.width;
    const [x, y, width, height] = mask.bbox.map((value) => value * scale);
    const fit = side / Math.max(width, height);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, x, y, width, height, (side - width * fit) / 2, (side - height * fit) / 2, width * fit, height * fit);
  }
}
