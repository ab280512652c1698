// Long work of the server for a session, one at a time: tracking, everything-mode, exports. Other tabs start some too.
import * as api from "./api.js";

const going = ({ status }) => status === "queued" || status === "running";

export class Jobs {
  /** Tells the session's listeners `job` whenever something changed; with {id, kind, status, message, isOurs} when it ended. */
  constructor(session) {
    this.session = session;
    this.current = null; // {id (null until the server has named it), kind, done, total, follow, stopping, isOurs}
  }

  /** What the server says is going on, after a reload or a lost connection. */
  take(jobs = []) {
    const { current } = this;
    if (current?.id && !jobs.some(({ id }) => id === current.id)) this.current = null; // it ended while nobody listened
    const found = jobs.find(going);
    if (found && this.current === null) this.current = { ...found, follow: false, isOurs: false };
  }

  async start(kind, ask) {
    if (this.current) return;
    const current = { id: null, kind, done: 0, total: 0, follow: kind === "propagate", isOurs: true };
    this.current = current;
    this.session.tell("job");
    try {
      const { id } = await this.#send(kind, ask);
      current.id = id;
    } catch (error) {
      if (this.current === current) this.current = null;
      if (error.code === "busy") this.session.refresh(); // another tab has started something
      this.session.problem(error);
    }
    this.session.tell("job");
  }

  /** Comes after the edits that are under way. Tracking is one itself, and undo takes it back. */
  #send(kind, ask) {
    const { session } = this;
    return session.sync.edit(async (edit) => {
      if (kind === "export") return api.makeExport(session.id, ask); // of what has arrived
      if (kind === "everything") return api.everything(session.id, ask, edit);
      const before = session.history.now;
      session.history.note(edit.revision, session.isTracked);
      const job = await api.propagate(session.id, ask, edit);
      if (session.history.now === before) session.history.push(session.doc, "Track");
      session.tell("doc");
      return job;
    });
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
  #ours({ id, kind }) {
    const { current } = this;
    return current !== null && (current.id === id || (current.id === null && (!kind || current.kind === kind)));
  }

  progressed({ job, done, total }) {
    if (!this.#ours({ id: job })) return;
    Object.assign(this.current, { id: job, done, total });
    this.session.tell("job");
  }

  changed(job) {
    if (going(job)) {
      if (this.current === null) this.current = { ...job, follow: false, isOurs: false };
      this.session.tell("job");
      if (job.message) this.session.tell("said", job.message);
      return;
    }
    if (!this.#ours(job)) return;
    const { id, kind, status, message } = job;
    const { isOurs } = this.current;
    this.current = null;
    this.session.tell("job", { id, kind, status, message, isOurs });
    if (status === "failed" && isOurs) this.session.problem(new Error(message));
    if (kind === "propagate") this.session.refresh();
  }
}
