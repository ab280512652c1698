// Puts the page together: one App that holds the open session and tells every panel when something changed.
import * as api from "./api.js";
import { Painter } from "./canvas/paint.js";
import { Pointer } from "./canvas/pointer.js";
import { View } from "./canvas/view.js";
import { Brush } from "./brush.js";
import { Camera } from "./camera.js";
import { Chooser, EverythingPanel } from "./chooser.js";
import { Classes } from "./classes.js";
import { Cutouts } from "./cutouts.js";
import { find, withLooks } from "./document.js";
import { announce, byId, toast, watchMenus, watchTheme } from "./dom.js";
import { watchDoubleTaps } from "./double_tap.js";
import { Exports } from "./exports.js";
import { Files } from "./files.js";
import { Gallery } from "./gallery.js";
import { All } from "./gallery_all.js";
import { Grips } from "./grips.js";
import { Imports } from "./imports.js";
import { Keys } from "./keys.js";
import { login } from "./login.js";
import { Looks } from "./looks.js";
import { MaskPool } from "./masks.js";
import { Models } from "./model_panel.js";
import { NameMenu } from "./name_menu.js";
import { Objects } from "./objects.js";
import { Session } from "./session.js";
import { Status } from "./status.js";
import { Timeline } from "./timeline.js";
import { Tools } from "./tools.js";
import { TrackMenu } from "./track_menu.js";
import { Transport } from "./transport.js";
import { Welcome } from "./welcome.js";

class App {
  constructor() {
    this.session = null;
    this.status = new Status(this);
    this.models = new Models(this);
    this.names = new NameMenu(this);
    this.stage = byId("stage");
    this.view = new View(this.stage);
    this.painter = new Painter(this.view, new MaskPool());
    this.tools = new Tools(this);
    this.pointer = new Pointer(this.view, {
      hover: (x, y, event) => this.tools.hover(x, y, event), leave: () => this.tools.leave(),
      take: (x, y, event) => this.tools.take(x, y, event),
      tap: (x, y, event) => this.tools.tap(x, y, event), drag: (box) => this.tools.drag(box),
      drop: (box) => this.tools.drop(box), pans: () => this.tools.pans, slides: () => !this.view.fitted && this.tools.tool !== "box",
    });
    this.cutouts = new Cutouts(this);
    this.brush = new Brush(this);
    this.grips = new Grips(this);
    this.looks = new Looks(this);
    this.objects = new Objects(this);
    this.classes = new Classes(this);
    this.chooser = new Chooser(this);
    this.everything = new EverythingPanel(this);
    this.trackMenu = new TrackMenu(this);
    this.transport = new Transport(this);
    this.timeline = new Timeline(this);
    this.exports = new Exports(this);
    this.files = new Files(this);
    this.camera = new Camera(this);
    this.gallery = new Gallery(this);
    this.all = new All(this);
    this.imports = new Imports(this);
    this.keys = new Keys(this);
    this.welcome = new Welcome(this);
    this.view.addEventListener("change", () => {
      this.#showZoom();
      this.session?.pictures.shownAt(this.view.scale * window.devicePixelRatio);
    });
    byId("undo").addEventListener("click", () => this.undo());
    byId("redo").addEventListener("click", () => this.redo());
    byId("zoom-fit").addEventListener("click", () => this.view.fit());
    byId("zoom-in").addEventListener("click", () => this.view.zoomBy(1.25));
    byId("zoom-out").addEventListener("click", () => this.view.zoomBy(0.8));
    watchMenus();
    watchDoubleTaps(this);
    watchTheme(() => {
      this.painter.all();
      this.timeline.draw();
    });
    addEventListener("pagehide", () => this.session?.keepPlace());
    addEventListener("beforeunload", (event) => this.session && !this.session.sync.arrived && event.preventDefault());
    addEventListener("hashchange", () => {
      if (location.hash.length < 2 || location.hash.slice(1) === this.session?.id) return;
      this.gallery.close();
      this.openId(location.hash.slice(1));
    });
  }

  // ---- start

  async start() {
    try {
      const state = await login(() => api.state());
      this.takeModel(state.model);
      this.limits = state.limits;
      this.files.offer(state.examples ?? []);
      this.gallery.restore(location.hash.slice(1));
      const wanted = location.hash.slice(1) || state.open;
      if (!wanted || !(await this.openId(wanted, { quiet: wanted === state.open }))) this.showEmpty(state);
    } catch (error) {
      this.problem(error);
      this.showEmpty();
      setTimeout(() => this.start(), 3000);
    }
  }

  /** What the server says of the model. Nobody sends events before a session is open, and one may be lost: asks every second while it loads. */
  takeModel(model) {
    this.status.takeModel(model);
    if (model.status === "loading" && !this.watchesModel) this.#watchModel();
  }

