// What comes in: files that are picked, dropped or pasted, folders of pictures, projects, examples.
import * as api from "./api.js";
import { announce, byId, make, openMenu, toast } from "./dom.js";
import { LocalPicture } from "./local.js";

const PICTURE = /\.(jpe?g|png|webp|bmp|tiff?|gif|heic|heif|avif)$/i;
const VIDEO = /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|mts|m2ts|3gp|wmv|ogv)$/i;
const PROJECT = /\.zip$/i; // moving.sam2.zip; a second download is called moving.sam2 (1).zip

const isPicture = (file) => file.type.startsWith("image/") || PICTURE.test(file.name);
const size = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`);

/** What a session of these files is called: the file, or the folder that they were in. */
const nameOf = (files) => (files.length === 1 ? files[0].name : files[0].webkitRelativePath?.split("/").at(-2) || "Pictures");

export class Files {
  constructor(app) {
    this.app = app;
    this.pickers = { file: byId("pick-file"), folder: byId("pick-folder"), project: byId("pick-project") };
    for (const picker of Object.values(this.pickers)) {
      picker.addEventListener("change", () => {
        this.take([...picker.files]);
        picker.value = "";
      });
    }
    for (const button of document.querySelectorAll("[data-open]")) {
      button.addEventListener("click", () => this.pick(button.dataset.open));
    }
    byId("open").addEventListener("click", () => this.menu());
    this.cancelButton = make("button", { id: "cancel-upload", class: "text", hidden: true, onclick: () => this.sending?.() }, "Cancel");
    byId("pill").append(this.cancelButton);
    this.#watchDrops();
    document.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (files.length) this.take(files);
    });
  }

  pick(kind) {
    this.pickers[kind].click();
  }

  menu() {
    const { session } = this.app;
    openMenu(byId("open"), [
      { label: "Open a photo or video…", act: () => this.pick("file") },
      { label: "Open a folder of pictures…", act: () => this.pick("folder") },
      { label: "Open a project…", act: () => this.pick("project") },
      { label: "Camera…", note: "Tracked live, and kept if you like", act: () => this.app.camera.open() },
      ...(session ? [null, { label: "Import masks…", note: "COCO JSON, a mask PNG", act: () => this.app.imports.pick() }, null] : []),
      ...(session ? [{ label: "Recent…", act: () => this.app.showRecent() }] : []),
      ...(session ? [null, { label: `Close “${session.name}”`, note: session.saving === "on" ? "It stays among the recent ones." : "What was not exported is lost.", act: () => this.app.names.close() }] : []),
    ]);
  }

  /** Opens what was given: one file, a project, or several pictures after a question. */
  async take(files) {
    const useful = files.filter((file) => isPicture(file) || VIDEO.test(file.name) || file.type.startsWith("video/") || PROJECT.test(file.name))
      .filter(({ name }) => !name.startsWith("."));
    if (!files.length) return;
    if (!useful.length && files.length > 1) {
      toast("There is no picture or video in this folder.", { error: true });
      return;
    }
    const given = useful.length ? useful : files;
    const pictures = given.filter(isPicture).sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    if (given.length === 1) {
      this.app.gallery.close();
      await this.send(given, PROJECT.test(given[0].name) ? "/api/projects" : "/api/sessions");
    } else if (pictures.length > 1) {
      await this.#several(pictures);
    } else {
      toast("Open one video at a time.", { error: true });
    }
  }

  async #several(pictures) {
    const choice = await ask(`${pictures.length} pictures`, "Are they the frames of one video, or pictures of their own?",
      { frames: "Frames of a video", album: "Separate pictures" });
    if (choice === "frames") {
      this.app.gallery.close();
      await this.send(pictures);
    } else if (choice === "album") {
      await this.app.gallery.begin(pictures);
    }
  }

  /** Opens once more what a session was opened from, for a server that has lost it; whether that went well. */
  async again({ files, path, name }) { return Boolean(await this.send(files, path, name)); }

  async send(files, path = "/api/sessions", name = nameOf(files)) {
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    const limit = this.app.limits?.upload_bytes;
    if (limit && bytes > limit) {
      toast(`${files[0].name} has ${size(bytes)}; the limit is ${size(limit)}. Give a smaller file or start the app with a larger limit.`, { error: true });
      return null;
    }
    const what = files.length === 1 ? name : `${files.length} pictures`;
    const { done, cancel } = api.upload(files, name, (part) => this.app.status.busy(`Opening ${what}… ${Math.round(part * 100)} %`), path);
    const local = files.length === 1 && path === "/api/sessions" && isPicture(files[0]) ? new LocalPicture(this.app, files[0]) : null;
    this.#sends(cancel);
    this.app.status.busy(`Opening ${what}…`);
    try {
      const info = await done;
      this.app.openSession(info);
      this.app.session.opened = { files, path, name };
      local?.give(this.app.session);
      announce(`${info.name} opened`);
      return info;
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      if (error.code === "cancelled") announce("Cancelled");
      else toast(`${what}: ${error.message}`, { error: true });
      return null;
    } finally {
      local?.end();
      this.#sends(null);
      this.app.status.busy(null);
    }
  }

  /** Notes how to cancel what is being sent; null: nothing is. */
  #sends(cancel) {
    this.sending = cancel;
    this.cancelButton.hidden = !cancel;
  }

  /** Offers the examples of the server: [{name, title}]. */
  offer(examples) {
    const box = byId("examples");
    box.hidden = !examples.length;
    box.replaceChildren("Nothing at hand? Try", ...examples.flatMap(({ name, title }, index) =>
      [index ? " or " : " ", make("button", { onclick: () => this.#example(name) }, title)]));
  }

  async #example(name) {
    this.app.gallery.close();
    this.app.status.busy("Opening the example…");
    try {
      this.app.openSession(await api.example(name));
    } catch (error) {
      this.app.problem(error);
    } finally {
      this.app.status.busy(null);
    }
  }

  #watchDrops() {
    const veil = byId("veil");
    let depth = 0;
    const isFile = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => {
      if (!isFile(event)) return;
      depth++;
      veil.hidden = false;
    });
    addEventListener("dragleave", (event) => {
      if (isFile(event) && --depth <= 0) veil.hidden = true;
    });
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", async (event) => {
      event.preventDefault();
      depth = 0;
      veil.hidden = true;
      this.take(await dropped(event.dataTransfer));
    });
  }
}

/** Every file of a drop, those in folders too. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    if (!entry.isDirectory) return;
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const each of some) await walk(each);
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}

/** A question with a few answers: the key of the one that was chosen, or null. */
export function ask(title, text, answers) {
  return new Promise((resolve) => {
    const dialog = make("dialog", { "aria-labelledby": "ask-title", class: "ask" });
    const buttons = Object.entries(answers).map(([key, label], index) =>
      make("button", { class: index ? "big" : "big primary", onclick: () => dialog.close(key) }, label));
    dialog.append(make("div", { class: "sheet" }, make("h2", { id: "ask-title" }, title), make("p", {}, text),
      make("div", { class: "choices" }, ...buttons, make("button", { class: "big", onclick: () => dialog.close("") }, "Cancel"))));
    document.body.append(dialog);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue || null);
    });
    dialog.showModal();
  });
}
