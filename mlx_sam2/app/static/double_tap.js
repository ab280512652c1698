// Two taps of a finger at one place fit a picture that is zoomed in. The click of the first one is taken back.

const SOON = 300; // ms
const NEAR = 24; // CSS pixels

export function watchDoubleTaps(app) {
  let last = null; // {time, x, y, doc (before that tap)}
  app.stage.parentElement.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch" || !app.session || !app.stage.contains(event.target)) return;
    const { timeStamp: time, clientX: x, clientY: y } = event;
    const isSecond = last && event.isPrimary && time - last.time < SOON && Math.hypot(x - last.x, y - last.y) < NEAR;
    if (isSecond && !app.view.fitted) {
      event.stopPropagation(); // it is no click
      if (app.session.doc !== last.doc) app.undo();
      app.view.fit();
      last = null;
    } else {
      last = event.isPrimary ? { time, x, y, doc: app.session.doc } : null;
    }
  }, true);
  app.stage.parentElement.addEventListener("pointerup", ({ clientX: x, clientY: y }) => {
    if (last && Math.hypot(x - last.x, y - last.y) >= NEAR) last = null; // that was no tap
  }, true);
}
