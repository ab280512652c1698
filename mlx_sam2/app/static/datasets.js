// Data sets of what is open: a picture, a video, or all pictures of the gallery.
import * as api from "./api.js";
import { handOver, openMenu, toast } from "./dom.js";

const VIDEOS = "videos", PICTURES = "pictures";
const FORMATS = [ // name, label, note, for which alone
  ["coco", "COCO", "One JSON file, and the pictures"], ["coco-video", "COCO video", "YouTube-VIS", VIDEOS],
  ["yolo", "YOLO", "Outlines for training segmentation"], ["voc", "Pascal VOC", "Pictures of classes and objects"],
  ["davis", "DAVIS", "Frames, and pictures of object numbers", VIDEOS], ["sav", "SA-V", "A picture for each object and frame", VIDEOS],
  ["lvis", "LVIS", "Run lengths"], ["label-studio", "Label Studio", "Tasks to go on with there"], ["cvat", "CVAT", "XML for images"],
  ["masks", "Mask PNGs", "One black and white picture for each object", PICTURES],
];

/** The formats that take videos, or pictures: [name, label, note]. */
export const formatsOf = (video) => FORMATS.filter(([, , , only]) => !only || only === (video ? VIDEOS : PICTURES));

/** Asks for a format at a button, then exports what is open. */
export function chooseFormat(app, button) {
  const { session } = app;
  openMenu(button, formatsOf(session.video).filter(([name]) => name !== "masks")
    .map(([format, label, note]) => ({ label, note, act: () => exportSet(app, [session.id], format) })));
}

/** One data set of sessions, by their numbers: a ZIP that the browser saves. */
export async function exportSet(app, sessions, format) {
  const note = toast("Preparing the export", { stay: true, key: "all" });
  try {
    await app.session?.sync.edit(async () => ({})); // the last clicks have arrived
    handOver(await api.collection({ sessions, format, classes: app.classes.names }), `${format}.zip`);
    app.say(`${format}.zip is made: your browser saves it, or asks you where.`);
  } catch (error) {
    app.problem(error);
  } finally {
    note.close();
  }
}
