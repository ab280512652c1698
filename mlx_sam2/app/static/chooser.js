// The mask of the active object: which of the three, how sure the model is, and the panel of everything-mode.
import { find, isEmpty, NO_PROMPTS, withPrompts } from "./document.js";
import { announce, byId, make } from "./dom.js";

const whole = new Intl.NumberFormat("en");
const SIZES = ["Part", "Object", "Whole"];

/** Numbers of masks, the smallest first. */
const bySize = (masks) => masks.map((_, index) => index).sort((a, b) => masks[a].area - masks[b].area);

export class Chooser {
  constructor(app) {
    this.app = app;
    this.box = byId("candidates");
    this.score = byId("mask-score");
    this.clearButton = byId("clear");
    this.clearButton.addEventListener("click", () => this.clear());
    this.shown = null;
    this.box.addEventListener("pointerleave", () => this.#try(null));
  }

  get key() {
    const { session } = this.app;
    return `${session.active} ${session.frame}`;
  }

  show() {
    const { session } = this.app;
    const found = session.candidates.get(this.key);
    const object = find(session.doc, session.active);
    const mask = session.masks.get(session.frame)?.get(session.active);
    const single = session.prompts.points.length === 1 && !session.prompts.box && !session.prompts.mask;
    const several = Boolean(object && single && found?.masks.length > 1);
    this.box.hidden = !several;
    if (several) this.#fill(found, object.color);
    else this.shown = null;
    this.clearButton.disabled = isEmpty(session.prompts);
    this.score.textContent = mask ? this.#words(mask) : "";
  }

  #words(mask) {
    if (!mask.area) return "Not in this frame";
    const sure = this.app.session.video ? "" : `${mask.score.toFixed(2)} · `;
    return `${sure}${whole.format(mask.area)} px`;
  }

  #fill(found, colour) {
    const { session } = this.app;
    const chosen = session.prompts.choice ?? found.chosen;
    if (this.shown !== found) {
      this.shown = found;
      this.box.replaceChildren(...bySize(found.masks).map((index, place) => this.#option(found.masks[index], index, place, colour)));
    }
    for (const input of this.box.querySelectorAll("input")) input.checked = Number(input.value) === chosen;
    this.#draw(found, colour);
  }

  #option(mask, index, place, colour) {
    const score = mask.score.toFixed(2);
    const input = make("input", {
      type: "radio", name: "candidate", value: index, "aria-label": `Mask of the ${SIZES[place].toLowerCase()}, score ${score}`,
      onchange: () => this.choose(place),
    });
    const canvas = make("canvas", { width: 160, height: 120, "aria-hidden": "true" });
    const label = make("label", { title: `${SIZES[place]}, score ${score} (${place + 1})` }, input, canvas, SIZES[place]);
    label.addEventListener("pointerenter", () => this.#try(mask, colour));
    return label;
  }

  #try(mask) {
    this.app.painter.candidate = mask;
    this.app.painter.marks();
  }

  /** Chooses one of the three masks of a single click: 0 the smallest, 2 the largest. */
  choose(place) {
    const { session } = this.app;
    const found = session.candidates.get(this.key);
    if (!found || this.box.hidden || place >= found.masks.length) return;
    const index = bySize(found.masks)[place];
    this.#try(null);
    const prompts = { ...session.prompts, choice: index };
    const answer = { masks: found.masks, chosen: index };
    session.remember(session.active, session.frame, prompts, answer); // known already: shown at once
    session.change(withPrompts(session.doc, session.active, session.frame, prompts), "Choose mask");
    announce(`${SIZES[place]}, score ${found.masks[index].score.toFixed(2)}`);
  }

  clear() {
    const { session, tools } = this.app;
    tools.hold();
    if (isEmpty(session.prompts)) return;
    session.change(withPrompts(session.doc, session.active, session.frame, NO_PROMPTS), "Start over");
    announce("Its clicks and its mask are gone");
  }

  /** Small pictures of the three masks, all cut to the same place: what any of them covers, and a margin. */
  async #draw(found, colour) {
    const { session, painter } = this.app;
    const drawings = await Promise.all(found.masks.map((mask) => painter.pool.get(mask, colour)));
    const picture = session.pictures.get(session.frame);
    if (this.shown !== found || !picture) return;
    const there = drawings.filter(Boolean);
    const left = Math.min(...there.map(({ x }) => x)), top = Math.min(...there.map(({ y }) => y));
    const right = Math.max(...there.map(({ x, width }) => x + width)), bottom = Math.max(...there.map(({ y, height }) => y + height));
    [...this.box.querySelectorAll("canvas")].forEach((canvas, place) => {
      const context = canvas.getContext("2d");
      const scale = Math.min(canvas.width / (right - left), canvas.height / (bottom - top)) * 0.82;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.translate(canvas.width / 2, canvas.height / 2);
      context.scale(scale, scale);
      context.translate(-(left + right) / 2, -(top + bottom) / 2);
      context.globalAlpha = 0.55;
      context.drawImage(picture, 0, 0, session.width, session.height);
      const drawing = drawings[Number(canvas.previousSibling.value)];
      if (!drawing) return;
      context.globalAlpha = 0.6;
      context.drawImage(drawing.bitmap, drawing.x, drawing.y, drawing.width, drawing.height);
      context.globalAlpha = 1;
      context.lineWidth = 2.5 / scale;
      context.strokeStyle = colour;
      context.stroke(drawing.path);
    });
  }
}

export class EverythingPanel {
  constructor(app) {
    this.app = app;
    this.density = byId("density");
    this.find = byId("everything-find");
    this.score = byId("least-score");
    this.stability = byId("least-stability");
    this.density.addEventListener("input", () => { byId("density-value").textContent = this.density.value; });
    for (const limit of [this.score, this.stability]) {
      limit.addEventListener("input", () => { byId(`${limit.id}-value`).textContent = Number(limit.value).toFixed(2); });
    }
    this.find.addEventListener("click", () => this.#start());
    byId("everything-all").addEventListener("click", () => app.tools.keepAll());
    byId("everything-none").addEventListener("click", () => app.session.setRegions(app.session.frame, null));
  }

  #start() {
    const { session } = this.app;
    if (session.job?.kind === "everything") session.cancel();
    else if (this.app.canPrompt()) {
      session.setRegions(session.frame, null);
      session.start("everything", { ...this.options(), frame: session.frame, as_objects: false });
    }
  }

  /** What the sliders say. */
  options() {
    return { points_per_side: Number(this.density.value), pred_iou_thresh: Number(this.score.value), stability_score_thresh: Number(this.stability.value) };
  }

  show() {
    const { session, tools } = this.app;
    const job = session.job?.kind === "everything" ? session.job : null;
    const found = session.regionsAt(session.frame).length;
    byId("everything-panel").hidden = tools.tool !== "everything" && !job;
    byId("mask-panel").hidden = tools.tool === "everything";
    this.find.textContent = job ? "Stop" : "Find everything";
    this.find.disabled = Boolean(session.job && !job) || Boolean(job?.stopping);
    byId("everything-results").hidden = !found;
    byId("everything-count").textContent = job ? (job.total ? `${job.done} of ${job.total}` : "…") : found ? `${found} found` : "";
  }
}
