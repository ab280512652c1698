// How masks are looked at: tinted, outlined, with the rest dimmed, cut out on a checkerboard, or black and white.

export const LOOKS = ["tint", "outline", "dimmed", "cutout", "mask"];
const SQUARE = 8; // CSS pixels of the checkerboard

/** What covers the picture before the objects are drawn into it. In pixels of the picture. */
export function drawVeil(context, look, width, height, scale) {
  if (look === "dimmed") context.fillStyle = "rgb(0 0 0 / 62%)";
  else if (look === "mask") context.fillStyle = "#000";
  else if (look === "cutout") context.fillStyle = checkerboard(context, scale);
  else return;
  context.fillRect(0, 0, width, height);
}

function checkerboard(context, scale) {
  const tile = new OffscreenCanvas(2 * SQUARE, 2 * SQUARE), draw = tile.getContext("2d");
  draw.fillStyle = "#fff";
  draw.fillRect(0, 0, 2 * SQUARE, 2 * SQUARE);
  draw.fillStyle = "#ccc";
  draw.fillRect(0, 0, SQUARE, SQUARE);
  draw.fillRect(SQUARE, SQUARE, SQUARE, SQUARE);
  const pattern = context.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(1 / scale)); // squares have one size on the screen
  return pattern;
}

/** An object within the veil: the picture itself, or white. */
export function drawThrough(context, look, drawing, picture, width, height) {
  context.save();
  context.clip(drawing.path, "evenodd");
  if (look === "mask") {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
  } else if (picture) {
    context.drawImage(picture, 0, 0, width, height);
  }
  context.restore();
}
