// The line to the server: a session's events, what is done when it breaks, and how it comes back.
import * as api from "./api.js";
import { login } from "./login.js";

const AGAIN = 1500; // ms between two attempts

export class Line {
  constructor(session) {
    this.session = session;
    this.connected = true;
    const { sync, jobs } = session;
    this.stop = api.events(session.id, {
      state: (info) => this.#back(info),
      lost: () => this.lost(),
      closed: () => session.tell("closed"),
      edit: ({ revision, client }) => client !== api.CLIENT && sync.heard(revision),
      status: ({ status, message }) => session.setStatus(status, message),
      model: (model) => session.tell("model", model),
      saving: ({ saving, message }) => this.#saving(saving, message),
      progress: (step) => jobs.progressed(step),
      frame: ({ frame, masks }) => session.tracked(frame, masks),
      job: (job) => jobs.changed(job),
      everything: ({ frame, masks }) => session.setRegions(frame, masks),
    });
  }

  close() {
    this.stop();
  }

  /** Something was not answered: asks until the server is there, though the events may be alive. */
  lost() {
    if (!this.connected || this.session.closed) return;
    this.connected = false;
    this.session.tell("connection", false);
    this.#retry();
  }

  async #retry() {
    const { session } = this;
    while (!this.connected && !session.closed) {
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
      if (this.connected || session.closed) return;
      try {
        this.#back(await login(() => api.session(session.id))); // one that others can reach has a new token
      } catch (error) {
        if (error.status === 404) await this.#reopen();
        else if (!error.offline) session.tell("problem", error);
      }
    }
  }

  /** The server runs, but does not have the session open: it was started again, or has put it away. */
  async #reopen() {
    const { session } = this;
    try {
      this.#back(await api.recall(session.id));
      session.tell("said", "The app was started again. Everything is as you left it.");
    } catch (error) {
      if (error.status === 404) session.tell("closed", true);
      else if (!error.offline) session.tell("problem", error);
    }
  }

  #back(info) {
    const { session } = this;
    if (session.closed) return;
    const was = this.connected;
    this.connected = true;
    session.jobs.take(info.jobs);
    session.sync.meet(info);
    session.take(info);
    session.tell("job");
    if (!was) session.tell("connection", true);
  }

  #saving(saving, message) {
    this.session.saving = saving;
    this.session.tell("saving", message);
  }
}
