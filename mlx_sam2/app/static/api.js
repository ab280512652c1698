// The server's API (mlx_sam2/app, GET /api/openapi.json), and nothing else that talks to it.

/** What the server refused, in its own words: `code` for programs, `message` for people, `status` of HTTP. */
export class ApiError extends Error {
  constructor(status, code, message, session = null) {
    super(message);
    Object.assign(this, { status, code, session }); // the session as it is, if an edit came too late
  }
  /** The server did not answer at all: it may come back. */
  get offline() { return this.status === 0; }
}

function refusal(status, text) {
  try {
    const { error, session } = JSON.parse(text);
    return new ApiError(status, error.code, error.message, session);
  } catch {
    return new ApiError(status, "unreadable", `The server answered ${status} without a reason.`);
  }
}

async function send(method, path, body, signal) {
  const options = { method, signal, headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "offline", "The app's server does not answer. Is it still running?");
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text());
  return answer;
}

/** Objects made of the masks in a file. */
export async function importMasks(id, file, frame) {
  let answer;
  try {
    answer = await fetch(of(id, `/import?frame=${frame}`), { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
  } catch {
    throw new ApiError(0, "offline", "The file could not be sent: is the app's server still running?");
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text());
  return answer.json();
}

async function json(method, path, body, signal) {
  const answer = await send(method, path, body, signal);
  const text = await answer.text();
  return text ? JSON.parse(text) : {};
}

/** This page among the tabs that edit a session. */
export const CLIENT = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

let edits = 0;

/** A number for an edit that no other one of this page has, whichever session it is of, and whenever that was opened. */
export const nextEdit = () => ++edits;

/** What an edit says of itself: {revision, client}. */
const query = (edit) => `?${new URLSearchParams(edit)}`;

const of = (session, rest = "") => `/api/sessions/${encodeURIComponent(session)}${rest}`;

export const login = (token) => json("POST", "/api/login", { token });
export const state = () => json("GET", "/api/state");
export const session = (id) => json("GET", of(id));
export const play = (id) => json("GET", of(id, "/play"));
export const mediaAddress = (id) => of(id, "/media");
export const rename = (id, name) => json("PUT", of(id, "/name"), { name });
export const models = () => json("GET", "/api/models");
export const chooseModel = (name) => json("POST", "/api/model", { name });
export const close = (id) => json("DELETE", of(id));
export const example = (name) => json("POST", `/api/examples/${encodeURIComponent(name)}`);
export const recall = (id) => json("POST", `/api/recent/${encodeURIComponent(id)}`);
/** A session that is open, or is opened again from where it was kept. */
export const open = (id) => session(id).catch((error) => {
  if (error.status === 404) return recall(id);
  throw error;
});
export const forget = (id) => json("DELETE", `/api/recent/${encodeURIComponent(id)}`);
export const thumbnail = (id) => `/api/recent/${encodeURIComponent(id)}/thumbnail`;
export const putObject = (id, object, looks, edit) => json("PUT", of(id, `/objects/${object}${query(edit)}`), looks);
export const deleteObject = (id, object, edit) => json("DELETE", of(id, `/objects/${object}${query(edit)}`));
export const putPrompts = (id, object, frame, { points, box, choice, mask, score, refine }, edit) =>
  json("PUT", of(id, `/objects/${object}/frames/${frame}${query(edit)}`), { points, box, choice, mask, score, refine });
/** `settings`: edges, as of exports, and `side`. */
export const cutoutUrl = (id, object, frame, settings = {}) => of(id, `/objects/${object}/frames/${frame}/cutout${query(settings)}`);
export const cutout = async (id, object, frame, settings = {}, signal = undefined) =>
  (await send("GET", cutoutUrl(id, object, frame, settings), undefined, signal)).blob();
export const restore = (id, revision, edit) => json("POST", of(id, `/restore${query(edit)}`), { revision });
export const preview = (id, ask, signal) => json("POST", of(id, "/preview"), ask, signal);
export const scores = (id) => json("GET", of(id, "/scores"));
export const putLock = (id, object, frame, locked, edit) =>
  json("PUT", of(id, `/frames/${frame}/lock${query(edit)}`), { locked, objects: [object] });
export const masks = (id, frame) => json("GET", of(id, `/masks/${frame}`));
export const everything = (id, ask, edit) => json("POST", of(id, `/everything${query(edit)}`), ask);
export const propagate = (id, ask, edit) => json("POST", of(id, `/propagate${query(edit)}`), ask);
/** A live camera: a frame goes out when the one before is answered. */
export const live = () => json("POST", "/api/live");
export const keepLive = (id) => json("POST", `/api/live/${id}/session`);
export const endLive = (id) => json("DELETE", `/api/live/${id}`);
export async function liveFrame(id, blob, click) {
  let answer;
  try {
    answer = await fetch(`/api/live/${id}/frames?${new URLSearchParams(click)}`, { method: "POST", body: blob });
  } catch {
    throw new ApiError(0, "offline", "The app's server does not answer. Is it still running?");
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text());
  return answer.json();
}
export const makeExport = (id, ask) => json("POST", of(id, "/export"), ask);
export const job = (id, name) => json("GET", of(id, `/jobs/${name}`));
/** Several pictures as one data set, a ZIP archive. */
export const collection = async (ask) => (await send("POST", "/api/collection", ask)).blob();
export const cancel = (id, name) => json("DELETE", of(id, `/jobs/${name}`));

/** A frame as an ImageBitmap, no side longer than `side`; decoded away from the page's thread. */
export async function frame(id, number, side, signal) {
  const answer = await send("GET", of(id, `/frames/${number}?side=${side}`), undefined, signal);
  return createImageBitmap(await answer.blob());
}

/** The file that an export job has made: {blob, name}. */
export async function exported(id, name) {
  const answer = await send("GET", of(id, `/exports/${name}`));
  const words = answer.headers.get("Content-Disposition") ?? "";
  const coded = /filename\*=UTF-8''([^;]+)/i.exec(words);
  const plain = /filename="?([^";]+)"?/i.exec(words);
  return { blob: await answer.blob(), name: coded ? decodeURIComponent(coded[1]) : plain ? plain[1] : "export" };
}

