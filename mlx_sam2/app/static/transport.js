// Playing a video, stepping through it, and tracking: buttons, progress and the clock.
import { find, withLock } from "./document.js";
import { announce, byId, setIcon } from "./dom.js";
import { FilmPlayer } from "./film_player.js";
import { NOTHING } from "./tracks.js";

const AHEAD = 8; // frames fetched before they are shown

export class Transport {
  constructor(app) {
    this.app = app;
    this.playing = false;
    this.film = new FilmPlayer();
    byId("play").addEventListener("click", () => this.toggle());
    byId("step-back").addEventListener("click", () => this.step(-1));
    byId("step-on").addEventListener("click", () => this.step(1));
    byId("track-back").addEventListener("click", () => this.track("backward"));
    byId("track-both").addEventListener("click", () => this.track("both"));
    byId("track-on").addEventListener("click", () => this.track("forward"));
    byId("lock").addEventListener("click", () => this.lock());
    byId("doubt").addEventListener("click", () => this.doubt(1));
    byId("job-stop").addEventListener("click", () => app.session.cancel());
  }

  step(by) {
    this.stop();
    this.app.session.show(this.app.session.frame + by);
  }

  /** To the next prompt in a direction, 1 or -1, of any object. */
  jump(way) {
    const { session } = this.app;
    if (!session?.video) return;
    const frames = [...new Set(session.doc.objects.flatMap(({ frames }) => Object.keys(frames).map(Number)))].sort((a, b) => a - b);
    const next = way > 0 ? frames.find((frame) => frame > session.frame) : frames.findLast((frame) => frame < session.frame);
    this.stop();
    if (next === undefined) announce(way > 0 ? "No prompt after this frame" : "No prompt before this frame");
    else session.show(next);
  }

  /** To the next frame that the model is in doubt about, in a direction. */
  doubt(way) {
    const { session } = this.app;
    if (!session?.video) return;
    const next = session.doubts.next(way);
    this.stop();
    if (next === null) this.app.say(way > 0 ? "No doubtful frame after this one." : "No doubtful frame before this one.");
    else session.show(next);
  }

  /** The objects with a mask on this frame that is not kept yet; all of those where each is. */
  #lockable(ids) {
    const { session } = this.app;
    return ids.filter((id) => session.tracks.at(id, session.frame) !== NOTHING || find(session.doc, id).frames[session.frame]);
  }

  /** Keeps the masks of this frame whatever is tracked, of all objects or the active one; or lets tracking replace them. */
  lock({ active = false } = {}) {
    const { session } = this.app;
    if (!session?.video) return;
    const ids = this.#lockable(active ? [session.active].filter((id) => id !== null) : session.doc.objects.map(({ id }) => id));
    if (!ids.length) {
      this.app.say("There is no mask on this frame to keep.");
      return;
    }
    const { frame } = session;
    const on = !ids.every((id) => find(session.doc, id).locked?.includes(frame));
    session.change(ids.reduce((doc, id) => withLock(doc, id, frame, on), session.doc), on ? "Keep the frame" : "Let the frame go");
    announce(on ? "Tracking keeps this frame" : "Tracking may replace this frame");
  }

  toggle() {
    if (this.playing) return this.stop();
    const { session } = this.app;
    if (!session?.video) return undefined;
    const { first, last } = session.range;
    if (session.frame >= last || session.frame < first) session.show(first);
    this.playing = true;
    this.began = null;
    setIcon(byId("play"), "pause");
    byId("play").setAttribute("aria-label", "Pause");
    if (this.film.state === "ready") return this.#playFilm(session);
    return requestAnimationFrame((now) => this.#tick(now));
  }

  /** By the browser's decoder: it may drop frames, but keeps the rate. When it stops, the server's picture comes. */
  #playFilm(session) {
    const { last } = session.range;
    session.pictures.rest(true);
    return this.film.play(session.frame, {
      last,
      show: (number, bitmap) => {
        if (bitmap) session.pictures.lend(number, bitmap);
        session.show(number);
        session.look(Math.min(number + AHEAD, last)); // its masks
      },
      ended: () => this.stop(),
      paused: () => this.stop(),
      failed: () => {
        session.pictures.rest(false);
        requestAnimationFrame((now) => this.#tick(now));
      },
    });
  }

  stop() {
    if (!this.playing) return;
    this.playing = false;
    setIcon(byId("play"), "play");
    byId("play").setAttribute("aria-label", "Play");
    this.film.stop();
    const { session } = this.app;
    if (!session?.pictures.rests) return;
    session.pictures.rest(false);
    session.look();
  }

  /** Goes on when the next picture is there and its time has come; a slow line makes it slower, not jumpy. */
  #tick(now) {
    const { session } = this.app;
    if (!this.playing || !session) return;
    const next = session.frame + 1;
    if (next > session.range.last) {
      this.stop();
      return;
    }
    for (let n = Math.min(next + AHEAD - 1, session.range.last); n >= next; n--) session.look(n);
    this.began ??= now;
    if (now - this.began >= 1000 / (session.fps || 24) - 2 && session.has(next)) {
      this.began = Math.max(this.began + 1000 / (session.fps || 24), now - 100);
      session.show(next);
    }
    requestAnimationFrame((time) => this.#tick(time));
  }

  track(direction, count) {
    const { session } = this.app;
    if (!session?.video || session.job || !this.app.canPrompt()) return;
    if (!session.doc.objects.some(({ frames }) => Object.keys(frames).length)) {
      this.app.say("Click an object on any frame first; then it can be tracked.");
      return;
    }
    const ask = this.app.trackMenu.ask(direction, count);
    if (!ask) return;
    this.stop();
    session.track(ask);
    announce("Tracking");
  }

  show() {
    const { session } = this.app;
    byId("timeline").hidden = !session.video;
    if (!session.video) return;
    const job = session.job?.kind === "propagate" ? session.job : null;
    byId("track").hidden = Boolean(job);
    byId("job").hidden = !job;
    for (const button of byId("track").children) button.disabled = Boolean(session.job) || !session.ready;
    if (session.frame === 0) byId("track-back").disabled = true;
    if (job) {
      byId("job-progress").value = job.total ? job.done / job.total : 0;
      byId("job-text").textContent = job.stopping ? "Stopping" : job.total ? `${job.done} of ${job.total}` : "Waiting";
      byId("job-stop").disabled = Boolean(job.stopping) || !job.id;
    }
    const ids = this.#lockable(session.doc.objects.map(({ id }) => id));
    const kept = ids.length > 0 && ids.every((id) => find(session.doc, id).locked?.includes(session.frame));
    byId("lock").disabled = !ids.length;
    byId("lock").setAttribute("aria-pressed", String(kept));
    const seconds = session.fps ? ` · ${(session.frame / session.fps).toFixed(2)} s` : "";
    byId("clock").textContent = `${session.frame + 1} / ${session.frames}${seconds}`;
    byId("step-back").disabled = session.frame === 0;
    byId("step-on").disabled = session.frame === session.frames - 1;
  }
}
