"""Long work: one step at a time in the worker thread, so that clicks are answered in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

from ..worker import ClosedError, Worker
from .edits import Edits
from .faults import FAILURES, describe, report
from .history import Edit
from .job import Job, Steps
from .schemas import ApiError, PropagateAsk
from .session import Session
from .session_store import Sessions

FORGOTTEN = "What was tracked before this frame is shown, but not remembered: tracking goes on from the prompts."
KEPT = 4  # finished jobs of a session whose state and file stay available


class Jobs:
    """Starts jobs and runs their steps."""

    def __init__(self, sessions: Sessions, worker: Worker) -> None:
        self._sessions = sessions
        self._worker = worker

    def require_room(self, session: Session) -> None:
        """Refuse a job where the session has one already, or the app as many as it may have."""
        if session.running:
            raise ApiError(409, "busy", "this session has a job already: wait for it, or cancel it")
        if sum(bool(other.running) for other in self._sessions.all()) >= self._sessions.limits.loaded:
            raise ApiError(409, "busy", f"{self._sessions.limits.loaded} jobs are at work already: wait, or cancel one")

    def start(
        self,
        session: Session,
        kind: Literal["propagate", "everything", "export"],
        steps: Callable[[Job], Steps],
        revision: int | None = None,
    ) -> Job:
        """Queue a job. ApiError as for ``require_room``."""
        self.require_room(session)
        job = Job(session, kind)
        job.revision = revision
        for old in list(session.jobs.values())[:-KEPT]:
            self._forget(old)
        session.jobs[job.id] = job
        work = self._work(job, steps)
        self._submit(job, work)
        return job

    def _forget(self, job: Job) -> None:
        """Forget a job that is over, and its file."""
        del job.session.jobs[job.id]
        if job.path is not None:
            self._sessions.give_disk(job.session, job.path.stat().st_size)
            job.path.unlink()

    def _submit(self, job: Job, work: Steps) -> None:
        self._worker.submit_always(self._step, job, work).add_done_callback(report)

    def _work(self, job: Job, steps: Callable[[Job], Steps]) -> Steps:
        """The steps, with the session held loaded around them."""
        with ExitStack() as stack:
            stack.enter_context(self._sessions.loaded(job.session))
            job.enter("running")
            yield
            yield from steps(job)

    def _step(self, job: Job, work: Steps) -> None:
        try:
            if job.stopped:
                work.close()
                job.enter("cancelled")
                return
            next(work)
        except StopIteration:
            job.enter("done")
        except FAILURES as error:
            cancelled = isinstance(error, ApiError) and error.code == "cancelled"
            job.enter("cancelled" if cancelled else "failed", "" if cancelled else describe(error))
        except BaseException:
            job.enter("failed", "a fault of the app; the terminal shows more")
            raise
        else:
            try:
                self._submit(job, work)
            except ClosedError:  # the app ends
                work.close()
                job.enter("cancelled")


def propagate_steps(
    edits: Edits, edit: Edit, ask: PropagateAsk, work_of: Callable[[Session, str | None], Any]
) -> Callable[[Job], Steps]:
    """Steps that track objects, a frame each. Their masks belong to an edit."""

    def steps(job: Job) -> Steps:
        session, frame = job.session, ask.frame
        work = work_of(session, ask.memory_policy)
        last = session.num_frames - 1 if ask.last is None else min(ask.last, session.num_frames - 1)
        ways = {"forward": [False], "backward": [True], "both": [False, True]}[ask.direction]
        beyond = {False: last - frame, True: frame - ask.first}  # frames after the first
        total = sum(beyond[reverse] + 1 for reverse in ways if beyond[reverse] or not reverse)
        job.progress(0, total)
        for reverse in ways:
            if reverse and not beyond[reverse]:
                continue
            for _ in work.recollect(frame, reverse, session.masks, ask.objects):
                yield
            if work.has_forgotten(frame, reverse, session.masks, ask.objects):
                job.enter("running", FORGOTTEN)
            given = session.masks, session.locks(), ask.objects
            for t, masks in work.propagate(frame, beyond[reverse], reverse, *given):
                live = edits.add_tracked(session, edit, t, masks)
                shown = {str(obj_id): mask.model_dump() for obj_id, mask in live.items()}
                session.hub.publish("frame", {"job": job.id, "frame": t, "masks": shown})
                job.progress(job.done + 1, total)
                yield

    return steps
