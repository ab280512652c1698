// Something to try with when no file is at hand: a table with a ball, a mug and a balloon, drawn here.

const WIDTH = 960, HEIGHT = 540, FRAMES = 40, TABLE = 372;

function ground(context) {
  const wall = context.createLinearGradient(0, 0, 0, TABLE);
  wall.addColorStop(0, "#cdd8dc");
  wall.addColorStop(1, "#e9e4d8");
  context.fillStyle = wall;
  context.fillRect(0, 0, WIDTH, TABLE);
  const wood = context.createLinearGradient(0, TABLE, 0, HEIGHT);
  wood.addColorStop(0, "#8a6a4c");
  wood.addColorStop(1, "#b58d66");
  context.fillStyle = wood;
  context.fillRect(0, TABLE, WIDTH, HEIGHT - TABLE);
  context.strokeStyle = "rgb(60 36 16 / 14%)";
  for (let i = 0; i < 14; i++) {
    context.beginPath();
    context.moveTo(0, TABLE + 8 + i * 13);
    context.bezierCurveTo(300, TABLE + 2 + i * 14, 620, TABLE + 18 + i * 12, WIDTH, TABLE + 6 + i * 13);
    context.stroke();
  }
}

function shadow(context, x, y, width) {
  context.fillStyle = "rgb(40 24 10 / 28%)";
  context.beginPath();
  context.ellipse(x, y, width, width * 0.16, 0, 0, 2 * Math.PI);
  context.fill();
}

function ball(context, x, y, radius, turned) {
  shadow(context, x + 8, y + radius - 2, radius * 0.95);
  context.save();
  context.translate(x, y);
  context.beginPath();
  context.arc(0, 0, radius, 0, 2 * Math.PI);
  context.clip();
  context.fillStyle = "#d9572b";
  context.fillRect(-radius, -radius, 2 * radius, 2 * radius);
  context.rotate(turned);
  context.fillStyle = "#f0b9a0";
  context.fillRect(-radius, -0.16 * radius, 2 * radius, 0.32 * radius);
  context.rotate(-turned);
  const light = context.createRadialGradient(-0.35 * radius, -0.4 * radius, 0.1 * radius, 0, 0, radius * 1.1);
  light.addColorStop(0, "rgb(255 255 255 / 45%)");
  light.addColorStop(0.5, "rgb(255 255 255 / 0%)");
  light.addColorStop(1, "rgb(60 10 0 / 45%)");
  context.fillStyle = light;
  context.fillRect(-radius, -radius, 2 * radius, 2 * radius);
  context.restore();
}

function mug(context, x, y) {
  shadow(context, x + 12, y + 92, 84);
  context.strokeStyle = "#27567f";
  context.lineWidth = 17;
  context.beginPath();
  context.ellipse(x + 74, y + 4, 30, 36, 0, -1.9, 1.9);
  context.stroke();
  const body = context.createLinearGradient(x - 70, 0, x + 70, 0);
  body.addColorStop(0, "#235078");
  body.addColorStop(0.3, "#4f8fc4");
  body.addColorStop(1, "#1d4468");
  context.fillStyle = body;
  context.beginPath();
  context.roundRect(x - 70, y - 92, 140, 184, [10, 10, 26, 26]);
  context.fill();
  context.fillStyle = "#163650";
  context.beginPath();
  context.ellipse(x, y - 88, 66, 14, 0, 0, 2 * Math.PI);
  context.fill();
}

function balloon(context, x, y) {
  context.strokeStyle = "#8b8f86";
  context.lineWidth = 2;
  context.beginPath();
  context.moveTo(x, y + 74);
  context.bezierCurveTo(x - 14, y + 130, x + 16, y + 190, 150, TABLE + 30);
  context.stroke();
  const skin = context.createRadialGradient(x - 20, y - 28, 6, x, y, 84);
  skin.addColorStop(0, "#f6dc86");
  skin.addColorStop(0.4, "#e0a826");
  skin.addColorStop(1, "#9a6c0c");
  context.fillStyle = skin;
  context.beginPath();
  context.ellipse(x, y, 56, 70, 0, 0, 2 * Math.PI);
  context.fill();
}

/** A picture of the table; `part` of the way (0 to 1) the ball has rolled, behind the mug. */
function scene(part) {
  const canvas = new OffscreenCanvas(WIDTH, HEIGHT);
  const context = canvas.getContext("2d");
  ground(context);
  balloon(context, 180 + 26 * Math.sin(part * 6), 130 + 16 * Math.cos(part * 8));
  const radius = 52, x = 110 + 740 * part;
  ball(context, x, 384, radius, (x - 110) / radius);
  mug(context, 500, 388);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
}

/** Files to open: one picture, or the frames of a clip. */
export async function exampleFiles(kind) {
  if (kind === "picture") return [new File([await scene(0.2)], "table.jpg", { type: "image/jpeg" })];
  const blobs = await Promise.all(Array.from({ length: FRAMES }, (_, i) => scene(i / (FRAMES - 1))));
  return blobs.map((blob, i) => new File([blob], `table_${String(i).padStart(3, "0")}.jpg`, { type: "image/jpeg" }));
}
