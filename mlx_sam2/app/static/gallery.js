// Several pictures that are no video, one after the other: a strip of them, and done marks.
import * as api from "./api.js";
import { announce, byId, icon, make } from "./dom.js";

const KEY = "gallery";

export class Gallery {
  constructor(app) {
    this.app = app;
    this.pictures = []; // {name, file (null after a reload), id (null until it is open), done, url}
    this.at = -1;
    this.box = byId("gallery");
    this.list = byId("pictures");
    this.done = byId("picture-done");
    byId("album-back").addEventListener("click", () => this.turn(-1));
    byId("album-on").addEventListener("click", () => this.turn(1));
    this.done.addEventListener("change", () => this.mark(this.done.checked));
  }

  get isOpen() { return this.pictures.length > 0; }
  /** Whether a session is one of these pictures. */
  holds(id) { return this.pictures.some((picture) => picture.id === id); }
  get now() { return this.pictures[this.at]; }

  /** Begins with these files. */
  async begin(files) {
    this.#leave();
    this.pictures = files.map((file) => ({ name: file.name, file, id: null, done: false, url: URL.createObjectURL(file) }));
    this.at = 0;
    this.#build();
    await this.turn(0);
  }

  /** Takes up what an earlier page of this tab had, if this session is one of it. */
  restore(id) {
    try {
      const { pictures } = JSON.parse(sessionStorage.getItem(KEY)) ?? {};
      const at = pictures?.findIndex((picture) => picture.id === id) ?? -1;
      if (at < 0) return;
      this.pictures = pictures.filter((picture) => picture.id).map((picture) => ({ ...picture, file: null, url: api.thumbnail(picture.id) }));
      this.at = this.pictures.findIndex((picture) => picture.id === id);
      this.#build();
    } catch {
      // storage is off, or has something of another version
    }
  }

  close() {
    this.#leave();
    this.box.hidden = true;
    this.#keep();
  }

  #leave() {
    for (const { file, url } of this.pictures) if (file) URL.revokeObjectURL(url);
    this.pictures = [];
    this.at = -1;
  }

  #keep() {
    try {
      const pictures = this.pictures.map(({ name, id, done }) => ({ name, id, done }));
      sessionStorage.setItem(KEY, JSON.stringify({ pictures }));
    } catch {
      // as above: they last until a reload
    }
  }

  // ---- going through them

  /** Goes so many pictures further; one that was open before comes back as it was. */
  turn(by) { return this.go((this.at + by + this.pictures.length) % this.pictures.length); }

  async go(at) {
    const { app } = this;
    if (!this.isOpen || app.files.sending) return;
    const picture = this.pictures[at];
    this.at = at;
    this.show();
    if (picture.id && (await app.openId(picture.id, { quiet: true }))) {
      this.show();
      return;
    }
    if (!picture.file) {
      app.say(`${picture.name} is not there any more.`);
      return;
    }
    const info = await app.files.send([picture.file]);
    if (info) picture.id = info.id;
    this.show();
  }

  mark(done) {
    if (!this.isOpen) return;
    this.now.done = done;
    announce(done ? "Done" : "Not done");
    this.show();
  }

  /** Marks the picture as done and goes on to the next that is not. */
  finish() {
    if (!this.isOpen) return;
    this.mark(true);
    const order = [...this.pictures.keys()].map((step) => (this.at + 1 + step) % this.pictures.length);
    const next = order.find((at) => !this.pictures[at].done);
    if (next === undefined) this.app.say("All pictures are done.");
    else this.go(next);
  }

  // ---- what is seen

  #build() {
    this.list.replaceChildren(...this.pictures.map(({ name, url }, at) => {
      const image = make("img", { src: url, alt: "", loading: "lazy", decoding: "async", width: 72, height: 48 });
      const button = make("button", { "aria-label": name, title: name, onclick: () => this.go(at) }, image, icon("check"));
      return make("li", {}, button);
    }));
    this.show();
  }

  show() {
    this.box.hidden = !this.isOpen;
    if (!this.isOpen) return;
    const finished = this.pictures.filter(({ done }) => done).length;
    byId("album-text").textContent = `${this.at + 1} of ${this.pictures.length}`;
    byId("album-done").textContent = `${finished} done`;
    this.done.checked = this.now.done;
    [...this.list.children].forEach((item, at) => {
      const [button] = item.children;
      const { name, done } = this.pictures[at];
      button.setAttribute("aria-current", String(at === this.at));
      button.setAttribute("aria-label", done ? `${name}, done` : name);
      button.dataset.done = String(done);
    });
    this.list.children[this.at]?.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.#keep();
  }
}
