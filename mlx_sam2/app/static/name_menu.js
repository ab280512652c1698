// The menu of the name: what is open besides, and what is done with the whole document: rename, save, close.
import * as api from "./api.js";
import { announce, byId, make, openMenu } from "./dom.js";
import { ask } from "./files.js";

const LISTED = 8; // open documents

const kindOf = ({ kind, width, height, frames }) => `${width} × ${height}${kind === "video" ? ` · ${frames} frames` : ""}`;

export class NameMenu {
  constructor(app) {
    this.app = app;
    this.button = byId("document");
    this.dialog = byId("name-dialog");
    this.button.addEventListener("click", () => this.menu());
  }

  async menu() {
    const { app } = this;
    const { session } = app;
    if (!session) return;
    let open = [];
    try {
      open = (await api.state()).sessions.filter(({ id }) => !app.gallery.holds(id) || id === session.id);
    } catch (error) {
      app.problem(error); // the rest of the menu may still be of use
    }
    if (session !== app.session) return;
    const documents = open.slice(0, LISTED).map((each) => ({
      label: each.name, note: kindOf(each), checked: each.id === session.id, act: () => this.turn(each.id),
    }));
    openMenu(this.button, [
      ...(documents.length > 1 ? [...documents, null] : []),
      { label: "Rename…", act: () => this.rename() },
      { label: "Save as a project", note: "A file with everything, to open again later", act: () => app.exports.make("project") },
      { label: "Recent…", act: () => app.showRecent() },
      null,
      { label: "Model…", note: app.status.model.name, act: () => app.models.open() },
      null,
      { label: "Close", note: session.saving === "on" ? "It stays among the recent ones." : "What was not exported is lost.", act: () => this.close() },
    ]);
  }

  async turn(id) {
    if (id === this.app.session?.id) return;
    this.app.gallery.close();
    await this.app.openId(id);
  }

  /** Closes the document, after a question if something would be lost. */
  async close() {
    const { session } = this.app;
    const lost = session.saving !== "on" && session.doc.objects.length > 0;
    const answer = lost && (await ask(`Close “${session.name}”?`, "The app does not keep it, so its objects are lost. A project keeps them.",
      { project: "Save a project", close: "Close" }));
    if (answer === "project") this.app.exports.make("project");
    else if ((!lost || answer) && session === this.app.session) this.app.closeSession();
  }

  rename() {
    const { session } = this.app;
    const ending = /\.[^.]*$/.exec(session.name)?.[0] ?? "";
    const stem = ending ? session.name.slice(0, -ending.length) : session.name;
    const field = make("input", { id: "new-name", value: stem, maxlength: "180", autocomplete: "off", spellcheck: "false", required: "" });
    const form = make("form", { method: "dialog", class: "sheet" }, make("h2", { id: "name-title" }, "Rename"),
      make("label", { class: "field", for: "new-name" }, "Name"), field,
      make("div", { class: "choices" }, make("button", { class: "big primary", value: "rename" }, "Rename"),
        make("button", { class: "big", type: "button", onclick: () => this.dialog.close("") }, "Cancel")));
    this.dialog.replaceChildren(form);
    this.dialog.returnValue = "";
    this.dialog.addEventListener("close", () => {
      const name = field.value.trim();
      if (this.dialog.returnValue === "rename" && name && name !== stem) this.#rename(session, `${name}${ending}`);
    }, { once: true });
    this.dialog.showModal();
    field.select();
  }

  async #rename(session, name) {
    try {
      session.name = (await api.rename(session.id, name)).name;
      announce(`Renamed: ${session.name}`);
      this.app.status.show();
    } catch (error) {
      session.problem(error);
    }
  }
}
