// Prompts that are there already can be taken: a point is moved or, with a click on it, removed; a box by its corners.
import { promptsOf, withPrompts } from "./document.js";
import { announce } from "./dom.js";

const DOUBLE = 600; // ms
const REACH = { mouse: 9, pen: 11, touch: 18 }; // CSS pixels

export class Grips {
  constructor(app) {
    this.app = app;
    this.placed = -Infinity; // when the last point was made: the second click of a double one removes nothing
  }

  /** What follows the pointer from here; null where there is nothing to take. */
  take(x, y, event) {
    const { session, painter, view, tools } = this.app;
    if (!session || tools.tool === "everything" || session.active === null) return null;
    if (event.altKey || event.ctrlKey || event.button === 2 || painter.regions.length) return null;
    const prompts = promptsOf(session.doc, session.active, painter.frame);
    const reach = (REACH[event.pointerType] ?? REACH.mouse) / view.scale;
    const point = prompts.points.findLastIndex(([px, py]) => Math.hypot(px - x, py - y) <= reach);
    if (point >= 0) return this.#point(prompts, point);
    const { box } = prompts;
    if (!box) return null;
    const across = [0, 2].find((side) => Math.abs(box[side] - x) <= reach), down = [1, 3].find((side) => Math.abs(box[side] - y) <= reach);
    return across === undefined || down === undefined ? null : this.#corner(prompts, across, down);
  }

  #point(prompts, index) {
    const [, , label] = prompts.points[index];
    const rest = prompts.points.filter((_, at) => at !== index);
    return this.#held((x, y) => ({ ...prompts, points: prompts.points.map((point, at) => (at === index ? [x, y, label] : point)), choice: null }), {
      moved: "Move a point",
      tapped: () => ({ ...prompts, points: rest, choice: null }), removed: "Remove a point",
    });
  }

  #corner(prompts, across, down) {
    const place = (x, y) => {
      const box = [...prompts.box];
      box[across] = x;
      box[down] = y;
      return { ...prompts, box: [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.max(box[0], box[2]), Math.max(box[1], box[3])] };
    };
    return this.#held(place, { moved: "Move the box" });
  }

  /** `change(x, y)`: the prompts with the thing there; nothing is asked for before it is let go. */
  #held(change, { moved, tapped, removed }) {
    const { session, painter, view, tools } = this.app;
    const round = (value) => Math.round(value * 100) / 100;
    let wanted = null;
    const finish = (prompts, label) => {
      tools.hold();
      session.change(withPrompts(session.doc, session.active, session.frame, prompts), label);
      announce(label);
    };
    const forget = () => {
      painter.grip = null;
      painter.marks();
    };
    return {
      move: (x, y) => {
        wanted = change(...view.clamp(x, y).map(round));
        painter.grip = wanted;
        painter.marks();
      },
      end: (isTap) => {
        forget();
        if (isTap && tapped && performance.now() - this.placed > DOUBLE) finish(tapped(), removed);
        else if (!isTap && wanted) finish(wanted, moved);
      },
      cancel: forget,
    };
  }
}