  async #watchModel() {
    this.watchesModel = true;
    while (this.status.model.status === "loading") {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      try {
        this.status.takeModel((await api.state()).model);
      } catch (error) {
        if (!error.offline) throw error;
      }
    }
    this.watchesModel = false;
  }

  /** The page without a session; `state` is the server's, asked for if it is not given. */
  async showEmpty(state = null) {
    document.body.dataset.mode = "empty";
    document.body.dataset.kind = "none";
    byId("empty").hidden = false;
    byId("timeline").hidden = true;
    this.tools.cursor();
    this.status.show();
    try {
      this.welcome.show(state ?? (await api.state()));
    } catch (error) {
      this.problem(error);
    }
  }

  // ---- sessions

  /** Opens a session that the server has; false when it is gone. */
  async openId(id, { quiet = false } = {}) {
    try {
      this.openSession(await api.open(id));
      return true;
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      history.replaceState(null, "", location.pathname);
      if (error.offline) this.problem(error);
      else if (!quiet) toast("This session is no longer there: it was removed, or pushed out by newer ones.", { error: true });
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
    this.objects.clear();
    this.#listen(session);
    this.transport.stop();
    this.transport.film.open(session);
    this.transport.show();
    if (session.video) this.timeline.open();
    this.view.reset(session);
    this.changed();
    this.status.saved();
    this.gallery.show();
    this.classes.opened();
    session.look();
    this.stage.focus({ preventScroll: true });
  }

  #listen(session) {
    const mine = (act) => (detail) => session === this.session && act(detail);
    session.on("doc", mine(() => this.changed()))
      .on("masks", mine((frame) => this.#arrived(frame)))
      .on("frame", mine(() => { this.tools.forgetPreview(); this.changed(); this.painter.picture(); session.askAgain(); }))
      .on("picture", mine((frame) => { this.painter.arrived(frame); if (frame === session.frame) { this.chooser.show(); this.objects.show(); } this.status.show(); }))
      .on("tracks", mine(() => { this.timeline.draw(); this.#showPrimary(); }))
      .on("regions", mine((regions) => this.#found(regions)))
      .on("job", mine((ended) => { this.transport.show(); this.everything.show(); this.exports.show(ended); this.status.show(); this.#tellEnd(ended); }))
      .on("status", mine(() => { this.changed(); if (session.ready) announce("Ready"); }))
      .on("model", mine((model) => this.takeModel(model)))
      .on("waiting", mine((waiting) => this.status.wait(waiting)))
      .on("saving", mine((message) => this.status.saved(message)))
      .on("connection", mine((connected) => this.status.connected(connected)))
      .on("closed", mine((gone) => this.#ended(gone)))
      .on("said", mine((text) => this.say(text)))
      .on("problem", mine((error) => this.problem(error)));
  }

  async closeSession() {
    this.gallery.close();
    const { session } = this;
    const closed = session.connected && session.sync.edit(async () => ({ ...(await api.close(session.id)) })); // after what is under way
    this.#leave();
    try {
      await closed;
    } catch (error) {
      this.problem(error);
    }
    await this.showEmpty();
  }

  /** The list of recent sessions; what was open stays open on the server. */
  showRecent() {
    this.gallery.close();
    this.#leave();
    return this.showEmpty();
  }

  #leave() {
    this.transport.stop();
    this.transport.film.close();
    this.session?.close();
    this.session = null;
    this.painter.open(null);
    history.replaceState(null, "", location.pathname);
  }

  async #ended(gone) {
    const { doc, opened } = this.session;
    this.#leave();
    if (gone && opened && (await this.files.again(opened))) {
      this.session.change(doc, "Bring back");
      this.say("The app was started again and did not have this file any more. It is open again, with your clicks; what was tracked has to be tracked again.");
      return;
    }
    this.showEmpty();
    toast(gone ? "This session has ended, and the app has not kept it." : "This session was closed in another tab. It is among the recent ones.", { error: true });
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
    this.brush.show();
    this.transport.show();
    this.exports.show();
    this.timeline.draw();
    this.painter.marks();
    this.#showPrimary();
    for (const [id, label, word] of [["undo", session.history.undoLabel, "Undo"], ["redo", session.history.redoLabel, "Redo"]]) {
      byId(id).disabled = !label;
      byId(id).title = label ? `${word} “${label}”` : word;
    }
    this.status.show();
  }

  /** One button stands out: what comes next. */
  #showPrimary() {
    const { session, tools } = this;
    const found = session.regionsAt(session.frame).length;
    const next = tools.tool === "everything" ? (found ? "everything-all" : "everything-find")
      : session.video && !session.isTracked ? "track-on" : session.doc.objects.length ? "export" : null;
    for (const id of ["everything-all", "everything-find", "track-on", "export"]) byId(id).classList.toggle("primary", id === next);
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

  #showZoom() {
    const words = `${Math.round(this.view.scale * 100)}%`;
    byId("zoom-fit").textContent = words;
    byId("zoom-fit").setAttribute("aria-label", `${words}: fit to the window`);
  }

  // ---- commands

  canPrompt() {
    const { session, status: { model } } = this;
    if (model.status === "failed") {
      this.models.point();
      return false;
    }
    const why = session.status === "failed" ? session.message : null; // while it is encoded clicks wait in the server's queue
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
    if (this.status.opening !== null || painter.asked || painter.pool.waiting.size || tools.asking) return false;
    return !session || (session.ready && session.sync.idle && !session.fetching && session.pictures.isFine(session.frame) && painter.frame === session.frame);
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
