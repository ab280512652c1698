// What tracking knows of every frame: tracked, empty or nothing, one byte a frame and object.

export const NOTHING = 0, TRACKED = 1, GONE = 2;

export class Tracks {
  constructor(frames) {
    this.frames = frames;
    this.rows = new Map(); // object -> Uint8Array
  }

  /** Takes the server's timeline. */
  read(timeline) {
    this.rows.clear();
    for (const [kind, value] of [["tracked", TRACKED], ["empty", GONE]]) {
      for (const [object, ranges] of Object.entries(timeline?.[kind] ?? {})) {
        for (const [from, to] of ranges) this.row(Number(object)).fill(value, from, to + 1);
      }
    }
  }

  row(object) {
    if (!this.rows.has(object)) this.rows.set(object, new Uint8Array(this.frames));
    return this.rows.get(object);
  }

  set(object, frame, area) {
    this.row(object)[frame] = area > 0 ? TRACKED : GONE;
  }

  at(object, frame) {
    return this.rows.get(object)?.[frame] ?? NOTHING;
  }

  /** The frames that an object has a mask on, empty ones too. */
  framesOf(object) {
    const found = [];
    this.rows.get(object)?.forEach((value, frame) => value !== NOTHING && found.push(frame));
    return found;
  }

  /** Stretches of equal frames that are not nothing: [[value, from, to after]]. */
  stretches(object) {
    const row = this.rows.get(object);
    const found = [];
    for (let from = 0; row && from < row.length;) {
      let to = from + 1;
      while (to < row.length && row[to] === row[from]) to++;
      if (row[from] !== NOTHING) found.push([row[from], from, to]);
      from = to;
    }
    return found;
  }
}
