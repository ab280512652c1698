// Masks as cells that can be painted and combined: one byte a pixel, column by column, as run lengths count them.
import { decodeCounts } from "./rle.js";

/** The cells of a mask; all 0 without one. */
export function cellsOf(mask, width, height) {
  const cells = new Uint8Array(width * height);
  let place = 0;
  if (mask) decodeCounts(mask.counts).forEach((run, index) => {
    if (index % 2) cells.fill(1, place, place + run);
    place += run;
  });
  return cells;
}

/** The compressed COCO string of run lengths: what `decodeCounts` reads. */
export function encodeCounts(runs) {
  let text = "";
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2] : run;
    for (let more = true; more;) {
      let code = value & 31;
      value >>= 5;
      more = code & 16 ? value !== -1 : value !== 0;
      if (more) code |= 32;
      text += String.fromCharCode(code + 48);
    }
  });
  return text;
}

/** A mask of cells as the server gives masks: {size, counts, area, bbox, score}. */
export function maskOf(cells, width, height) {
  const runs = [];
  let area = 0, before = 0, from = 0;
  let left = width, top = height, right = -1, bottom = -1;
  const end = (to) => {
    runs.push(to - from);
    if (before) {
      area += to - from;
      const first = Math.floor(from / height), last = Math.floor((to - 1) / height);
      left = Math.min(left, first);
      right = Math.max(right, last);
      top = Math.min(top, first === last ? from % height : 0);
      bottom = Math.max(bottom, first === last ? (to - 1) % height : height - 1);
    }
    from = to;
  };
  for (let place = 0; place < cells.length; place++) {
    if (cells[place] === before) continue;
    end(place);
    before = cells[place];
  }
  end(cells.length);
  const bbox = area ? [left, top, right + 1 - left, bottom + 1 - top] : [0, 0, 0, 0];
  return { size: [height, width], counts: encodeCounts(runs), area, bbox, score: 1 };
}

/** What two masks give together: "add", "subtract" or "intersect"; `cells` changes. */
export function combine(cells, other, how) {
  for (let place = 0; place < cells.length; place++) {
    if (how === "add") cells[place] |= other[place];
    else if (how === "subtract") cells[place] &= 1 - other[place];
    else cells[place] &= other[place];
  }
}

/** Paints a line of places with a round brush of a width into cells, or takes it away. */
export function paintStroke(cells, width, height, places, size, value) {
  const reach = size / 2 + 1;
  const xs = places.map(([x]) => x), ys = places.map(([, y]) => y);
  const left = Math.max(0, Math.floor(Math.min(...xs) - reach)), right = Math.min(width, Math.ceil(Math.max(...xs) + reach));
  const top = Math.max(0, Math.floor(Math.min(...ys) - reach)), bottom = Math.min(height, Math.ceil(Math.max(...ys) + reach));
  if (right <= left || bottom <= top) return;
  const context = new OffscreenCanvas(right - left, bottom - top).getContext("2d", { willReadFrequently: true });
  context.translate(-left, -top);
  strokeLine(context, places, size);
  const { data } = context.getImageData(0, 0, right - left, bottom - top);
  for (let x = left; x < right; x++) {
    for (let y = top; y < bottom; y++) {
      if (data[4 * ((y - top) * (right - left) + x - left) + 3] > 127) cells[x * height + y] = value;
    }
  }
}

/** Draws the line itself; one place is a dot. */
export function strokeLine(context, places, size) {
  context.lineWidth = size;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...places[0]);
  for (const place of places) context.lineTo(...place);
  context.stroke();
}
