// Long work of the server for a session, one at a time: tracking, everything-mode, exports.
import * as api from "./api.js";

const START = { propagate: api.propagate, everything: api.everything, export: api.makeExport };
const going = ({ status }) => status === "queued" || status === "running";

export class Jobs {
  /** Tells the session's listeners `job` whenever something changed; with {id, kind, status, message} when it ended. */
  constructor(session) {
    this.session = session;
    this.current = null; // {id (null until the server has named it), kind, done, total, follow, stopping}
  }

  /** What the server says is going on, after a reload or a lost connection. */
  take(jobs = []) {
    const { current } = this;
    if (current?.id && !jobs.some(({ id }) => id === current.id)) this.current = null; // it ended while nobody listened
    const found = jobs.find(going);
    if (found && this.current === null) this.current = { ...found, follow: false };
  }

  async start(kind, ask) {
    if (this.current) return;
    this.current = { id: null, kind, done: 0, total: 0, follow: kind === "propagate" };
    this.session.tell("job");
    try {
      const { id } = await START[kind](this.session.id, ask);
      if (this.current) this.current.id = id;
      this.session.tell("job");
    } catch (error) {
      this.current = null;
      this.session.tell("job");
      this.session.problem(error);
    }
  }

  async cancel() {
    const { current, session } = this;
    if (!current?.id) return;
    current.stopping = true;
    session.tell("job");
    try {
      await api.cancel(session.id, current.id);
    } catch (error) {
      if (error.status !== 404) session.problem(error); // 404: it ended meanwhile
    }
  }

  /** Whether events of a job are about ours: they may come before the answer that names it. */
  #ours(id) {
    return this.current !== null && (this.current.id === null || this.current.id === id);
  }

  progressed({ job, done, total }) {
    if (!this.#ours(job)) return;
    Object.assign(this.current, { id: job, done, total });
    this.session.tell("job");
  }

  changed(job) {
    if (going(job) || !this.#ours(job.id)) return;
    const { id, kind, status, message } = job;
    this.current = null;
    this.session.tell("job", { id, kind, status, message });
    if (status === "failed") this.session.problem(new Error(message));
    if (kind === "propagate") this.session.refresh();
  }
}
