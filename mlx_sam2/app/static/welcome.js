// The page before anything is open: what was open before, with small pictures. Examples and pickers are in files.js.
import * as api from "./api.js";
import { announce, byId, icon, make } from "./dom.js";

const MOST = 8;
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];
const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** "3 minutes ago", of a time in seconds since 1970. */
function ago(time) {
  const seconds = Date.now() / 1000 - time;
  const [unit, size] = UNITS.find(([, each]) => seconds >= each) ?? ["second", 0];
  return size ? words.format(-Math.floor(seconds / size), unit) : "just now";
}

const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

export class Welcome {
  constructor(app) {
    this.app = app;
    this.box = byId("recent");
  }

  show({ recent = [] }) {
    this.box.hidden = !recent.length;
    this.box.querySelector("ul").replaceChildren(...recent.slice(0, MOST).map((each) => this.#card(each)));
  }

  #card({ id, kind, name, objects, used }) {
    const picture = make("img", { src: api.thumbnail(id), alt: "", loading: "lazy", width: 148, height: 99 });
    const about = [kind === "video" ? "Video" : "Picture", objects ? count(objects, "object") : null];
    const open = make("button", { class: "card", onclick: () => this.app.openId(id) }, picture, make("span", { class: "name" }, name),
      make("small", {}, about.filter(Boolean).join(" · ")), make("small", {}, ago(used)));
    const remove = make("button", { class: "icon small remove", "aria-label": `Remove ${name} from this list`, title: "Remove from this list" }, icon("close"));
    const item = make("li", {}, open, remove);
    remove.addEventListener("click", () => this.#forget(id, name, item));
    return item;
  }

  async #forget(id, name, item) {
    try {
      await api.forget(id);
      item.remove();
      this.box.hidden = !this.box.querySelector("li");
      announce(`${name} removed`);
    } catch (error) {
      this.app.problem(error);
    }
  }
}
