"""Long work: one step at a time in the worker thread, so that clicks are answered in between."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from ..worker import Worker
from .schemas import ApiError, JobState
from .session import Session
from .session_store import Sessions

KEPT = 4  # jobs of a session that are over and can still be asked about, or for their file

Steps = Generator[None, None, None]


class Job:
    """A job of a session. `done`, `total` and `file` are set by its steps."""

    def __init__(self, session: Session, kind: Literal["propagate", "everything", "export"]) -> None:
        self.id = secrets.token_urlsafe(9)
        self.session = session
        self.kind = kind
        self.status: Literal["queued", "running", "done", "cancelled", "failed"] = "queued"
        self.message = ""
        self.done, self.total = 0, 0
        self.file: str | None = None  # how the file is called when it leaves
        self.path: Path | None = None  # where it is
        self.media_type = "application/octet-stream"
        self.stopped = False
        self.watched = session.has_listeners

    @property
    def is_live(self) -> bool:
        return self.status in ("queued", "running")

    def state(self) -> JobState:
        return JobState(
            id=self.id,
            kind=self.kind,
            status=self.status,
            message=self.message,
            done=self.done,
            total=self.total,
            file=self.file if self.status == "done" else None,
        )

    def cancel(self) -> None:
        """End after the step in work."""
        self.stopped = True

    def check(self) -> None:
        """For steps that take long: raise an ApiError when the job is to end."""
        if self.stopped:
            raise ApiError(409, "cancelled", "cancelled")

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.session.hub.publish("progress", {"job": self.id, "done": done, "total": total})

    def enter(self, status: Literal["running", "done", "cancelled", "failed"], message: str = "") -> None:
        self.status, self.message = status, " ".join(message.split())
        self.session.hub.publish("job", self.state().model_dump())


# What a step may raise because of what it works on; anything else is a fault of the program.
FAILURES = (ApiError, ValueError, RuntimeError, ArithmeticError, OSError, MemoryError)


class Jobs:
    """Starts jobs and takes their steps."""

    def __init__(self, sessions: Sessions, worker: Worker) -> None:
        self._sessions = sessions
        self._worker = worker

    def start(
        self,
        session: Session,
        kind: Literal["propagate", "everything", "export"],
        steps: Callable[[Job], Steps],
    ) -> Job:
        """Queue a job.

        Raises:
            ApiError: the session has a job already, or the app as many as it may have.
        """
        if session.running:
            raise ApiError(409, "busy", "this session has a job already: wait for it, or cancel it")
        if sum(bool(other.running) for other in self._sessions.all()) >= self._sessions.limits.warm:
            raise ApiError(409, "busy", f"{self._sessions.limits.warm} jobs are at work already: wait, or cancel one")
        job = Job(session, kind)
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
        """The steps, with the session held warm around them."""
        with ExitStack() as stack:
            stack.enter_context(self._sessions.warm(job.session))
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
            self._submit(job, work)


def report(future: Future[Any]) -> None:
    """Tell the terminal about a fault of the program in something that nobody waits for."""
    if not future.cancelled() and (error := future.exception()) is not None:
        logging.getLogger("mlx_sam2.app").error("a fault of the app", exc_info=error)


def describe(error: BaseException) -> str:
    """One line, without paths of this machine."""
    if isinstance(error, OSError) and error.strerror:
        return f"the disk: {error.strerror}"
    return str(error) or type(error).__name__


def propagate_steps(sessions: Sessions, frame: int, direction: str, work_of: Callable[[Session], Any]) -> Any:
    """Steps that follow all objects: a frame each."""

    def steps(job: Job) -> Steps:
        session = job.session
        work = work_of(session)
        count = session.num_frames
        ways = {"forward": [False], "backward": [True], "both": [False, True]}[direction]
        total = sum((frame + 1 if frame else 0) if reverse else count - frame for reverse in ways)
        job.progress(0, total)
        for reverse in ways:
            for t, masks in work.propagate(frame, reverse):
                live = {obj_id: mask for obj_id, mask in masks.items() if obj_id in session.objects}
                for obj_id, mask in live.items():
                    sessions.store(session, obj_id, t, mask)
                shown = {str(obj_id): mask.model_dump() for obj_id, mask in live.items()}
                session.hub.publish("frame", {"job": job.id, "frame": t, "masks": shown})
                job.progress(job.done + 1, total)
                yield

    return steps
