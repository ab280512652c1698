// How doubtful the model was of every tracked mask: a line in the timeline, and a way to the next frame to look at.
import * as api from "./api.js";
import { find } from "./document.js";

export const DOUBTFUL = 0.25; // from here on a frame is one to look at

/** 0 (sure) to 1: how near the object is to being there or not, or what the mask may be wrong by. */
export function doubt({ score, predicted_iou: iou }) {
  if (iou === null || iou === undefined) return 0; // no tracking has given it
  const there = 1 / (1 + Math.exp(-score));
  return Math.max(1 - Math.abs(2 * there - 1), there > 0.5 ? 1 - Math.min(Math.max(iou, 0), 1) : 0);
}

export class Doubts {
  constructor(session) {
    this.session = session;
    this.rows = new Map(); // object -> Float32Array
    this.asked = 0;
  }

  row(object) {
    if (!this.rows.has(object)) this.rows.set(object, new Float32Array(this.session.frames));
    return this.rows.get(object);
  }

  set(object, frame, mask) {
    this.row(object)[frame] = doubt(mask);
  }

  /** Asks the server for the scores of all masks. */
  async load() {
    const { session } = this;
    const asked = ++this.asked;
    try {
      const { objects } = await api.scores(session.id);
      if (asked !== this.asked) return;
      this.rows.clear();
      for (const [object, { frames, score, predicted_iou: iou }] of Object.entries(objects)) {
        frames.forEach((frame, i) => this.set(Number(object), frame, { score: score[i], predicted_iou: iou[i] }));
      }
      session.tell("tracks");
    } catch (error) {
      session.problem(error);
    }
  }

  /** The largest doubt on a frame, of objects that are shown and neither prompted nor kept there. */
  at(frame) {
    let most = 0;
    for (const [object, row] of this.rows) {
      const known = find(this.session.doc, object);
      if (known?.visible && !known.frames[frame] && !known.locked?.includes(frame)) most = Math.max(most, row[frame]);
    }
    return most;
  }

  /** The most doubtful frame of the next doubtful stretch in a direction, 1 or -1; null where there is none. */
  next(way) {
    const { frame: start, frames } = this.session;
    let best = null, most = 0;
    let left = this.at(start) < DOUBTFUL; // of the stretch that the user stands in
    for (let t = start + way; t >= 0 && t < frames; t += way) {
      const here = this.at(t);
      if (here < DOUBTFUL) {
        if (best !== null) break;
        left = true;
      } else if (left && here > most) {
        [best, most] = [t, here];
      }
    }
    return best;
  }
}
