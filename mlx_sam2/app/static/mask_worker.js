// Decodes masks away from the page's thread: {id, rle, colour} in; {id, empty} or {id, bitmap, loops, ...} out.
import { outlines, rasterise } from "./rle.js";

self.onmessage = async ({ data: { id, rle, colour } }) => {
  try {
    const raster = rasterise(rle);
    const [high, wide] = rle.of ? [rle.of[0] / rle.size[0], rle.of[1] / rle.size[1]] : [1, 1]; // of a mask made smaller
    if (!raster) {
      self.postMessage({ id, empty: true });
      return;
    }
    const { columns, rows, cells } = raster;
    const image = new ImageData(columns, rows);
    const ink = new Uint32Array(image.data.buffer); // little-endian, as every browser's machine: ABGR
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    const word = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    for (let i = 0; i < cells.length; i++) if (cells[i]) ink[i] = word;
    const loops = outlines(raster);
    const bitmap = await createImageBitmap(image);
    for (const loop of loops) for (let i = 0; i < loop.length; i++) loop[i] *= i % 2 ? high : wide;
    const [x, width, y, height] = [raster.x * wide, raster.width * wide, raster.y * high, raster.height * high];
    self.postMessage({ id, bitmap, loops, x, y, width, height }, [bitmap, ...loops.map((loop) => loop.buffer)]);
  } catch (error) {
    self.postMessage({ id, error: String(error) });
  }
};
