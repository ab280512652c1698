// Puts the page together: one App that holds the open session and tells every panel when something changed.
import * as api from "./api.js";
import { Painter } from "./canvas/paint.js";
import { Pointer } from "./canvas/pointer.js";
import { View } from "./canvas/view.js";
import { Chooser, EverythingPanel } from "./chooser.js";
import { find, withLooks } from "./document.js";
import { announce, byId, make, toast, watchMenus, watchTheme } from "./dom.js";
import { Exports } from "./exports.js";
import { Files } from "./files.js";
import { Keys } from "./keys.js";
import { login } from "./login.js";
import { MaskPool } from "./masks.js";
import { Objects } from "./objects.js";
import { Session } from "./session.js";
import { Timeline } from "./timeline.js";
import { Tools } from "./tools.js";
import { Transport } from "./transport.js";

class App {
  constructor() {
    this.session = null;
    this.model = { status: "loading", name: "" };
    this.stage = byId("stage");
    this.view = new View(this.stage);
    this.painter = new Painter(this.view, new MaskPool());
    this.tools = new Tools(this);
    this.pointer = new Pointer(this.view, {
      hover: (x, y, event) => this.tools.hover(x, y, event), leave: () => this.tools.leave(),
      tap: (x, y, event) => this.tools.tap(x, y, event), drag: (box) => this.tools.drag(box),
      drop: (box) => this.tools.drop(box), pans: () => this.tools.pans,
    });
    this.objects = new Objects(this);
    this.chooser = new Chooser(this);
    this.everything = new EverythingPanel(this);
    this.transport = new Transport(this);
    this.timeline = new Timeline(this);
    this.exports = new Exports(this);
    this.files = new Files(this);
    this.keys = new Keys(this);
    this.opening = null; // words of an upload under way
    this.view.addEventListener("change", () => this.#showZoom());
    byId("undo").addEventListener("click", () => this.undo());
    byId("redo").addEventListener("click", () => this.redo());
    byId("zoom-fit").addEventListener("click", () => this.view.fit());
    byId("zoom-in").addEventListener("click", () => this.view.zoomBy(1.25));
    byId("zoom-out").addEventListener("click", () => this.view.zoomBy(0.8));
    watchMenus();
    watchTheme(() => {
      this.painter.all();
      this.timeline.draw();
    });
    addEventListener("pagehide", () => this.session?.keepPlace());
    addEventListener("hashchange", () => location.hash.length > 1 && location.hash.slice(1) !== this.session?.id && this.openId(location.hash.slice(1)));
  }

  // ---- start

  async start() {
    try {
      const state = await login(() => api.state());
      this.#takeModel(state.model);
      this.limits = state.limits;
      this.files.offer(state.examples ?? []);
      if (this.model.status === "loading") this.#watchModel();
      const wanted = location.hash.slice(1) || state.open;
      if (!wanted || !(await this.openId(wanted, { quiet: wanted === state.open }))) await this.showEmpty(state.sessions);
    } catch (error) {
      this.problem(error);
      await this.showEmpty([]);
      setTimeout(() => this.start(), 3000);
    }
  }

  /** Before a session is open nobody sends events: asks every second until the model is there. */
  async #watchModel() {
    while (this.model.status === "loading") {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (this.session) continue;
      try {
        this.#takeModel((await api.state()).model);
      } catch (error) {
        if (!error.offline) throw error;
      }
    }
  }

