// What the user asked for, as values that never change: {objects: [{id, name, color, visible, frames,
// locked}]}, with the numbers of frames whose mask tracking keeps, and
// frames: {"0": {points: [[x, y, 1 or 0]], box, choice, mask, score (of a mask that was found), refine}}. Undo and redo
// are older values of it.

// Okabe and Ito's colours, distinct for every common kind of colour blindness; yellow last, it is weak on white.
export const PALETTE = [
  ["#56b4e9", "Sky blue"], ["#e69f00", "Orange"], ["#009e73", "Green"], ["#d55e00", "Vermilion"],
  ["#cc79a7", "Pink"], ["#0072b2", "Blue"], ["#8f63d2", "Violet"], ["#f0e442", "Yellow"],
];

export const colourName = (colour) => PALETTE.find(([value]) => value === colour.toLowerCase())?.[1] ?? colour;

export const EMPTY = Object.freeze({ objects: [] });
export const NO_PROMPTS = Object.freeze({ points: [], box: null, choice: null, mask: null, score: null, refine: true });

export const find = (doc, id) => doc.objects.find((object) => object.id === id);
export const promptsOf = (doc, id, frame) => find(doc, id)?.frames[frame] ?? NO_PROMPTS;
export const isEmpty = (prompts) => !prompts.points.length && !prompts.box && !prompts.mask;

/** The document of a session's JSON. */
export function fromServer(session) {
  const objects = session.objects.map(({ id, name, color, visible, frames, locked }) => {
    const kept = {};
    for (const [number, prompts] of Object.entries(frames ?? {})) kept[number] = { ...NO_PROMPTS, ...prompts };
    return { id: Number(id), name, color, visible, frames: kept, locked: locked ?? [] };
  });
  return { objects };
}

/** A number no object of these documents has; what an undone object was called stays free for redo. */
export const freeId = (doc, taken = 0) => Math.max(taken, 0, ...doc.objects.map((object) => object.id)) + 1;

/** The first colour that nobody wears, else the least worn. */
export function freeColour(doc) {
  const worn = PALETTE.map(([value]) => doc.objects.filter((object) => object.color === value).length);
  return PALETTE[worn.indexOf(Math.min(...worn))][0];
}

export function withObject(doc, id, prompts = {}, color = freeColour(doc)) {
  const object = { id, name: `Object ${id}`, color, visible: true, frames: prompts, locked: [] };
  return { objects: [...doc.objects, object] };
}

export const withoutObject = (doc, id) => ({ objects: doc.objects.filter((object) => object.id !== id) });

/** The document with some fields (name, color, visible) of an object changed. */
export const withLooks = (doc, id, looks) => ({
  objects: doc.objects.map((object) => (object.id === id ? { ...object, ...looks } : object)),
});

/** The document with a frame of an object kept by tracking, or not any more. */
export function withLock(doc, id, frame, on) {
  const others = (find(doc, id)?.locked ?? []).filter((other) => other !== frame);
  return withLooks(doc, id, { locked: on ? [...others, frame].sort((a, b) => a - b) : others });
}

/** The document with an object's prompts on a frame replaced; empty ones are taken out. */
export function withPrompts(doc, id, frame, prompts) {
  return {
    objects: doc.objects.map((object) => {
      if (object.id !== id) return object;
      const frames = { ...object.frames };
      if (isEmpty(prompts)) delete frames[frame];
      else frames[frame] = prompts;
      return { ...object, frames };
    }),
  };
}

export function withPoint(doc, id, frame, x, y, include, refine) {
  const before = promptsOf(doc, id, frame);
  return withPrompts(doc, id, frame, { ...before, points: [...before.points, [x, y, include ? 1 : 0]], choice: null, refine });
}

export function withBox(doc, id, frame, box, refine) {
  return withPrompts(doc, id, frame, { ...promptsOf(doc, id, frame), box, choice: null, refine });
}

