// Masks as they travel: COCO run lengths. Pure functions; the worker and the tests call them.
// A mask is {size: [height, width], counts: "..."}: runs of 0s and 1s alternately, column by column.

/** The run lengths of a compressed COCO string: 5 bits a character, differences to the run before last. */
export function decodeCounts(text) {
  const runs = [];
  let at = 0;
  while (at < text.length) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const code = text.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16 && shift < 32) value |= -1 << shift; // sign
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** Foreground of each column: calls visit(column, first row, row after the last) for every stretch. */
function eachStretch(runs, height, visit) {
  let place = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = place + runs[i];
    if (i % 2) {
      for (let from = place; from < end;) {
        const column = Math.floor(from / height);
        const to = Math.min(end, (column + 1) * height);
        visit(column, from - column * height, to - column * height);
        from = to;
      }
    }
    place = end;
  }
}

/**
 * The part of a mask that is not empty, no side longer than `longest`:
 * {x, y, width, height: in pixels of the picture, step: its pixels per cell, columns, rows, cells: Uint8Array}, or null.
 */
export function rasterise({ size: [height], counts }, longest = 2048) {
  const runs = decodeCounts(counts);
  let left = Infinity, top = Infinity, right = -1, bottom = -1;
  eachStretch(runs, height, (column, from, to) => {
    if (column < left) left = column;
    if (column > right) right = column;
    if (from < top) top = from;
    if (to > bottom) bottom = to;
  });
  if (right < 0) return null;
  const width = right + 1 - left, tall = bottom - top;
  const step = Math.max(1, Math.max(width, tall) / longest);
  const columns = Math.ceil(width / step), rows = Math.ceil(tall / step);
  const cells = new Uint8Array(columns * rows);
  eachStretch(runs, height, (column, from, to) => {
    // cells whose centres lie in this column and these rows
    const first = Math.ceil((column - left) / step - 0.5), last = Math.ceil((column + 1 - left) / step - 0.5);
    const start = Math.max(0, Math.ceil((from - top) / step - 0.5));
    const stop = Math.min(rows, Math.ceil((to - top) / step - 0.5));
    for (let x = Math.max(0, first); x < Math.min(columns, last); x++) {
      for (let y = start; y < stop; y++) cells[y * columns + x] = 1;
    }
  });
  return { x: left, y: top, width: columns * step, height: rows * step, step, columns, rows, cells };
}

/**
 * Outlines of a raster as closed loops, in pixels of the picture: Float32Arrays x, y, x, y, ...
 * The borders between cells are followed with the inside on the right; corners are cut at the middle of each
 * border, which turns the stairs of a slanted edge into a line.
 */
export function outlines({ x: left, y: top, step, columns, rows, cells }) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < columns && y < rows && cells[y * columns + x] === 1;
  const seen = new Uint8Array(columns * rows); // upper borders that a loop has passed
  const loops = [];
  const DX = [1, 0, -1, 0], DY = [0, 1, 0, -1]; // right, down, left, up
  const AHEAD = [[0, -1, 0, 0], [0, 0, -1, 0], [-1, 0, -1, -1], [-1, -1, 0, -1]]; // cells ahead: left one, right one
  for (let start = 0; start < cells.length; start++) {
    const sx = start % columns, sy = (start - sx) / columns;
    if (!cells[start] || seen[start] || inside(sx, sy - 1)) continue;
    const points = [];
    let x = sx, y = sy, way = 0, before = -1;
    do {
      if (way === 0) seen[y * columns + x] = 1;
      const mx = x + DX[way] / 2, my = y + DY[way] / 2;
      x += DX[way];
      y += DY[way];
      const [lx, ly, rx, ry] = AHEAD[way];
      const next = inside(x + lx, y + ly) ? (way + 3) % 4 : inside(x + rx, y + ry) ? way : (way + 1) % 4;
      if (way !== before || way !== next) points.push(left + mx * step, top + my * step);
      before = way;
      way = next;
    } while (x !== sx || y !== sy || way !== 0);
    loops.push(Float32Array.from(points));
  }
  return loops;
}

/** Whether a pixel of the picture lies in a mask. */
export function contains({ size: [height, width], counts }, x, y) {
  const column = Math.floor(x), row = Math.floor(y);
  if (column < 0 || row < 0 || column >= width || row >= height) return false;
  const goal = column * height + row;
  const runs = decodeCounts(counts);
  let place = 0;
  for (let i = 0; i < runs.length; i++) {
    place += runs[i];
    if (goal < place) return i % 2 === 1;
  }
  return false;
}
