// Clicks, boxes and the keyboard's crosshair, in CSS pixels of the stage. Sign and colour both tell clicks apart.

const INCLUDE = "#0063d1", EXCLUDE = "#c4281f";
const RADIUS = 8;

export function drawPoint(context, x, y, include) {
  context.beginPath();
  context.arc(x, y, RADIUS, 0, 2 * Math.PI);
  context.fillStyle = include ? INCLUDE : EXCLUDE;
  context.shadowColor = "rgb(0 0 0 / 45%)";
  context.shadowBlur = 4;
  context.fill();
  context.shadowBlur = 0;
  context.lineWidth = 2;
  context.strokeStyle = "#fff";
  context.stroke();
  context.beginPath();
  context.moveTo(x - 3.5, y);
  context.lineTo(x + 3.5, y);
  if (include) {
    context.moveTo(x, y - 3.5);
    context.lineTo(x, y + 3.5);
  }
  context.stroke();
}

export function drawBox(context, view, [x0, y0, x1, y1], colour, dashed) {
  const [left, top] = view.toStage(x0, y0);
  const [right, bottom] = view.toStage(x1, y1);
  context.lineJoin = "round";
  for (const [width, style] of [[4, "rgb(255 255 255 / 85%)"], [2, colour]]) {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.setLineDash(dashed && width === 2 ? [6, 4] : []);
    context.strokeRect(left, top, right - left, bottom - top);
  }
  context.setLineDash([]);
}

export function drawCrosshair(context, x, y) {
  for (const [width, style] of [[4, "#fff"], [1.5, "#000"]]) {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 5 * dx, y + 5 * dy);
      context.lineTo(x + 18 * dx, y + 18 * dy);
    }
    context.stroke();
  }
}