const same = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);
const looks = ({ name, color, visible }) => ({ name, color, visible });

/** The requests that turn `before` into `after`, in an order that the server can follow. */
export function difference(before, after) {
  const steps = [];
  for (const { id } of before.objects) if (!find(after, id)) steps.push({ what: "delete", object: id });
  for (const object of after.objects) {
    const old = find(before, object.id);
    if (!old || !same(looks(old), looks(object))) steps.push({ what: "object", object: object.id, looks: looks(object) });
    for (const frame of Object.keys(old?.frames ?? {})) {
      if (!object.frames[frame]) steps.push({ what: "prompts", object: object.id, frame: Number(frame), prompts: NO_PROMPTS });
    }
    for (const [frame, prompts] of Object.entries(object.frames)) {
      if (!same(old?.frames[frame], prompts)) steps.push({ what: "prompts", object: object.id, frame: Number(frame), prompts });
    }
    const [was, is] = [old?.locked ?? [], object.locked ?? []];
    if (was !== is) {
      for (const frame of is) if (!was.includes(frame)) steps.push({ what: "lock", object: object.id, frame, locked: true });
      for (const frame of was) if (!is.includes(frame)) steps.push({ what: "lock", object: object.id, frame, locked: false });
    }
  }
  return steps;
}

/** The document after a step of `difference`. */
export function applied(doc, step) {
  if (step.what === "delete") return withoutObject(doc, step.object);
  const known = find(doc, step.object) ? doc : withObject(doc, step.object);
  if (step.what === "lock") return withLock(known, step.object, step.frame, step.locked);
  const seen = step.looks ? withLooks(known, step.object, step.looks) : known;
  return step.what === "prompts" ? withPrompts(seen, step.object, step.frame, step.prompts) : seen;
}

/** Whether an object of theirs is one of ours that they have only a part of: a request whose answer was lost. */
const isPartOf = (theirs, ours) => Object.entries(theirs.frames).every(([frame, prompts]) => same(ours.frames[frame], prompts));

/** What we have changed in prompts, changed in theirs: clicks that both have added are all kept. */
function mergedPrompts(base, ours, theirs) {
  const count = base.points.length;
  const hasMore = ours.points.length > count && same(ours.points.slice(0, count), base.points);
  if (same(base, theirs) || !hasMore) return ours;
  const box = same(base.box, ours.box) ? theirs.box : ours.box;
  return { ...theirs, points: [...theirs.points, ...ours.points.slice(count)], box, choice: null };
}

/** The fields of an object's looks that we have changed. */
const changedLooks = (base, looks) => Object.fromEntries(Object.entries(looks).filter(([key, value]) => base?.[key] !== value));

/**
 * What we have changed from `base` to `ours`, changed in `theirs` instead: {doc, names}. What they have deleted stays
 * deleted; an object that both have begun under one number gets another one on our side (`names`: old to new).
 */
export function carried(base, ours, theirs) {
  const names = new Map();
  const isNew = (id) => !find(base, id);
  let free = freeId(theirs, freeId(ours) - 1);
  for (const object of ours.objects) {
    const other = find(theirs, object.id);
    if (isNew(object.id) && other && !isPartOf(other, object)) names.set(object.id, free++);
  }
  let doc = theirs;
  for (const step of difference(base, ours)) {
    const object = names.get(step.object) ?? step.object;
    if (!isNew(step.object) && !find(theirs, object)) continue;
    const moved = { ...step, object };
    if (step.looks) moved.looks = changedLooks(find(base, step.object), step.looks);
    if (step.looks && object !== step.object) {
      moved.looks.color = freeColour(doc);
      if (step.looks.name === `Object ${step.object}`) moved.looks.name = `Object ${object}`;
    }
    if (step.prompts) moved.prompts = mergedPrompts(promptsOf(base, step.object, step.frame), step.prompts, promptsOf(theirs, object, step.frame));
    doc = applied(doc, moved);
  }
  return { doc, names };
}
