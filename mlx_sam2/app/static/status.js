// What the app says of itself: the name of what is open and whether it is saved, the model, and one line at the foot of
// the picture about what it is waiting for.
import { announce, byId, toast } from "./dom.js";

export class Status {
  constructor(app) {
    this.app = app;
    this.model = { status: "loading", name: "" };
    this.opening = null; // words of an upload under way
    this.isWaiting = false; // for a mask, for longer than a moment
    this.unsaved = null; // the session of which that was said
  }

  takeModel(model) {
    const before = this.model.status;
    this.model = model;
    const parts = { loading: ["loading"], failed: ["could not be loaded"] }[model.status] ?? [model.image_size && `${model.image_size} px`, model.dtype];
    byId("model").textContent = [model.name, ...parts].filter(Boolean).join(" · ");
    this.app.models.show(model);
    if (before !== "ready" && model.status === "ready") announce("The model is ready");
    this.show();
  }

  /** Words of something that is being opened, null when it is over. */
  busy(words) {
    this.opening = words;
    this.show();
  }

  /** Requests are under way, or not any more. */
  wait(waiting) {
    clearTimeout(this.timer);
    this.isWaiting = false;
    if (waiting) {
      this.timer = setTimeout(() => { this.isWaiting = true; this.show(); }, 250); // short waits need no words
    } else {
      const score = byId("mask-score").textContent;
      if (score && score !== this.told) announce(`Mask: ${score}`);
      this.told = score;
    }
    this.show();
  }

  connected(connected) {
    if (connected) announce("Connected again");
    this.show();
  }

  /** The server has saved, or could not, with its reason if it gives one: that is said once, until it can again. */
  saved(message) {
    const { session } = this.app;
    const failed = session.saving === "failed" ? session.id : null;
    if (failed && (message || failed !== this.unsaved)) {
      toast(`Not saved: ${message || "there is no room on the disk, or in what the app may have of it."} A project or an export keeps it.`, { error: true, key: "saving" });
    }
    this.unsaved = failed;
    this.show();
  }

  /** What is waited for, in words; null if nothing is. */
  #waits() {
    const { model, app: { session } } = this;
    if (this.opening) return this.opening;
    if (session && !session.connected) return "Connection lost. Your work is kept; trying again…";
    if (model.status === "loading") return model.total ? null : "Loading the model…"; // a download has its panel
    if (session?.status === "encoding") return session.video ? "Reading the video…" : "Looking at the picture…";
    if (session && session.status !== "failed" && !session.pictures.any) return "Fetching the picture…";
    return this.isWaiting ? "Computing the mask…" : null;
  }

  show() {
    const { session, stage } = this.app;
    const waits = this.#waits();
    const failed = session?.status === "failed" && this.model.status === "ready" ? session.message || "This file could not be read." : null;
    const words = failed ?? waits ?? "";
    const pill = byId("pill");
    pill.hidden = !words;
    pill.dataset.busy = String(!failed);
    if (byId("pill-text").textContent !== words) {
      byId("pill-text").textContent = words;
      if (words && words !== this.opening) announce(words);
    }
    stage.setAttribute("aria-busy", String(Boolean(waits)));
    this.#showName();
  }

  #showName() {
    const { session } = this.app;
    const name = session?.name ?? "mlx_sam2";
    const saved = !session || session.isSaved;
    if (byId("name").textContent !== name) byId("name").textContent = byId("name").title = name;
    document.title = session ? `${name} – mlx_sam2` : name;
    byId("unsaved").dataset.shown = String(!saved);
    byId("unsaved").title = saved ? "" : { failed: "Not saved: the disk is full", off: "Not saved: the app was started so" }[session.saving] ?? "Not saved yet";
    byId("document").disabled = !session;
    byId("subtitle").textContent = this.#subtitle();
  }

  #subtitle() {
    const { model, app: { session } } = this;
    if (!session) return { loading: "Loading the model", ready: "Ready", failed: "No model" }[model.status];
    const size = `${session.width} × ${session.height}`;
    return session.video ? `${size} · ${session.frames} frames` : size;
  }
}
