// Playing by the browser's own decoder, where it can read the file and its times tell the frames.
import * as api from "./api.js";

const SURE = 0.4; // of a frame: how far a time may lie from the frame's that it is taken for

const canCount = "requestVideoFrameCallback" in HTMLVideoElement.prototype && "VideoFrame" in window; // of secure pages only

export class FilmPlayer {
  constructor() {
    this.video = null; // only while it can be played, or may turn out to be
    this.state = "none"; // "asking", "ready"
    this.on = null; // while playing: {last, show(number), ended(), failed()}
  }

  #is(state) {
    this.state = state;
    document.body.dataset.film = state; // what plays; the tests wait for it
  }

  /** Gets ready to play a session; without a word it stays at "none" where it can't. */
  async open(session) {
    this.close();
    if (!session.video || !canCount) return;
    this.session = session;
    this.#is("asking");
    let fps = null;
    try {
      ({ fps } = await api.play(session.id));
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error; // else pictures are asked for as ever, and say what is wrong
    }
    if (session !== this.session) return;
    if (fps === null) return this.close();
    this.fps = fps;
    const video = document.createElement("video");
    this.video = video;
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: api.mediaAddress(session.id) });
    video.addEventListener("error", () => video === this.video && this.#fail());
    video.addEventListener("loadeddata", () => video === this.video && this.#loaded(), { once: true });
    video.addEventListener("ended", () => video === this.video && this.#end());
    video.addEventListener("pause", () => video === this.video && !video.ended && this.on?.paused()); // by the browser: the page is hidden
  }

  close() {
    this.stop();
    this.video?.removeAttribute("src");
    this.video?.load(); // lets the connection go
    this.video = this.session = null;
    this.#is("none");
  }

  #loaded() {
    const { video, session } = this;
    if (video.videoWidth !== session.width || video.videoHeight !== session.height) return this.#fail();
    try {
      const first = new VideoFrame(video);
      this.first = first.timestamp / 1e6;
      first.close();
    } catch {
      return this.#fail(); // its first frame is not there
    }
    this.#is("ready");
  }

  #fail() {
    const { on } = this;
    this.close();
    on?.failed();
  }

  #end() {
    const { on } = this;
    if (!on) return;
    on.show(on.last);
    on.ended();
  }

  /** Plays from a frame; `on` hears of it: {last, show(number, bitmap), ended(), paused(), failed()}. */
  async play(frame, on) {
    const { video } = this;
    this.on = on;
    video.currentTime = this.first + (frame + 0.5) / this.fps;
    video.requestVideoFrameCallback(() => this.#look(on));
    try {
      await video.play();
    } catch {
      if (this.on === on) this.#fail(); // else it was stopped before it began
    }
  }

  stop() {
    this.on = null;
    this.video?.pause();
  }

  /** The frame that the video shows now: its own time tells which it is; the callback's may be one behind. */
  async #look(on) {
    const { video } = this;
    if (this.on !== on) return;
    let picture;
    try {
      picture = new VideoFrame(video);
    } catch {
      return this.#fail();
    }
    const place = (picture.timestamp / 1e6 - this.first) * this.fps, number = Math.round(place);
    const bitmap = await createImageBitmap(picture);
    picture.close();
    if (this.on !== on) return bitmap.close();
    if (Math.abs(place - number) > SURE || number < 0 || number >= this.session.frames) return this.#fail();
    if (number <= on.last) on.show(number, bitmap);
    else bitmap.close();
    if (number >= on.last) this.#end();
    else video.requestVideoFrameCallback(() => this.#look(on));
  }
}