  #takeModel(model) {
    const before = this.model.status;
    this.model = model;
    const words = { loading: "loading", failed: "could not be loaded" }[model.status];
    byId("model").textContent = [model.name, words ?? [model.image_size && `${model.image_size} px`, model.dtype].filter(Boolean).join(" · ")].filter(Boolean).join(" · ");
    if (model.status === "failed") toast(model.message || "The model could not be loaded.", { error: true, key: "model" });
    if (before !== "ready" && model.status === "ready") announce("The model is ready");
    this.showStatus();
  }

  async showEmpty(sessions) {
    document.body.dataset.mode = "empty";
    document.body.dataset.kind = "none";
    byId("empty").hidden = false;
    byId("timeline").hidden = true;
    document.title = "mlx_sam2";
    byId("name").textContent = "mlx_sam2";
    this.tools.cursor();
    this.showStatus();
    const recent = byId("recent");
    recent.hidden = !sessions.length;
    recent.querySelector("ul").replaceChildren(...sessions.slice(0, 4).map(({ id, name }) =>
      make("li", {}, make("button", { onclick: () => this.openId(id) }, name))));
  }

  // ---- sessions

  /** Opens a session that the server has; false when it is gone. */
  async openId(id, { quiet = false } = {}) {
    try {
      this.openSession(await api.session(id));
      return true;
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      history.replaceState(null, "", location.pathname);
      if (error.offline) this.problem(error);
      else if (!quiet) toast("That picture is no longer open: sessions end after a while without use.", { error: true });
      return false;
    }
  }

  openSession(info) {
    this.session?.close();
    const session = new Session(info);
    this.session = session;
    this.painter.open(session);
    history.replaceState(null, "", `#${session.id}`);
    document.body.dataset.mode = "open";
    document.body.dataset.kind = session.kind;
    byId("empty").hidden = true;
    document.title = `${session.name} – mlx_sam2`;
    byId("name").textContent = session.name;
    byId("name").title = session.name;
    this.objects.clear();
    this.#listen(session);
    this.transport.stop();
    this.transport.show();
    if (session.video) this.timeline.open();
    this.view.reset(session);
    this.changed();
    session.look();
    this.stage.focus({ preventScroll: true });
  }

  #listen(session) {
    const mine = (act) => (detail) => session === this.session && act(detail);
    session.on("doc", mine(() => this.changed()))
      .on("masks", mine((frame) => this.#arrived(frame)))
      .on("frame", mine(() => { this.tools.forgetPreview(); this.changed(); this.painter.picture(); session.askAgain(); }))
      .on("picture", mine((frame) => { this.painter.arrived(frame); if (frame === session.frame) this.chooser.show(); this.showStatus(); }))
      .on("tracks", mine(() => this.timeline.draw()))
      .on("regions", mine((regions) => this.#found(regions)))
      .on("job", mine((ended) => { this.transport.show(); this.everything.show(); this.exports.show(ended); this.showStatus(); this.#tellEnd(ended); }))
      .on("status", mine(() => { this.changed(); if (session.ready) announce("Ready"); }))
      .on("model", mine((model) => this.#takeModel(model)))
      .on("waiting", mine((waiting) => this.#wait(waiting)))
      .on("connection", mine((connected) => this.#connected(connected)))
      .on("closed", mine(() => this.#ended()))
      .on("problem", mine((error) => this.problem(error)));
  }

  async closeSession() {
    const { session } = this;
    this.#leave();
    try {
      await api.close(session.id);
      await this.showEmpty((await api.state()).sessions);
    } catch (error) {
      this.problem(error);
    }
  }

  #leave() {
    this.session?.close();
    this.session = null;
    this.painter.open(null);
    history.replaceState(null, "", location.pathname);
  }

  #ended() {
    this.#leave();
    this.showEmpty([]);
    toast("This session has ended: it was not used for a while, or it was closed elsewhere.", { error: true });
  }

  #arrived(frame) {
    if (frame !== this.session.frame && frame !== this.painter.frame) return;
    this.painter.prepare();
    this.changed();
  }

  // ---- what changed is shown

  changed() {
    const { session } = this;
    if (!session) return;
    this.objects.show();
    this.chooser.show();
    this.everything.show();
    this.transport.show();
    this.exports.show();
    this.timeline.draw();
    this.painter.marks();
    for (const [id, label, word] of [["undo", session.history.undoLabel, "Undo"], ["redo", session.history.redoLabel, "Redo"]]) {
      byId(id).disabled = !label;
      byId(id).title = label ? `${word} “${label}”` : word;
    }
    this.showStatus();
  }

  toolChanged() {
    this.changed();
  }

  #found({ masks }) {
    this.painter.region = null;
    this.painter.pool.shown = masks?.length ?? 0;
    if (masks && !masks.length) this.say("Nothing was found. Lower the score and the stability, or take more points per side.");
    else if (masks) announce(`${masks.length} regions found`);
    this.changed();
  }

  #tellEnd(ended) {
    if (ended?.kind !== "propagate") return;
    announce({ done: "Tracking is done", cancelled: "Tracking stopped" }[ended.status] ?? "");
  }

  #wait(waiting) {
    clearTimeout(this.waitTimer);
    this.waiting = false;
    if (waiting) {
      this.waitTimer = setTimeout(() => { this.waiting = true; this.showStatus(); }, 250); // short waits need no words
      return;
    }
    const score = byId("mask-score").textContent;
    if (score && score !== this.told) announce(`Mask: ${score}`);
    this.told = score;
    this.showStatus();
  }

  #connected(connected) {
    if (connected) announce("Connected again");
    this.showStatus();
  }

  #showZoom() {
    const words = `${Math.round(this.view.scale * 100)}%`;
    byId("zoom-fit").textContent = words;
    byId("zoom-fit").setAttribute("aria-label", `${words}: fit to the window`);
  }

  busy(words) {
    this.opening = words;
    this.showStatus();
  }

  /** One line at the foot of the picture: what the app is waiting for, if it is. */
  showStatus() {
    const { session, model } = this;
    const lost = session && !session.connected;
    const waits = this.opening ?? (lost ? "Connection lost. Trying again…" : null)
      ?? (model.status === "loading" ? "Loading the model…" : null)
      ?? (session?.status === "encoding" ? (session.video ? "Reading the video…" : "Looking at the picture…") : null)
      ?? (session && session.status !== "failed" && !session.pictures.any ? "Fetching the picture…" : null)
      ?? (this.waiting ? "Computing the mask…" : null);
    const failed = session?.status === "failed" ? session.message || "This file could not be read." : null;
    const words = failed ?? waits ?? "";
    const pill = byId("pill");
    pill.hidden = !words;
    pill.dataset.busy = String(!failed);
    if (byId("pill-text").textContent !== words) {
      byId("pill-text").textContent = words;
      if (words && words !== this.opening) announce(words);
    }
    this.stage.setAttribute("aria-busy", String(Boolean(waits)));
    byId("subtitle").textContent = this.#subtitle();
  }

  #subtitle() {
    const { session, model } = this;
    if (!session) return { loading: "Loading the model", ready: "Ready", failed: "No model" }[model.status];
    const size = `${session.width} × ${session.height}`;
    return session.video ? `${size} · ${session.frames} frames` : size;
  }

  // ---- commands

  canPrompt() {
    const { session, model } = this;
    const why = model.status === "failed" ? "The model could not be loaded, so there is nothing to answer clicks."
      : session.status === "failed" ? session.message : null; // while it is encoded clicks wait in the server's queue
    if (why) this.say(why);
    return !why;
  }

  undo() { this.#stepBack("Undone", this.session?.undo()); }
  redo() { this.#stepBack("Redone", this.session?.redo()); }

  #stepBack(word, label) {
    if (label) announce(`${word}: ${label}`);
  }

  toggleVisible() {
    const object = this.session && find(this.session.doc, this.session.active);
    if (object) this.session.change(withLooks(this.session.doc, object.id, { visible: !object.visible }), "Show or hide");
  }

  escape() {
    if (this.tools.cancelBox() || !this.session) return; // one thing at a time, the innermost first
    if (this.session.job) this.session.cancel();
    else if (this.painter.regions.length) this.session.setRegions(this.painter.frame, null);
  }

  /** Whether everything that was asked for is there and drawn. */
  get idle() {
    const { session, painter, tools } = this;
    if (this.opening !== null || painter.asked || painter.pool.waiting.size || tools.asking) return false;
    return !session || (session.ready && session.sync.idle && !session.fetching && session.pictures.has(session.frame) && painter.frame === session.frame);
  }

  announce(text) { announce(text); }
  say(text) { toast(text); }

  problem(error) {
    if (!(error instanceof Error)) throw error;
    if (!(error instanceof api.ApiError)) console.error(error);
    toast(error.message, { error: true, key: error.code ?? error.message });
  }
}

const app = new App();
window.app = app; // for the browser's console, and for the tests
app.start();
