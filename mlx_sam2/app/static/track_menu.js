// How to track: between which frames, whom, by which memory. What is chosen stays with the page's tab.
import { find } from "./document.js";
import { announce, byId, openMenu } from "./dom.js";

const POLICIES = [
  ["official", "As SAM 2 does", "Sure and plain: the latest frames are remembered"],
  ["samurai", "Through occlusion (SAMURAI)", "Follows the motion, and forgets doubtful frames"],
  ["dam4sam", "Among look-alikes (DAM4SAM)", "Remembers what the object was mistaken for"],
];
const SOME = [10, 50]; // frames
const KEY = "tracking";

const marked = (on, label) => `${on ? "✓ " : ""}${label}`;

export class TrackMenu {
  constructor(app) {
    this.app = app;
    this.policy = null; // the app's own
    this.alone = false; // only the active object
    this.button = byId("track-menu");
    this.button.addEventListener("click", () => this.open());
    try {
      this.policy = POLICIES.find(([name]) => name === sessionStorage.getItem(KEY))?.[0] ?? null;
    } catch {
      // storage is off
    }
  }

  open() {
    const { session, transport } = this.app;
    if (!session?.video || this.button.disabled) return;
    const { frame } = session;
    const object = find(session.doc, session.active);
    openMenu(this.button, [
      ...SOME.map((count) => ({ label: `Track ${count} frames`, note: "Forward from this one", act: () => transport.track("forward", count) })),
      ...(object && session.doc.objects.length > 1 ? [{ label: marked(this.alone, "Only the active object"), note: "The others stay as they are", act: () => { this.alone = !this.alone; this.app.changed(); } }] : []),
      null,
      { label: "In point here", note: "⇧I · nothing before it is tracked, played or exported as a film", act: () => this.mark("first", frame) },
      { label: "Out point here", note: "⇧O", act: () => this.mark("last", frame) },
      ...(session.isCut ? [{ label: "The whole video", note: "⇧X · without in and out points", act: () => this.whole() }] : []),
      null,
      ...POLICIES.map(([name, label, note]) => ({ label: marked(this.policy === name, label), note, act: () => this.choose(name) })),
    ]);
  }

  choose(name) {
    this.policy = name;
    try {
      sessionStorage.setItem(KEY, name);
    } catch {
      // as above
    }
    announce(`Memory: ${POLICIES.find(([other]) => other === name)[1]}`);
  }

  /** Sets the in or the out point; the other one gives way. */
  mark(which, frame) {
    const { session } = this.app;
    if (!session?.video) return;
    const range = { ...session.range, [which]: frame };
    if (range.first > range.last) Object.assign(range, which === "first" ? { last: session.frames - 1 } : { first: 0 });
    this.#set(range, `${which === "first" ? "In" : "Out"} point on frame ${frame + 1}`);
  }

  whole() {
    const { session } = this.app;
    if (session?.video) this.#set({ first: 0, last: session.frames - 1 }, "The whole video");
  }

  #set(range, words) {
    this.app.session.range = range;
    this.app.session.keepPlace();
    this.app.changed();
    announce(words);
  }

  /** What a request to track says; null, with a word to the user, where it would be about nothing. */
  ask(direction, count = Infinity) {
    const { session } = this.app;
    const { frame, range: { first, last } } = session;
    if (frame < first || frame > last) {
      this.app.say(`Frame ${frame + 1} lies outside of the in and out points.`);
      return null;
    }
    if (direction === "backward" && frame === first) {
      this.app.say(first ? "There is nothing before the in point." : "There is nothing before the first frame.");
      return null;
    }
    const alone = this.alone && find(session.doc, session.active);
    const objects = alone ? [session.active] : null;
    if (alone && !Object.keys(alone.frames).length) {
      this.app.say(`${alone.name} has no click yet, so it can't be tracked alone.`);
      return null;
    }
    return { frame, direction, first, last: Math.min(last, frame + count), objects, memory_policy: this.policy };
  }
}
