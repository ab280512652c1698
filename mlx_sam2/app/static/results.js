// What the server has answered: the masks of every frame, the three candidates of a click, and answers to prompts,
// which are shown at once when the same prompts come again (undo).
import { find } from "./document.js";

const answerKey = (object, frame, prompts) => `${object} ${frame} ${JSON.stringify(prompts)}`;

export class Results {
  constructor() {
    this.frames = new Map(); // frame -> Map of object -> mask, with `asked` (what was asked for, if anything) and `loaded`
    this.candidates = new Map(); // "object frame" -> {masks, chosen}
    this.answers = new Map();
  }

  of(frame) {
    if (!this.frames.has(frame)) this.frames.set(frame, new Map());
    return this.frames.get(frame);
  }

  /** An answer to prompts takes its place; one without masks takes the mask away. */
  place(object, frame, { masks, chosen }) {
    const shown = this.of(frame);
    shown.asked?.placed.add(object);
    if (masks.length) {
      shown.set(object, masks[chosen ?? 0]);
      this.candidates.set(`${object} ${frame}`, { masks, chosen: chosen ?? 0 });
    } else {
      shown.delete(object);
      this.candidates.delete(`${object} ${frame}`);
    }
  }

  /** What the server will say to these prompts, where that is known. */
  remember(object, frame, prompts, answer) { this.answers.set(answerKey(object, frame, prompts), answer); }
  recall(object, frame, prompts) { return this.answers.get(answerKey(object, frame, prompts)); }

  /** Notes that the masks of a frame are asked for; the note goes to `take` with the answer. */
  ask(frame) {
    const shown = this.of(frame);
    shown.asked = { placed: new Set() };
    return shown.asked;
  }

  /** The masks of a frame as the server has them; whether nothing has made them old while they were under way. */
  take(frame, asked, masks, doc) {
    const shown = this.of(frame);
    if (shown.asked !== asked) return false;
    for (const { id } of doc.objects) {
      if (asked.placed.has(id)) continue; // a newer answer was faster
      if (masks[id]) shown.set(id, masks[id]);
      else shown.delete(id);
    }
    shown.loaded = true;
    return true;
  }

  failed(frame, asked) {
    const shown = this.of(frame);
    if (shown.asked === asked) shown.asked = null;
  }

  /** Masks of a frame that was tracked. */
  tracked(frame, masks, doc) {
    const shown = this.of(frame);
    shown.loaded = true;
    shown.asked ??= { placed: new Set() };
    for (const [name, mask] of Object.entries(masks)) {
      const object = Number(name);
      shown.asked.placed.add(object);
      if (find(doc, object)) shown.set(object, mask);
    }
  }

  forget(object) {
    for (const shown of this.frames.values()) shown.delete(object);
    for (const key of this.candidates.keys()) if (key.startsWith(`${object} `)) this.candidates.delete(key);
  }

  /** All masks may have changed: what is known stays on the screen until it is asked for again. */
  outdate() {
    for (const shown of this.frames.values()) Object.assign(shown, { asked: null, loaded: false });
  }
}
