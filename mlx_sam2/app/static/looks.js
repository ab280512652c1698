// The choice of how masks are looked at, and how strong their tints are; kept for the next visit.
import { LOOKS } from "./canvas/looks.js";
import { announce, byId } from "./dom.js";

const KEY = "look";

export class Looks {
  constructor(app) {
    this.app = app;
    this.list = byId("look");
    this.opacity = byId("opacity");
    this.list.addEventListener("change", () => this.choose(this.list.value));
    this.opacity.addEventListener("input", () => this.choose(app.painter.look));
    try {
      const { look, opacity } = JSON.parse(localStorage.getItem(KEY)) ?? {};
      if (LOOKS.includes(look)) this.list.value = look;
      if (opacity > 0) this.opacity.value = opacity;
    } catch {
      // storage is off
    }
    this.choose(this.list.value);
  }

  choose(look) {
    const { painter } = this.app;
    this.list.value = look;
    Object.assign(painter, { look, opacity: Number(this.opacity.value) / 100 });
    painter.marks();
    try {
      localStorage.setItem(KEY, JSON.stringify({ look, opacity: Number(this.opacity.value) }));
    } catch {
      // as above
    }
  }

  /** The next one: a key goes through them. */
  turn() {
    const next = LOOKS[(LOOKS.indexOf(this.app.painter.look) + 1) % LOOKS.length];
    this.choose(next);
    announce(this.list.selectedOptions[0].textContent);
  }
}
