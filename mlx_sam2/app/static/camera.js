// A camera as source: the page sends a frame when the one before is answered, so what the model is too slow for is
// dropped, never queued. A click goes out with the frame that it was made on.
import * as api from "./api.js";
import { announce, byId, make } from "./dom.js";
import { PALETTE } from "./document.js";
import { rasterise } from "./rle.js";

const SIDE = 1280; // of the frames that are sent
const QUALITY = 0.85;

export class Camera {
  constructor(app) {
    this.app = app;
    this.on = false;
    this.dialog = byId("camera-dialog");
    this.canvas = make("canvas", { id: "camera-picture", tabindex: "0", role: "img", "aria-label": "Camera: click what is to be tracked" });
    this.text = make("p", { class: "quiet figure", id: "camera-text" });
    this.fresh = make("button", { class: "big", id: "camera-new", onclick: () => this.#begin() }, "New object");
    this.dialog.append(make("div", { class: "sheet" }, make("h2", { id: "camera-title" }, "Camera"), this.canvas, this.text,
      make("div", { class: "choices" },
        make("button", { class: "big primary", id: "camera-keep", onclick: () => this.#end(true) }, "Stop and keep"),
        this.fresh, make("button", { class: "big", id: "camera-discard", onclick: () => this.#end(false) }, "Discard"))));
    this.dialog.addEventListener("cancel", (event) => { event.preventDefault(); this.#end(false); });
    this.canvas.addEventListener("click", (event) => this.#click(event, !event.altKey));
    this.canvas.addEventListener("contextmenu", (event) => { event.preventDefault(); this.#click(event, false); });
  }

  async open() {
    if (this.on) return;
    if (!navigator.mediaDevices) {
      this.app.say("Browsers give cameras to pages of this computer only, or over an encrypted connection.");
      return;
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: SIDE } }, audio: false });
    } catch (error) {
      this.app.say(error.name === "NotAllowedError" ? "The browser was not allowed to use the camera." : `There is no camera to be used (${error.message}).`);
      return;
    }
    Object.assign(this, { on: true, clicks: [], object: 1, shown: null, came: 0, times: [], recorded: 0 });
    this.video = make("video", { playsinline: "", muted: "" });
    this.video.muted = true;
    this.video.srcObject = this.stream;
    this.dialog.showModal();
    try {
      await this.video.play();
      this.id = (await api.live()).id;
      await this.#loop();
    } catch (error) {
      this.#leave();
      this.app.problem(error);
    }
  }

  #begin() {
    this.object = Math.max(0, ...Object.keys(this.shown?.masks ?? {}).map(Number)) + 1;
    announce("New object: click it in the picture");
    this.canvas.focus();
  }

  #click(event, include) {
    if (!this.shown) return;
    const bounds = this.canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height];
    this.clicks.push({ blob: this.shown.blob, ask: { x: Math.round(x * this.canvas.width), y: Math.round(y * this.canvas.height), label: Number(include), object: this.object } });
  }

  /** The next picture that the camera gives, as a JPEG. */
  async #grab() {
    await new Promise((resolve) => this.video.requestVideoFrameCallback((_, { presentedFrames }) => { this.came = presentedFrames; resolve(); }));
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, SIDE / Math.max(width, height));
    const canvas = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
    canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
    return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  }

  async #loop() {
    while (this.on) {
      const click = this.clicks.shift();
      const blob = click?.blob ?? (await this.#grab());
      if (!this.on) return;
      this.sending = api.liveFrame(this.id, blob, click?.ask ?? {});
      const { masks, recorded } = await this.sending;
      if (!this.on) return;
      const picture = await createImageBitmap(blob);
      Object.assign(this, { shown: { blob, masks }, recorded });
      this.#paint(picture, masks);
      picture.close();
      this.#tell(performance.now());
    }
  }

  #paint(picture, masks) {
    const { width, height } = picture;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    for (const [object, mask] of Object.entries(masks)) {
      const raster = rasterise(mask);
      if (!raster) continue;
      const colour = PALETTE[(object - 1) % PALETTE.length][0];
      const tint = new ImageData(raster.columns, raster.rows);
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      raster.cells.forEach((inside, at) => inside && tint.data.set([r, g, b, 140], 4 * at));
      const layer = new OffscreenCanvas(raster.columns, raster.rows);
      layer.getContext("2d").putImageData(tint, 0, 0);
      context.drawImage(layer, raster.x, raster.y, raster.width, raster.height);
      context.font = `600 ${Math.round(height / 24)}px system-ui, sans-serif`;
      context.lineWidth = height / 160;
      context.strokeStyle = "#000";
      context.fillStyle = "#fff";
      context.textBaseline = "top";
      context.strokeText(object, raster.x + 2, raster.y + 2); // colour alone tells nobody enough
      context.fillText(object, raster.x + 2, raster.y + 2);
    }
  }

  #tell(now) {
    this.times.push({ now, came: this.came });
    while (this.times.length > 2 && now - this.times[0].now > 2000) this.times.shift();
    const first = this.times[0], seconds = (now - first.now) / 1000;
    const rate = (count) => (seconds ? (count / seconds).toFixed(1) : "–");
    const words = Object.keys(this.shown.masks).length ? "tracked" : "shown; click what is to be tracked";
    this.text.textContent = `${rate(this.times.length - 1)} of ${rate(this.came - first.came)} frames a second ${words} · ${this.recorded} kept`;
  }

  #leave() {
    this.on = false;
    for (const track of this.stream.getTracks()) track.stop();
    this.dialog.close();
  }

  /** Ends it: what was recorded becomes a session, or is removed. */
  async #end(keeps) {
    if (!this.on) return;
    this.#leave();
    if (!this.id) return;
    const { id } = this;
    this.id = null;
    try {
      await this.sending?.catch(() => {}); // its answer says nothing any more
      if (keeps) this.app.openSession(await api.keepLive(id));
      else await api.endLive(id);
    } catch (error) {
      this.app.problem(error);
    }
  }
}