/** Sends files: one as it is, several as a form. `progress` gets 0..1. XMLHttpRequest, since fetch tells no progress. */
export function upload(files, name, progress, path = "/api/sessions") {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText));
      else reject(refusal(request.status, request.responseText));
    };
    request.onerror = () => reject(new ApiError(0, "offline", "The upload broke off: the server closed the connection."));
    request.onabort = () => reject(new ApiError(0, "cancelled", "The upload was cancelled."));
  });
  request.open("POST", `${path}?name=${encodeURIComponent(name)}`);
  if (files.length === 1) {
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.send(files[0]);
  } else {
    const form = new FormData();
    for (const file of files) form.append("files", file, file.name);
    request.send(form);
  }
  return { done, cancel: () => request.abort() };
}

/**
 * The session's events: handlers by name, `lost` when the line breaks. The server sends `state` on every connection and
 * the browser connects again by itself; after `closed` there is nothing to come back to. Returns a stop function.
 */
export function events(id, handlers) {
  let source, timer, stopped = false;
  const connect = () => {
    source = new EventSource(of(id, "/events"));
    source.onerror = () => {
      if (stopped) return;
      handlers.lost();
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(connect, 2000);
    };
    for (const name of ["state", "edit", "status", "model", "saving", "job", "progress", "frame", "everything"]) {
      source.addEventListener(name, (event) => handlers[name](JSON.parse(event.data)));
    }
    source.addEventListener("closed", () => {
      stop();
      handlers.closed();
    });
  };
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
    source.close();
  };
  connect();
  return stop;
}
