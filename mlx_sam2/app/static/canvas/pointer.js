// What fingers, pens and mice do on the stage, told in pixels of the picture: hover, tap, drag, pan and zoom.

const SLACK = { mouse: 4, pen: 6, touch: 10 }; // CSS pixels that a click may move

export class Pointer {
  /**
   * `does`: {hover(x, y, event), leave(), tap(x, y, event), drag(box, event), drop(box, event), pans(), take(x, y, event)},
   * where `pans()` tells whether a drag moves the picture now, and `take` what follows the pointer instead of all that:
   * {move(x, y), end(whether it never moved), cancel()}, or null.
   */
  constructor(view, does) {
    Object.assign(this, { view, does });
    this.down = new Map(); // pointerId -> {x, y, startX, startY}
    this.gesture = null; // null, "press", "drag", "pan", "pinch", "held"
    this.held = null; // what `take` gave
    const stage = view.stage;
    stage.addEventListener("pointerdown", (event) => this.#pressed(event));
    stage.addEventListener("pointermove", (event) => this.#moved(event));
    stage.addEventListener("pointerup", (event) => this.#released(event));
    stage.addEventListener("pointercancel", (event) => this.#lost(event));
    stage.addEventListener("pointerleave", () => does.leave());
    stage.addEventListener("contextmenu", (event) => event.preventDefault()); // a right click excludes
    stage.addEventListener("wheel", (event) => this.#wheeled(event), { passive: false });
    stage.addEventListener("gesturestart", (event) => this.#safariPinch(event, true));
    stage.addEventListener("gesturechange", (event) => this.#safariPinch(event, false));
  }

  /** Ends what is being dragged; nothing comes of it. */
  cancel() {
    this.gesture = this.down.size ? "idle" : null;
    this.#letGo("cancel");
  }

  #letGo(how, ...args) {
    const { held } = this;
    this.held = null;
    held?.[how](...args);
  }

  #place(event) {
    const bounds = this.view.stage.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  #pressed(event) {
    const [x, y] = this.#place(event);
    this.view.stage.setPointerCapture(event.pointerId);
    this.down.set(event.pointerId, { x, y, startX: x, startY: y });
    if (this.down.size === 2) {
      this.does.leave();
      this.#letGo("cancel");
      this.gesture = "pinch";
      return;
    }
    this.gesture = event.button === 1 || this.does.pans() ? "pan" : "press";
    if (this.gesture === "pan") this.view.stage.dataset.cursor = "grabbing";
    else this.held = this.does.take(...this.view.toPicture(x, y), event);
    if (this.held) this.gesture = "held";
  }

  #moved(event) {
    const [x, y] = this.#place(event);
    const finger = this.down.get(event.pointerId);
    if (!finger) {
      if (event.pointerType !== "touch") this.does.hover(...this.view.toPicture(x, y), event);
      return;
    }
    const dx = x - finger.x, dy = y - finger.y;
    if (this.gesture === "pinch") this.#pinch(event.pointerId, x, y);
    Object.assign(finger, { x, y });
    if (this.gesture === "pan") this.view.panBy(dx, dy);
    if (this.gesture === "held") {
      finger.moved ||= Math.hypot(x - finger.startX, y - finger.startY) > SLACK[event.pointerType];
      this.held?.move(...this.view.toPicture(x, y));
    }
    if (this.gesture === "press" && Math.hypot(x - finger.startX, y - finger.startY) > SLACK[event.pointerType]) {
      const slides = event.pointerType === "touch" && this.does.slides?.(); // one finger moves a picture that is zoomed in
      this.gesture = event.button === 2 || event.buttons === 2 ? "press" : slides ? "pan" : "drag";
    }
    if (this.gesture === "drag") this.does.drag(this.#box(finger), event);
  }

  #released(event) {
    const finger = this.down.get(event.pointerId);
    if (!finger) return;
    this.down.delete(event.pointerId);
    if (this.gesture === "held") this.#letGo("end", !finger.moved);
    if (this.gesture === "press") this.does.tap(...this.view.toPicture(finger.startX, finger.startY), event);
    if (this.gesture === "drag") this.does.drop(this.#box(finger), event);
    if (this.gesture === "pan") this.does.hover(...this.view.toPicture(finger.x, finger.y), event);
    this.gesture = this.down.size ? "idle" : null; // after a pinch the last finger does nothing
  }

  #lost(event) {
    this.down.delete(event.pointerId);
    if (this.gesture === "drag") this.does.drag(null, event);
    this.#letGo("cancel");
    this.gesture = this.down.size ? "idle" : null;
  }

  #box({ startX, startY, x, y }) {
    const [ax, ay] = this.view.clamp(...this.view.toPicture(startX, startY));
    const [bx, by] = this.view.clamp(...this.view.toPicture(x, y));
    return [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
  }

  #pinch(id, x, y) {
    const moving = this.down.get(id);
    const [, still] = [...this.down].find(([other]) => other !== id);
    const before = Math.hypot(moving.x - still.x, moving.y - still.y);
    const after = Math.hypot(x - still.x, y - still.y);
    if (before > 0) this.view.zoomBy(after / before, still.x, still.y);
    this.view.panBy((x - moving.x) / 2, (y - moving.y) / 2);
  }

  /**
   * Pinching a trackpad arrives as wheel with ctrlKey; a wheel that clicks in steps zooms, two fingers move. Which of
   * the two it is shows at the start of a movement: later a fast one of fingers may look like a step.
   */
  #wheeled(event) {
    event.preventDefault();
    const [x, y] = this.#place(event);
    if (!(event.timeStamp - this.wheeledAt < 250)) this.steps = event.deltaMode !== 0 || (event.deltaX === 0 && event.wheelDeltaY % 120 === 0);
    this.wheeledAt = event.timeStamp;
    if (event.ctrlKey || event.metaKey) this.view.zoomBy(Math.exp(-event.deltaY * (this.steps ? 0.002 : 0.01)), x, y);
    else if (this.steps && !event.shiftKey) this.view.zoomBy(Math.exp(-Math.sign(event.deltaY) * 0.18), x, y);
    else this.view.panBy(-event.deltaX, -event.deltaY);
  }

  /** Pinching a trackpad in Safari; fingers on a screen come as pointers too, and are counted there. */
  #safariPinch(event, start) {
    event.preventDefault();
    if (this.down.size) return;
    if (start) this.startScale = this.view.scale;
    else this.view.zoomTo(this.startScale * event.scale, ...this.#place(event));
  }
}
